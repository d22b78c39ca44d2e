"""The pictures of the report: scores as bars, whom the routers ask (the paper's Figure 3), and training curves."""
import json
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

COLORS = ["#8c8c8c", "#2f6fb0", "#e08a1e", "#3a9a5b", "#a05bb0", "#c94f4f", "#5bb5c4", "#8a6d3b"]


def canvas(n_panels, width, height, **kwargs):
    """A figure with n_panels side by side, the y axis shared; returns it and a list of axes."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(1, n_panels, sharey=True, squeeze=False, **kwargs)[0]
    return figure, list(axes)


def legend_below(figure, axis):
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)), frameon=False)


def save(figure, path):
    figure.savefig(path, dpi=130)


def accuracy(results, path):
    """A panel for each domain, a bar for each model; results as in results.json."""
    domains = list(next(iter(results.values()))["accuracy"])
    figure, axes = canvas(len(domains), 2.3 * len(domains), 3.2)
    for axis, domain in zip(axes, domains, strict=True):
        values = [100 * r["accuracy"][domain] for r in results.values()]
        bars = axis.bar(list(results), values, color=[COLORS[i % len(COLORS)] for i in range(len(values))])
        axis.bar_label(bars, fmt="%.0f", fontsize=7)
        axis.set(title=domain, ylim=(0, 105))
        axis.tick_params(axis="x", rotation=90)
    axes[0].set_ylabel("accuracy, %")
    save(figure, path)


def routing(loads, path):
    """For each MoE a row of panels, one for each domain of text: the experts' shares of the gates, layer by layer.

    loads: {model: {"experts": names, "share": {domain: (n_layer, N) nested list}}}.
    """
    if not loads:
        return
    n_domains = len(next(iter(loads.values()))["share"])
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(2.1 * n_domains, 0.5 + 2.3 * len(loads)), layout="constrained")
        grid = figure.subplots(len(loads), n_domains, sharex=True, sharey=True, squeeze=False)
    for row, (model, load) in zip(grid, loads.items(), strict=True):
        for axis, (domain, share) in zip(row, load["share"].items(), strict=True):
            bottom = [0.0] * len(share)
            for i, expert in enumerate(load["experts"]):
                part = [100 * layer[i] for layer in share]
                axis.bar(range(1, len(share) + 1), part, bottom=bottom, color=COLORS[i % len(COLORS)], label=expert, width=0.8)
                bottom = [b + p for b, p in zip(bottom, part, strict=True)]
            axis.set(title=f"{domain} text", xticks=range(1, len(share) + 1))
        row[0].set_ylabel(f"{model}\nshare of the gates, %")
    for axis in grid[-1]:
        axis.set_xlabel("layer")
    legend_below(figure, grid[0][0])
    save(figure, path)


def read_log(checkpoint_path):
    """The lines that training wrote beside a checkpoint; [] if there are none."""
    path = Path(checkpoint_path).with_suffix(".jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def curves(logs, order, domains, path):
    """Validation loss by domain against the tokens on the way to a model; logs: {model: (checkpoint, lines of its log)}.

    A branch begins where its seed ended, and finetuning where the branches ended. `order` names all models of the report, so
    that each has the colour here that it has among the bars.
    """
    logs = {name: (c, lines) for name, (c, lines) in logs.items() if lines}
    if not logs:
        return
    figure, axes = canvas(len(domains), 2.4 * len(domains), 3.0)
    for axis, domain in zip(axes, domains, strict=True):
        for name, (c, lines) in logs.items():
            before = sum(entry["tokens"] for entry in c["lineage"][:-1])
            points = [((before + line["tokens"]) / 1e6, line["val_loss"][domain]) for line in lines if domain in line["val_loss"]]
            axis.plot(*zip(*points, strict=True), label=name, color=COLORS[order.index(name) % len(COLORS)], marker=".")
        axis.set(title=domain, xlabel="training tokens, millions", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axes[0].set(ylabel="validation loss, nats per token", yticks=(0.3, 0.5, 1, 2, 4))
    legend_below(figure, axes[0])
    save(figure, path)

"""The pictures of the reports. Each function draws one and writes it to `path`.

`results` and `loads` are "models" and "routing" of results.json.
"""
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cli import replacing
from support.explore import COLORS

matplotlib.rcParams.update({"axes.prop_cycle": matplotlib.cycler(color=COLORS), "axes.spines.top": False,  # C0, C1 ...
                            "axes.spines.right": False, "font.size": 9, "legend.frameon": False, "savefig.dpi": 130})


def make_panels(n_rows, n_columns, width, height):
    """A figure with rows of panels, each width x height inches. Returns it and the panels, (n_rows, n_columns)."""
    figure = Figure(figsize=(width * n_columns + 1, height * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)


def save(figure, rows, ylabels, path):
    """Label the rows of panels, explain their colours to the right, and write the figure."""
    for row, ylabel in zip(rows, ylabels, strict=True):
        row[0].set_ylabel(ylabel)
        handles, labels = row[0].get_legend_handles_labels()
        if labels:
            row[-1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1, 1))
    with replacing(path) as part:
        figure.savefig(part, format="png")


def draw_bars(columns, path, ylabel, top, fmt):
    """A panel for each domain with a bar for each model. columns: {domain: {model: value}}."""
    figure, [panels] = make_panels(1, len(columns), 2.5, 3.6)
    for panel, (domain, values) in zip(panels, columns.items(), strict=True):
        bars = panel.bar(list(values), list(values.values()), color=COLORS)
        panel.bar_label(bars, fmt=fmt, fontsize=7)
        panel.set(title=domain, ylim=(0, top))
        panel.tick_params(axis="x", rotation=90)
    save(figure, [panels], [ylabel], path)


def accuracy(results, path):
    """Accuracy by domain and model."""
    domains = next(iter(results.values()))["accuracy"]
    columns = {d: {name: 100 * result["accuracy"][d] for name, result in results.items()} for d in domains}
    draw_bars(columns, path, "accuracy, %", 105, "%.0f")


def normalised(scores, domains, path):
    """Accuracy divided by the best model's (the paper's Figure 2, right). scores: {model: accuracies by domain}."""
    best = np.max(list(scores.values()), axis=0)
    columns = {d: {name: row[i] / (best[i] or 1) for name, row in scores.items()} for i, d in enumerate(domains)}
    draw_bars(columns, path, "accuracy / best model's", 1.1, "%.2f")


def routing(loads, path):
    """Each expert's share of the gates by layer: a row for each MoE, a panel for each domain (Figures 3, 4 and 6)."""
    figure, rows = make_panels(len(loads), len(next(iter(loads.values()))["share"]), 2.1, 2.5)
    for panels, load in zip(rows, loads.values(), strict=True):
        for panel, (domain, share) in zip(panels, load["share"].items(), strict=True):
            percent = 100 * np.array(share).T / np.sum(share, axis=1)  # (N, n_layer); Switch's gates do not sum to 1
            for i, expert in enumerate(load["experts"]):
                panel.bar(range(1, len(share) + 1), percent[i], bottom=percent[:i].sum(0), label=expert)
            panel.set(title=f"{domain} text", xlabel="layer")
            panel.locator_params(axis="x", integer=True)
    save(figure, rows, [f"{model}\nshare of the gates, %" for model in loads], path)


def probabilities(loads, path):
    """How each expert's router probability is distributed over tokens, by layer; the mean over domains (Figure 5)."""
    means = [np.mean(list(load["probs"].values()), axis=0) for load in loads.values()]  # (n_layer, N, BINS) each
    figure, rows = make_panels(len(loads), len(means[0]), 2.8, 2.3)
    for panels, load, mean in zip(rows, loads.values(), means, strict=True):
        for layer, panel in enumerate(panels):
            for expert, share in zip(load["experts"], mean[layer], strict=True):
                panel.stairs(100 * share, np.linspace(0, 1, len(share) + 1), label=expert)
            panel.set(title=f"layer {layer + 1}", xlabel="router probability", yscale="log", ylim=(0.05, 100))
    save(figure, rows, [f"{model}\ntokens, %" for model in loads], path)


def draw_lines(lines_of, order, **settings):
    """A panel for each title with a line for each name: the mean of the runs, and their range.

    lines_of: {title: {name: [(x, y or the runs' ys)]}}; order: the names in the order of the colours.
    """
    figure, [panels] = make_panels(1, len(lines_of), 2.8, 2.6)
    for panel, (title, named) in zip(panels, lines_of.items(), strict=True):
        for name, points in named.items():
            xs, color = [x for x, _ in points], f"C{order.index(name)}"
            panel.plot(xs, [np.mean(y) for _, y in points], marker=".", color=color, label=name)
            panel.vlines(xs, [np.min(y) for _, y in points], [np.max(y) for _, y in points], color=color)
        panel.set(title=title, **settings)
        panel.minorticks_off()
    return figure, panels


def curves(checkpoints, order, domains, path):
    """Validation loss by domain against the training tokens of a model and its parents.

    checkpoints: by name. order: all models of the report, so that each has the colour that it has among the bars.
    """
    lines_of = {domain: {} for domain in domains}
    for name, checkpoint in checkpoints.items():
        before = sum(entry["tokens"] for entry in checkpoint["ledger"][:-1])
        for line in checkpoint["log"]:
            for domain in lines_of.keys() & line["val_loss"].keys():
                point = (before + line["tokens"]) / 1e6, line["val_loss"][domain]
                lines_of[domain].setdefault(name, []).append(point)
    figure, panels = draw_lines(lines_of, order, xlabel="training tokens, millions", yscale="log",
                                yticks=(0.3, 0.5, 1, 2, 4), yticklabels=("0.3", "0.5", "1", "2", "4"))
    save(figure, [panels], ["validation loss, nats per token"], path)


def lines(panels, path):
    """The loss on the way from the seed (0) to other weights (1). panels: {title: {end: [(place, loss)]}}."""
    order = ["seed", *next(iter(panels.values()))]
    figure, drawn = draw_lines(panels, order, xlabel="0: the seed, 1: the end of the line", ylim=(0, 3))
    save(figure, [drawn], ["loss, nats per token"], path)


def averaging(runs, epsilons, domains, path):
    """Mean loss in some domains by averaged group of tensors: a panel for each router, a bar for each epsilon.

    runs: for each seed {epsilon: {group: {router: {domain: loss}}}}, see experiments/averaging.py; a line is the range.
    """
    figure, [panels] = make_panels(1, 2, 4.2, 3.2)
    for panel, router in zip(panels, ("oracle", "random"), strict=True):
        groups = [group for group, losses in runs[0][epsilons[0]].items() if router in losses]
        for i, epsilon in enumerate(epsilons):
            losses = [[np.mean([run[epsilon][group][router][d] for d in domains]) for run in runs] for group in groups]
            places = np.arange(len(groups)) + 0.27 * (i - 1)
            panel.bar(places, np.mean(losses, axis=1), width=0.27, label=epsilon.replace("-", " = ", 1))
            panel.vlines(places, np.min(losses, axis=1), np.max(losses, axis=1), color="black", lw=0.8)
        panel.set(title=f"{router} router", xticks=range(len(groups)), xticklabels=groups)
        panel.tick_params(axis="x", rotation=30)
    save(figure, [panels], ["loss of math, code and wiki"], path)


def forgetting(stages, experts, path):
    """Accuracy by domain from stage to stage: a line for each method, and the initials of the single experts.

    stages: {method: {domain: for each stage the accuracies of the runs, or None}}; experts: {domain: {expert: mean}}.
    """
    lines_of = {domain: {} for domain in experts}
    for method, scores in stages.items():
        for domain, named in lines_of.items():
            named[method] = [(i, 100 * np.array(runs)) for i, runs in enumerate(scores[domain]) if runs]
    figure, panels = draw_lines(lines_of, ["seed", *stages], ylim=(-3, 103), xticks=range(4),
                                xticklabels=("seed", "phase 1", "mixed", "end"))
    for panel, means in zip(panels, experts.values(), strict=True):
        for i, (expert, mean) in enumerate(means.items()):  # side by side, or equal means would hide each other
            panel.text(1.25 + 0.25 * i, 100 * mean, expert[0], ha="center", va="center", color="C1", weight="bold")
    save(figure, [panels], ["accuracy, %"], path)


def compute(points, path, top):
    """Mean accuracy against training compute; a circle's area shows the active parameters (Figure 2, left).

    points: {model: (FLOPs, accuracies of the runs, active parameters)}; a line is the runs' range. top: drawn last.
    """
    figure, [[panel]] = make_panels(1, 1, 7, 4.6)
    for i, (name, (flops, scores, active)) in enumerate(points.items()):
        style = {"color": f"C{i}", "zorder": len(points) if name == top else i}
        marker = "o"
        if i >= len(COLORS):
            marker = "s"  # the colours begin again
        panel.vlines(flops / 1e12, 100 * min(scores), 100 * max(scores), **style)
        panel.scatter(flops / 1e12, 100 * np.mean(scores), active / 3000, marker=marker, alpha=0.8, label=name, **style)
    panel.set_xlabel("training compute since the seed, TFLOP")
    save(figure, [[panel]], ["mean accuracy, %"], path)


def coloured_text(groups, names, path, columns=100):
    """Text on the colours of the experts that wrote it (the paper's Table 6).

    groups: lists of rows (title, [(piece, expert)]), with a gap between the lists. expert: an index of names, or None.
    """
    figure = Figure()
    panel = figure.add_axes((0, 0, 1, 1))
    groups = [*groups, [("", [(f" {name} ", i) for i, name in enumerate(names)])]]
    left = 2 + max(len(title) for rows in groups for title, _ in rows)
    y = 0
    for rows in groups:
        for title, pieces in rows:
            panel.text(0, y, title, family="monospace", va="center")
            x = left
            for piece, expert in pieces:
                if x + len(piece) > columns:
                    x, y = left, y + 1
                if expert is not None:
                    panel.barh(y, len(piece), left=x, height=0.9, color=f"C{expert}", alpha=0.5)
                panel.text(x, y, piece.replace("\n", "⏎"), family="monospace", va="center")
                x += len(piece)
                if "\n" in piece:
                    x, y = left, y + 1
            y += 1
        y += 1
    panel.set(xlim=(-1, columns + 2), ylim=(y, -1))
    panel.axis("off")
    figure.set_size_inches(0.0753 * (columns + 3), 0.22 * (y + 1))  # a letter of 9 points is 0.0753 inches wide
    save(figure, [], [], path)

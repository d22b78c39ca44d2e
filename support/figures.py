"""The pictures of the report: scores as bars, which experts the routers choose (the paper's Figure 3), training curves."""
from itertools import cycle

import matplotlib
from matplotlib.figure import Figure
from matplotlib.text import Text

from support.explore import COLORS
from support.files import write_whole


def grid_canvas(n_rows, n_columns, width, height, sharex=True):
    """A figure with rows of panels, the axes shared; returns it and the rows, lists of axes."""
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(n_rows, n_columns, sharex=sharex, sharey=True, squeeze=False).tolist()


def canvas(n_panels, width, height):
    """A figure with n_panels side by side, the y axis shared; returns it and a list of axes."""
    figure, (axes,) = grid_canvas(1, n_panels, width, height, sharex=False)
    return figure, axes


def legend_below(figure):
    """What the colours mean in all panels."""
    handles = {label: handle for axis in figure.axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=min(8, len(handles)), frameon=False)


def legend_beside(row):
    """What they mean in one row of panels."""
    row[-1].legend(loc="upper left", bbox_to_anchor=(1, 1), ncols=1 + len(row[-1].get_legend_handles_labels()[1]) // 12,
                   fontsize=8, frameon=False)


def label(name):
    """A name for a legend, which would leave out one that begins with _."""
    return f" {name}"


def save(figure, path):
    for text in figure.findobj(Text):  # a name with $ in it is no formula
        text.set_parse_math(False)
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=130))


def bars(panels, path, ylabel, top, fmt):
    """A panel for each domain, a bar for each model; panels: {domain: {model: value}}."""
    figure, axes = canvas(len(panels), 2.5 * len(panels), 3.6)
    for axis, (domain, values) in zip(axes, panels.items(), strict=True):
        drawn = axis.bar(list(values), list(values.values()), color=[COLORS[i % len(COLORS)] for i in range(len(values))])
        axis.bar_label(drawn, fmt=fmt, fontsize=7)
        axis.set(title=domain, ylim=(0, top))
        axis.tick_params(axis="x", rotation=90)
    axes[0].set_ylabel(ylabel)
    save(figure, path)


def accuracy(results, path):
    """Accuracy by domain and model; results as in results.json."""
    domains = list(next(iter(results.values()))["accuracy"])
    if not domains:  # none has tasks
        return
    bars({d: {name: 100 * r["accuracy"][d] for name, r in results.items()} for d in domains}, path, "accuracy, %", 105, "%.0f")


def routing(loads, path):
    """For each MoE a row of panels, one for each domain of text: the experts' shares of the gates, layer by layer.

    loads: {model: {"experts": names, "share": {domain: (n_layer, N) nested list}}}.
    """
    if not loads:
        return
    n_domains = len(next(iter(loads.values()))["share"])
    figure, grid = grid_canvas(len(loads), n_domains, 2.1 * n_domains, 0.5 + 2.3 * len(loads))
    for row, (model, load) in zip(grid, loads.items(), strict=True):
        for axis, (domain, share) in zip(row, load["share"].items(), strict=True):
            bottom = [0.0] * len(share)
            for i, expert in enumerate(load["experts"]):
                part = [100 * layer[i] / sum(layer) for layer in share]  # Switch's gates do not sum to 1
                axis.bar(range(1, len(share) + 1), part, bottom=bottom, color=COLORS[i % len(COLORS)], width=0.8,
                         label=label(expert))
                bottom = [b + p for b, p in zip(bottom, part, strict=True)]
            axis.set(title=f"{domain} text", xticks=range(1, len(share) + 1, 1 + len(share) // 12))
        row[0].set_ylabel(f"{model}\nshare of the gates, %")
        legend_beside(row)
    for axis in grid[-1]:
        axis.set_xlabel("layer")
    save(figure, path)


def curves(checkpoints, order, domains, path):
    """Validation loss by domain against the tokens on the way to a model; checkpoints by name.

    A branch begins where its seed ended, and finetuning where the branches ended. `order` names all models of the report, so
    that each has the colour here that it has among the bars.
    """
    trained = {name: c for name, c in checkpoints.items() if c["log"]}
    if not trained:
        return
    figure, axes = canvas(len(domains), 2.4 * len(domains), 3.0)
    for axis, domain in zip(axes, domains, strict=True):
        for name, c in trained.items():
            before = sum(entry["tokens"] for entry in c["lineage"][:-1])
            points = [((before + line["tokens"]) / 1e6, line["val_loss"][domain]) for line in c["log"]
                      if domain in line["val_loss"]]
            axis.plot(*zip(*points, strict=True), label=label(name), color=COLORS[order.index(name) % len(COLORS)], marker=".")
        axis.set(title=domain, xlabel="training tokens, all stages, millions", yscale="log")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axes[0].set(ylabel="validation loss, nats per token", yticks=(0.3, 0.5, 1, 2, 4))
    legend_below(figure)
    save(figure, path)


def compute(points, path, top):
    """Mean accuracy against training FLOPs, a circle for each model, its area the active parameters (the paper's Figure 2).

    points: {model: (FLOPs, accuracies of the runs, active parameters)}; the bars are the runs' range. top: the
    model that is drawn over the others.
    """
    figure, (axis,) = canvas(1, 7.5, 4.6)
    for i, (name, (flops, scores, active)) in enumerate(points.items()):
        middle, color = 100 * sum(scores) / len(scores), COLORS[i % len(COLORS)]
        order = len(points) if name == top else i
        axis.plot([flops / 1e12] * 2, [100 * min(scores), 100 * max(scores)], color=color, linewidth=1, zorder=order)
        axis.scatter(flops / 1e12, middle, zorder=order, s=active / 3000, color=color, alpha=0.75, edgecolors="white",
                     marker="o" if i < len(COLORS) else "s", label=name)
    axis.set(xlabel="training compute since the seed, TFLOP", ylabel="mean accuracy, %")
    axis.margins(0.1)
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8, markerscale=0.7)
    save(figure, path)


def normalised(scores, domains, path):
    """Each model's accuracy in each domain over the best model's (the paper's Figure 2, right); {model: accuracies}."""
    columns = {d: {name: row[i] for name, row in scores.items()} for i, d in enumerate(domains)}
    best = {d: max(column.values()) or 1.0 for d, column in columns.items()}
    bars({d: {name: v / best[d] for name, v in column.items()} for d, column in columns.items()}, path,
         "accuracy / best model's", 1.1, "%.2f")


def probabilities(routings, path):
    """How each expert's probability is distributed over tokens, a panel for each layer, a row for each model (Figure 5).

    routings: {model: {"experts", "probs": {domain: (n_layer, N, bins)}}}; all domains together.
    """
    n_layer = len(next(iter(next(iter(routings.values()))["probs"].values())))
    figure, grid = grid_canvas(len(routings), n_layer, 2.8 * n_layer, 0.5 + 2.1 * len(routings))
    for row, (model, routing) in zip(grid, routings.items(), strict=True):
        domains = list(routing["probs"].values())
        for layer, axis in enumerate(row):
            for i, expert in enumerate(routing["experts"]):
                n_bins = len(domains[0][layer][i])
                share = [100 * sum(d[layer][i][b] for d in domains) / len(domains) for b in range(n_bins)]
                axis.stairs(share, [b / n_bins for b in range(n_bins + 1)], color=COLORS[i % len(COLORS)],
                            label=label(expert))
            axis.set(title=f"layer {layer + 1}", yscale="log", ylim=(0.05, 100))
            axis.yaxis.set_major_formatter("{x:g}")
        row[0].set_ylabel(f"{model}\ntokens, %", fontsize=8)
        legend_beside(row)
    for axis in grid[-1]:
        axis.set_xlabel("router probability")
    save(figure, path)


def coloured_text(rows, names, path, columns=100):
    """Text on the colours of the experts that wrote it (the paper's Table 6); rows: {title: [(piece of text, expert)]}."""
    lines = []  # (row, column, text, expert), expert None for titles
    n = 0
    for title, pieces in rows.items():
        lines.append((n, 0, title, None))
        column = 9
        for text, expert in pieces:
            for part in text.replace("\n", "⏎\n").splitlines(keepends=True):
                if column + len(part) > columns:
                    n, column = n + 1, 9
                lines.append((n, column, part.rstrip("\n"), expert))
                column += len(part.rstrip("\n"))
                if part.endswith("\n"):
                    n, column = n + 1, 9
        n += 2
    figure = Figure(figsize=(columns * 0.088, 0.27 * (n + 1)))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(-1, columns + 2), ylim=(n + 0.8, -0.8))
    axis.axis("off")
    for row, column, text, expert in [*lines, *((n, 9 + 12 * i, f" {name} ", i) for i, name in enumerate(names))]:
        if expert is not None:
            axis.barh(row, len(text), left=column, height=0.86, color=COLORS[expert % len(COLORS)])
        axis.text(column, row, text, family="monospace", fontsize=9.5, va="center", color="black" if expert is None else "white")
    save(figure, path)


def forgetting(stages, experts, path):
    """Each domain's accuracy from stage to stage: a panel for each domain, a line for each method, dots for the single experts.

    stages: {method: {domain: [accuracies of the runs, or None] of seed, phase 1, mixed, end}}; experts: {domain: {expert: mean}}.
    """
    figure, axes = canvas(len(experts), 2.5 * len(experts), 3.2)
    for axis, (domain, dots) in zip(axes, experts.items(), strict=True):
        for color, (method, values) in zip(cycle(COLORS[1:]), stages.items()):  # noqa: B905 (as many colours as needed)
            points = [(x, [100 * v for v in runs]) for x, runs in enumerate(values[domain]) if runs]
            axis.plot([x for x, _ in points], [sum(v) / len(v) for _, v in points], marker="o", color=color, label=method)
            for x, v in points:
                axis.plot([x, x], [min(v), max(v)], color=color, linewidth=1)
        for name, value in dots.items():
            axis.annotate(name[0], (1, 100 * value), ha="center", va="center", fontsize=8, color=COLORS[1], weight="bold")
        axis.set(title=domain, ylim=(-3, 103), xlim=(-0.3, 3.3))
        axis.set_xticks(range(4), ["seed", "phase 1", "mixed", "end"], rotation=45)
    axes[0].set_ylabel("accuracy, %")
    legend_below(figure)
    save(figure, path)


def lines(panels, path):
    """The loss on the way from the seed (0) to other weights (1); panels: {title: {end: [(place, loss)]}}."""
    figure, axes = canvas(len(panels), 4.2 * len(panels), 3.2)
    for axis, (title, ends) in zip(axes, panels.items(), strict=True):
        for color, (name, points) in zip(cycle(COLORS[1:]), ends.items()):  # noqa: B905 (as many colours as needed)
            axis.plot(*zip(*points, strict=True), color=color, label=name)
        axis.set(title=f"loss on {title}", xlabel="0: the seed, 1: the end of the line", ylim=(0, 3))
        axis.axvline(0, color="#cccccc", linewidth=1)
        axis.axvline(1, color="#cccccc", linewidth=1)
    axes[0].set_ylabel("nats per token")
    legend_below(figure)
    save(figure, path)


def scatter(points, labels, path):
    """One dot for each run: {name of the colour: [(x, y)]}; labels: of the two axes."""
    figure, (axis,) = canvas(1, 5.6, 4.0)
    for color, (name, dots) in zip(cycle(COLORS[1:]), points.items()):  # noqa: B905 (as many colours as needed)
        axis.scatter(*zip(*dots, strict=True), color=color, label=name)
    axis.axhline(0, color="#cccccc", linewidth=1)
    axis.axvline(0, color="#cccccc", linewidth=1)
    axis.set(xlabel=labels[0], ylabel=labels[1])
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)

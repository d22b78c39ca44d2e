"""The pictures of the reports. Each function draws one and writes it to `path`."""
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from data.common import replacing
from support.explore import COLORS

matplotlib.rcParams.update({"axes.prop_cycle": matplotlib.cycler(color=COLORS), "axes.spines.top": False,
                            "axes.spines.right": False, "font.size": 9, "legend.frameon": False, "savefig.dpi": 130})


def make_panels(n_rows, n_columns, width, height):
    """A figure with rows of panels of width x height inches. Returns it and the panels, (n_rows, n_columns)."""
    figure = Figure(figsize=(width * n_columns, height * n_rows + 0.5), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)


def save(figure, rows, ylabels, path):
    """Label the rows of panels, explain the colours beside them, and write the figure."""
    for row, ylabel in zip(rows, ylabels, strict=True):
        row[0].set_ylabel(ylabel)
        if row[0].get_legend_handles_labels()[1]:
            row[-1].legend(*row[0].get_legend_handles_labels(), loc="upper left", bbox_to_anchor=(1, 1))
    with replacing(path) as part:
        figure.savefig(part, format="png")


def draw_bars(columns, path, ylabel, top, fmt):
    """A panel for each domain with a bar for each model. columns: {domain: {model: value}}."""
    figure, [panels] = make_panels(1, len(columns), 2.5, 3.1)
    for panel, (domain, values) in zip(panels, columns.items(), strict=True):
        drawn = panel.bar(list(values), list(values.values()), color=COLORS)
        panel.bar_label(drawn, fmt=fmt, fontsize=7)
        panel.set(title=domain, ylim=(0, top))
        panel.tick_params(axis="x", rotation=90)
    save(figure, [panels], [ylabel], path)


def accuracy(results, path):
    """Accuracy by domain and model. results: "models" of results.json."""
    domains = next(iter(results.values()))["accuracy"]
    columns = {d: {name: 100 * result["accuracy"][d] for name, result in results.items()} for d in domains}
    draw_bars(columns, path, "accuracy, %", 105, "%.0f")


def normalised(scores, domains, path):
    """Accuracy divided by the best model's (the paper's Figure 2, right). scores: {model: accuracies by domain}."""
    best = np.max(list(scores.values()), axis=0)
    columns = {d: {name: row[i] / (best[i] or 1) for name, row in scores.items()} for i, d in enumerate(domains)}
    draw_bars(columns, path, "accuracy / best model's", 1.1, "%.2f")


def routing(loads, path):
    """Each expert's share of the gates by layer: a row for each MoE, a panel for each domain (Figures 3, 4 and 6).

    loads: {model: {"experts": names, "share": {domain: (n_layer, N)}}}.
    """
    n_domains = len(next(iter(loads.values()))["share"])
    figure, rows = make_panels(len(loads), n_domains, 2.1, 2.3)
    for panels, load in zip(rows, loads.values(), strict=True):
        for panel, (domain, share) in zip(panels, load["share"].items(), strict=True):
            percent = 100 * np.array(share).T / np.sum(share, axis=1)  # (N, n_layer); Switch's gates do not sum to 1
            layers = np.arange(1, len(share) + 1)
            for i, expert in enumerate(load["experts"]):
                panel.bar(layers, percent[i], bottom=percent[:i].sum(0), label=expert)
            panel.set(title=f"{domain} text", xlabel="layer", xticks=layers[::1 + len(layers) // 12])
    save(figure, rows, [f"{model}\nshare of the gates, %" for model in loads], path)


def probabilities(loads, path):
    """How the router probability of each expert is distributed over the tokens of all domains, by layer (Figure 5).

    loads: {model: {"experts": names, "probs": {domain: (n_layer, N, bins)}}}.
    """
    means = [np.mean(list(load["probs"].values()), axis=0) for load in loads.values()]  # (n_layer, N, bins) each
    figure, rows = make_panels(len(loads), len(means[0]), 2.8, 2.1)
    for panels, load, mean in zip(rows, loads.values(), means, strict=True):
        for layer, panel in enumerate(panels):
            for expert, share in zip(load["experts"], mean[layer], strict=True):
                panel.stairs(100 * share, np.linspace(0, 1, len(share) + 1), label=expert)
            panel.set(title=f"layer {layer + 1}", xlabel="router probability", yscale="log", ylim=(0.05, 100))
    save(figure, rows, [f"{model}\ntokens, %" for model in loads], path)


def draw_lines(points_of, colors, path, ylabel, **settings):
    """A panel for each title with a line for each name. points_of: {title: {name: [(x, y)]}}; colors: by name."""
    figure, [panels] = make_panels(1, len(points_of), 3.0, 2.5)
    for panel, (title, lines_of) in zip(panels, points_of.items(), strict=True):
        for name, points in lines_of.items():
            panel.plot(*np.transpose(points), marker=".", color=colors[name], label=name)
        panel.set(title=title, **settings)
        panel.minorticks_off()
    save(figure, [panels], [ylabel], path)


def curves(checkpoints, order, domains, path):
    """Validation loss by domain against the training tokens of a model and its parents. checkpoints: by name.

    order: the names of all models of the report, so that a model has the same colour as among the bars.
    """
    points_of = {domain: {} for domain in domains}
    for name, checkpoint in checkpoints.items():
        before = sum(entry["tokens"] for entry in checkpoint["lineage"][:-1])
        for domain in domains if checkpoint["log"] else []:
            points_of[domain][name] = [((before + line["tokens"]) / 1e6, line["val_loss"].get(domain, np.nan))
                                       for line in checkpoint["log"]]
    colors = {name: COLORS[i % len(COLORS)] for i, name in enumerate(order)}
    draw_lines(points_of, colors, path, "validation loss, nats per token", xlabel="training tokens, millions",
               yscale="log", yticks=(0.3, 0.5, 1, 2, 4), yticklabels=("0.3", "0.5", "1", "2", "4"))


def lines(panels, path):
    """The loss on the way from the seed (0) to other weights (1). panels: {title: {end: [(place, loss)]}}."""
    ends = next(iter(panels.values()))
    colors = dict(zip(ends, COLORS[1:], strict=False))
    draw_lines(panels, colors, path, "loss, nats per token", xlabel="0: the seed, 1: the end of the line", ylim=(0, 3))


def forgetting(stages, experts, path):
    """Accuracy by domain from stage to stage: a line for each method, and the initials of the single experts.

    stages: {method: {domain: for each stage the accuracies of the runs, or None}}; experts: {domain: {expert: mean}}.
    """
    figure, [panels] = make_panels(1, len(experts), 2.5, 2.7)
    for panel, (domain, means) in zip(panels, experts.items(), strict=True):
        for (method, scores_of), color in zip(stages.items(), COLORS[1:], strict=False):
            runs = {stage: 100 * np.array(scores) for stage, scores in enumerate(scores_of[domain]) if scores}
            panel.plot(list(runs), [scores.mean() for scores in runs.values()], "o-", color=color, label=method)
            for stage, scores in runs.items():
                panel.plot([stage, stage], [scores.min(), scores.max()], linewidth=1, color=color)
        for expert, mean in means.items():
            panel.text(1, 100 * mean, expert[0], ha="center", va="center", color=COLORS[1], weight="bold")
        panel.set(title=domain, ylim=(-3, 103))
        panel.set_xticks(range(4), ["seed", "phase 1", "mixed", "end"], rotation=45)
    save(figure, [panels], ["accuracy, %"], path)


def compute(points, path, top):
    """Mean accuracy against training compute; a circle's area shows the active parameters (Figure 2, left).

    points: {model: (FLOPs, accuracies of the runs, active parameters)}; a line is the runs' range. top: drawn last.
    """
    figure, [[panel]] = make_panels(1, 1, 7.5, 4.1)
    for i, (name, (flops, scores, active)) in enumerate(points.items()):
        style = {"color": COLORS[i % len(COLORS)], "zorder": 99 if name == top else i}
        panel.plot([flops / 1e12] * 2, [100 * min(scores), 100 * max(scores)], linewidth=1, **style)
        panel.scatter(flops / 1e12, 100 * np.mean(scores), s=active / 3000, alpha=0.75, label=name, **style)
    panel.set_xlabel("training compute since the seed, TFLOP")
    save(figure, [[panel]], ["mean accuracy, %"], path)


def coloured_text(rows, names, path, columns=100):
    """Text on the colours of the experts that wrote it (the paper's Table 6). rows: {title: [(piece, expert)]}."""
    figure = Figure()
    panel = figure.add_axes((0, 0, 1, 1))
    font = {"family": "monospace", "fontsize": 9.5, "va": "center"}
    legend = [(f" {name} ", expert) for expert, name in enumerate(names)]
    y = 0
    for title, pieces in [*rows.items(), ("", legend)]:
        panel.text(0, y, title, **font)
        x = 9
        for piece, expert in pieces:
            if x + len(piece) > columns:
                x, y = 9, y + 1
            panel.barh(y, len(piece), left=x, height=0.86, color=COLORS[expert % len(COLORS)])
            panel.text(x, y, piece.replace("\n", "⏎"), color="white", **font)
            x += len(piece)
            if "\n" in piece:
                x, y = 9, y + 1
        y += 2
    panel.set(xlim=(-1, columns + 2), ylim=(y, -1))
    panel.axis("off")
    figure.set_size_inches(0.088 * columns, 0.27 * (y + 1))
    save(figure, [], [], path)

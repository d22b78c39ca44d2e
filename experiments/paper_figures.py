"""The figures of the paper's report that evaluate.py does not draw. Each function draws one and writes it to `path`."""
import numpy as np

from support.explore import COLORS
from support.figures import draw_bars, draw_lines, make_panels, save


def normalised(scores, domains, path):
    """Accuracy divided by the best model's (the paper's Figure 2, right). scores: {model: accuracies by domain}."""
    best = np.max(list(scores.values()), axis=0)
    columns = {d: {name: row[i] / (best[i] or 1) for name, row in scores.items()} for i, d in enumerate(domains)}
    draw_bars(columns, path, "accuracy / best model's", 1.1, "%.2f")


def compute(points, path, top):
    """Mean accuracy against training compute (Figure 2, left). A circle's area shows the active parameters.

    points: {model: (FLOPs, accuracies of the runs, active parameters)}. A line is the range of the runs. The model
    called `top` is drawn last.
    """
    figure, [[panel]] = make_panels(1, 1, 7, 4.6)
    for i, (name, (flops, scores, active)) in enumerate(points.items()):
        style = {"color": f"C{i}", "zorder": len(points) if name == top else i}
        marker = "o" if i < len(COLORS) else "s"  # the colours begin again
        panel.vlines(flops / 1e12, 100 * min(scores), 100 * max(scores), **style)
        panel.scatter(flops / 1e12, 100 * np.mean(scores), active / 3000, marker=marker, alpha=0.8, label=name, **style)
    panel.set_xlabel("training compute since the seed, TFLOP")
    save(figure, [[panel]], ["mean accuracy, %"], path)


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


def basin(panels, path):
    """The loss on the way from the seed (0) to other weights (1). panels: {title: {end: [(place, loss)]}}."""
    order = ["seed", *next(iter(panels.values()))]
    figure, drawn = draw_lines(panels, order, xlabel="0: the seed, 1: the end of the line", ylim=(0, 3))
    save(figure, [drawn], ["loss, nats per token"], path)


def averaging(runs, epsilons, domains, path):
    """Mean loss in some domains by averaged group of tensors: a panel for each reader, a bar for each epsilon.

    runs: for each seed {epsilon: {group: {reader: {domain: loss}}}}, see experiments/averaging.py; a line is the range.
    """
    titles = {"whole": "home expert, whole", "oracle": "oracle", "random": "random router"}
    figure, [panels] = make_panels(1, 3, 3.6, 3.2)
    groups = list(runs[0][epsilons[0]])
    for panel, (reader, title) in zip(panels, titles.items(), strict=True):
        for i, epsilon in enumerate(epsilons):
            losses = []  # (n_groups, n_runs)
            for group in groups:
                losses.append([np.mean([run[epsilon][group][reader][d] for d in domains]) for run in runs])
            places = np.arange(len(groups)) + 0.27 * (i - 1)
            panel.bar(places, np.mean(losses, axis=1), width=0.27, label=epsilon.replace("-", " = ", 1))
            panel.vlines(places, np.min(losses, axis=1), np.max(losses, axis=1), color="black", lw=0.8)
        panel.set(title=title, xticks=range(len(groups)), xticklabels=groups)
        panel.tick_params(axis="x", rotation=30)
    save(figure, [panels], ["loss of math, code and wiki"], path)


def forgetting(paths, experts, path):
    """Accuracy by domain on a method's way to its model: a line for each method, the initials of the single experts.

    paths: {method: {domain: at each of four points the accuracies of the runs, or None}}; experts: {domain: {expert:
    mean accuracy}}.
    """
    lines_of = {domain: {} for domain in experts}
    for method, scores in paths.items():
        for domain, lines in lines_of.items():
            lines[method] = [(i, 100 * np.array(runs)) for i, runs in enumerate(scores[domain]) if runs]
    figure, panels = draw_lines(lines_of, ["seed", *paths], ylim=(-3, 103), xticks=range(4),
                                xticklabels=("seed", "phase 1", "mixed", "end"))
    for panel, means in zip(panels, experts.values(), strict=True):
        for i, (expert, mean) in enumerate(means.items()):  # side by side, or equal means would hide each other
            panel.text(1.25 + 0.25 * i, 100 * mean, expert[0], ha="center", va="center", color="C1", weight="bold")
    save(figure, [panels], ["accuracy, %"], path)

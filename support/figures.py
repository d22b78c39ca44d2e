"""The pictures of the reports. Each function draws one and writes it to `path`.

`results` and `routing` are "models" and "routing" of results.json.
"""
from cli import replacing

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from support.colors import COLORS

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


def accuracy(results, path):
    """A panel for each domain with the accuracy of each model."""
    domains = next(iter(results.values()))["accuracy"]
    figure, [panels] = make_panels(1, len(domains), 2.5, 3.6)
    for panel, domain in zip(panels, domains, strict=True):
        bars = panel.bar(list(results), [100 * result["accuracy"][domain] for result in results.values()], color=COLORS)
        panel.bar_label(bars, fmt="%.0f", fontsize=7)
        panel.set(title=domain, ylim=(0, 105))
        panel.tick_params(axis="x", rotation=90)
    save(figure, [panels], ["accuracy, %"], path)


def draw_routing(routing, path):
    """Each expert's load by layer: a row for each MoE, a panel for each domain (Figures 3, 4 and 6)."""
    figure, rows = make_panels(len(routing), len(next(iter(routing.values()))["share"]), 2.1, 2.5)
    for panels, of_model in zip(rows, routing.values(), strict=True):
        for panel, (domain, load) in zip(panels, of_model["share"].items(), strict=True):  # (n_layer, N) mean gates
            percent = 100 * np.array(load).T / np.sum(load, axis=1)  # (N, n_layer); Switch's gates do not sum to 1
            for i, expert in enumerate(of_model["experts"]):
                panel.bar(range(1, len(load) + 1), percent[i], bottom=percent[:i].sum(0), label=expert)
            panel.set(title=f"{domain} text", xlabel="layer")
            panel.locator_params(axis="x", integer=True)
    save(figure, rows, [f"{model}\nload, %" for model in routing], path)


def curves(checkpoints, order, domains, path):
    """Validation loss by domain against the training tokens of a model and its parents.

    checkpoints: by name. order: all models of the report, so that each has the colour that it has among the bars.
    """
    figure, [panels] = make_panels(1, len(domains), 2.8, 2.6)
    for panel, domain in zip(panels, domains, strict=True):
        for name, checkpoint in checkpoints.items():
            before = sum(entry["tokens"] for entry in checkpoint["ledger"][:-1])
            lines = [line for line in checkpoint["log"] if domain in line["val_loss"]]
            if not lines:
                continue  # such as an average: it was not trained
            millions = [(before + line["tokens"]) / 1e6 for line in lines]
            losses = [line["val_loss"][domain] for line in lines]
            panel.plot(millions, losses, marker=".", color=f"C{order.index(name)}", label=name)
        panel.set(title=domain, xlabel="training tokens, millions", yscale="log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        panel.yaxis.set_major_formatter("{x:g}")
        panel.minorticks_off()
    save(figure, [panels], ["validation loss, nats per token"], path)

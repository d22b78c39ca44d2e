"""The picture of the report, and what all pictures share. `routing` is the part "routing" of results.json."""
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from cli import replacing
from support.colors import color_domains

matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9,
                            "axes.titlesize": "medium", "legend.frameon": False, "savefig.dpi": 130})


def make_panels(n_rows, n_columns, width, height):
    """A figure of panels, each width x height inches. Returns the figure and the panels, (n_rows, n_columns)."""
    figure = Figure(figsize=(width * n_columns + 1, height * n_rows), layout="constrained")
    return figure, figure.subplots(n_rows, n_columns, sharey=True, squeeze=False)


def save(figure, rows, ylabels, path):
    """Label the rows of panels, put the legend on the right, and write the figure."""
    for row, ylabel in zip(rows, ylabels, strict=True):
        row[0].set_ylabel(ylabel)
        handles, labels = row[0].get_legend_handles_labels()
        if labels:
            row[-1].legend(handles, labels, loc="upper left", bbox_to_anchor=(1, 1))
    with replacing(path) as part:
        figure.savefig(part, format="png")


def label_rivals(panel, title, names, **limits):
    """Prepare a panel that shows BTX minus its rivals: a row for each name, from above, and a line at 0."""
    panel.axvline(0, color="black", lw=0.8)
    panel.set(title=title, xlabel="← rival solves more, points     BTX solves more →", yticks=range(len(names)),
              yticklabels=names, ylim=(len(names) - 0.5, -0.5), **limits)
    panel.grid(axis="x", lw=0.3)


def draw_routing(routing, path):
    """Draw each expert's load by layer: a row for each MoE, and a panel for each domain (Figures 3, 4 and 6)."""
    figure, rows = make_panels(len(routing), len(next(iter(routing.values()))["share"]), 1.6, 2.1)
    for panels, of_model in zip(rows, routing.values(), strict=True):
        colors = color_domains(of_model["experts"])
        for panel, (domain, load) in zip(panels, of_model["share"].items(), strict=True):  # (n_layer, N) mean gates
            percent = 100 * np.array(load).T / np.sum(load, axis=1)  # (N, n_layer); Switch's gates do not sum to 1
            for i, expert in enumerate(of_model["experts"]):
                panel.bar(range(1, len(load) + 1), percent[i], bottom=percent[:i].sum(0), color=colors[expert],
                          label=expert)
            text = "changing" if domain == "switch" else domain
            panel.set(title=f"{text} text", xlabel="layer")
            panel.locator_params(axis="x", integer=True)
    save(figure, rows, [f"{model}\nload, %" for model in routing], path)

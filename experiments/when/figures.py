"""The pictures of this folder's page and of the README's part on a pretrained seed."""
from statistics import mean

from experiments.runs import differences, half_interval, having, scores
from support.colors import METHODS
from support.figures import make_panels, save

LENGTHS = (48, 192, 770, 1540)
# The lines of levels.png: {method: (model that is not finetuned, prefix of the finetuned ones)}
LEVELS = {"BTX from text": ("ridge_mixed", "text"), "BTX": ("btx_mixed", "random"), "average": ("average", "average")}
LABELS = {"BTX from text": "BTX, routers from text", "BTX": "BTX as in the paper",
          "average": "the average (small dots: training seeds)",
          "BTM": "BTM that restarts at each\nend of text: keeps all models"}


def draw_gap(panel, runs, pair, x, **style):
    """Draw the difference of two models: its mean over training seeds, and the 95 % interval of the paired t-test."""
    gaps = [100 * gap for gap in differences(runs, pair, "all")]
    panel.errorbar(x, mean(gaps), half_interval(gaps), ls="", lw=1, ms=6, **style)
    return mean(gaps)


def draw_gaps(runs, path):
    """BTX − average in the small models: a panel for each start of the routers, a line for each length of branches."""
    figure, [panels] = make_panels(1, 2, 3.7, 3.3)
    titles = {"random": ("BTX", "random routers, as in the paper"), "text": ("BTX from text", "routers from text")}
    for panel, (routers, (method, title)) in zip(panels, titles.items(), strict=True):
        color = METHODS[method]
        for branches, shift, marker, line in ((275, 0.92, "s", ":"), (1100, 1, "o", "--"), (2200, 1.08, "^", "-")):
            at = [n * shift for n in LENGTHS]  # so that the intervals do not hide each other
            means = [draw_gap(panel, runs, f"{branches}/{routers}_{n} − {branches}/average_{n}", x, color=color,
                              marker=marker) for n, x in zip(LENGTHS, at, strict=True)]
            panel.plot(at, means, line, color=color)
            if routers == "text":  # the legend is in this panel, in black, for both
                panel.plot([], [], line, marker=marker, color="black", label=f"branches of {branches:,} steps")
            if routers == "random":
                draw_gap(panel, runs, f"{branches}at1e-3/random_1540 − {branches}/average_1540", at[-1] * 1.18,
                         color=color, marker=marker, mfc="white")
            if routers == "text" and branches == 275:
                draw_gap(panel, runs, "275at1e-3text/text_1540 − 275/average_1540", at[-1] * 1.32, color=color,
                         marker=marker, mfc="white")
        panel.axhline(0, color="black", lw=0.8)
        panel.set(title=title, xlabel="steps of finetuning", xscale="log", xlim=(38, 2500), ylim=(-14, 26))
        panel.set_xticks(LENGTHS, LENGTHS)
        panel.minorticks_off()
    panels[1].plot([], [], "o", color="black", mfc="white", label="open marks: BTX at the average's rate")
    panels[1].legend(loc="lower left")
    panels[0].set_ylabel("points: ← average solves more   BTX more →")
    save(figure, [], [], path)


def draw_levels(runs, path):
    """Solved tasks from the pretrained seed against finetuning. Small marks are training seeds."""
    figure, [panels] = make_panels(1, 2, 3.9, 3.3)
    for panel, branches in zip(panels, (100, 400), strict=True):
        for i, (method, (mixed, name)) in enumerate(LEVELS.items()):
            x = [place + 0.06 * (i - 1) for place in range(3)]  # so that the lines do not hide each other
            models = [f"{branches}/{mixed}", f"{branches}/{name}_53", f"{branches}/{name}_212"]
            percent = [[100 * score for score in scores(runs, model, "home")] for model in models]
            panel.plot(x, percent, ".", color=METHODS[method], ms=4)
            panel.plot(x, [mean(of_seeds) for of_seeds in percent], "o-", color=METHODS[method], ms=7,
                       label=LABELS[method])
        btm = 100 * mean(scores(runs, f"{branches}/btm_document_top1", "home"))
        panel.axhline(btm, color=METHODS["BTM"], ls="--", label=LABELS["BTM"])
        panel.set(title=f"branches of {branches} steps", ylim=(0, 103), xlim=(-0.25, 2.25))
        panel.set_xticks(range(3), ["not finetuned", "53 steps", "212 steps"])
    handles, labels = panels[0].get_legend_handles_labels()
    panels[1].legend(handles, labels, loc="lower right")
    panels[0].set_ylabel("solved in math, code and wiki, %")
    save(figure, [], [], path)


def draw(pools, out):
    """Draw both pictures from the runs."""
    draw_gaps(having(pools[0], "2200/average", "1100/average", "275/average"), out / "when.png")
    draw_levels(having(pools[0], "100/average", "400/average"), out / "levels.png")

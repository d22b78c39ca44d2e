"""The first picture of this folder's page, from the numbers of tables.md, whose runs are at the commit in README.md.

    python -m experiments.when.figures
"""
import re
from pathlib import Path

from support.colors import METHODS
from support.figures import make_panels, save

FOLDER = Path(__file__).parent
STEPS = ["48", "192", "770", "1,540", "1,540,\nsame rate"]
PANELS = {"random routers, as in the paper": "BTX", "routers from text": "BTX from text"}  # {title: method}
BRANCHES = {"275": ("s", ":", -0.17), "1100": ("o", "--", 0.0), "2200": ("^", "-", 0.17)}  # (mark, line, shift)
SAME_RATE = {  # {(title, steps of the branches): the row with BTX at the average's rate minus the average}
    ("random routers, as in the paper", "275"): "275at1e-3/random_1540 − 275/average_1540",
    ("random routers, as in the paper", "1100"): "1100at1e-3/random_1540 − 1100/average_1540",
    ("random routers, as in the paper", "2200"): "2200 steps, BTX from random routers at 1e-3 − the average",
    ("routers from text", "275"): "275 steps, BTX from text at 1e-3 − the average"}


def read_row(page, name):
    """The differences in the first row of this name, each as (mean, half its interval)."""
    row = re.search(rf"(?m)^\| {re.escape(name)} +\|(.*)", page)[1]
    return [(float(mean), float(half)) for mean, half in re.findall(r"([+-][\d.]+) ± ([\d.]+)", row)]


def draw(_, out):
    """Draw BTX − average: a panel for each start of the routers, a line for each length of branches."""
    page = (FOLDER / "tables.md").read_text(encoding="utf-8")
    figure, [panels] = make_panels(1, 2, 4.1, 3.4)
    for panel, (title, method) in zip(panels, PANELS.items(), strict=True):
        color = METHODS[method]
        for branches, (mark, line, shift) in BRANCHES.items():
            means, halves = zip(*read_row(page, f"branches of {branches} steps, {title}"), strict=True)
            x = [i + shift for i in range(len(means))]
            panel.plot(x, means, line, marker=mark, color=color, label=f"branches of {int(branches):,} steps")
            panel.errorbar(x, means, halves, ls="", lw=1, color=color)
            if row := SAME_RATE.get((title, branches)):
                mean, half = read_row(page, row)[0]
                panel.errorbar(4 + shift, mean, half, ls="", lw=0.5, color=color, alpha=0.4)
                panel.plot(4 + shift, mean, mark, color=color, mfc="white")
        panel.axhline(0, color="black", lw=0.8)
        panel.set(title=title, xlabel="steps of finetuning", ylim=(-14, 26))
        panel.set_xticks(range(len(STEPS)), STEPS)
    panels[0].set_ylabel("points: ← average solves more   BTX more →")
    panels[0].plot([], [], "s", color="black", mfc="white", label="open: BTX at the average's rate")
    panels[0].legend(loc="upper right")
    save(figure, [], [], out / "when.png")


if __name__ == "__main__":
    draw(None, FOLDER)

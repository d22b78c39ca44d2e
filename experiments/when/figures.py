"""The picture of this folder's page."""
from statistics import mean

from experiments.runs import differences, having
from support.figures import make_panels, save

NAMES = {"random": "random routers", "text": "routers from text"}  # for the legend of the first panel
ROUTERS = {"random": "random routers, as in the paper", "text": "routers from text, ours"}


def draw_line(panel, runs, branches, routers, lengths, column, **style):
    """Draw BTX − average against the steps of finetuning. Small marks are training seeds.

    A dotted line marks the paper's share of finetuning, 15 % of all tokens.
    """
    gaps = []  # for each length, a list over training seeds
    for n in lengths:
        found = differences(runs, f"{branches}/{routers}_{n} − {branches}/average_{n}", column)
        gaps.append([100 * gap for gap in found])
    panel.plot(lengths, gaps, ".", color=style["color"], ms=3)
    panel.plot(lengths, [mean(of_seeds) for of_seeds in gaps], marker="o", ms=5, **style)
    panel.axvline(3 * branches * 15 / 85, color=style["color"], lw=0.8, ls=":")


def draw(pools, out):
    """Draw a panel for each start of the routers, and one for the pretrained seed when its runs are there."""
    small = having(pools[0], "2200/average", "1100/average", "275/average")
    pretrained = having(pools[0], "100/average", "400/average")
    figure, [panels] = make_panels(1, 3 if pretrained else 2, 3.6, 3.4)
    for panel, (routers, title) in zip(panels, ROUTERS.items(), strict=False):
        for i, branches in enumerate((275, 1100, 2200)):
            draw_line(panel, small, branches, routers, (48, 192, 770, 1540), "all",
                      color=f"C{i}", label=f"branches of {branches:,} steps")
        panel.set(title=title)
    for i, branches in enumerate((100, 400) if pretrained else (), 3):
        for routers, line in (("random", "-"), ("text", "--")):
            draw_line(panels[2], pretrained, branches, routers, (53, 212), "home", color=f"C{i}", ls=line)
            panels[0].plot([], [], color=f"C{i}", ls=line, label=f"branches of {branches} steps, {NAMES[routers]}")
        panels[2].set(title="pretrained seed: math, code, wiki")
    for panel, lengths in zip(panels, ((48, 192, 770, 1540), (48, 192, 770, 1540), (53, 212)), strict=False):
        panel.axhline(0, color="black", lw=0.8)
        panel.set(xlabel="steps of finetuning", xscale="log")
        panel.set_xticks(lengths, lengths)
        panel.minorticks_off()
    save(figure, [panels], ["BTX − average, points"], out / "when.png")

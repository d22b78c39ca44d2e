"""The picture of this folder's page."""
from statistics import mean

from experiments.runs import differences, having
from support.figures import make_panels, save

ROUTERS = {"random": "random routers, as in the paper", "text": "routers from text, ours"}


def draw_line(panel, runs, branches, routers, lengths, column, shift, **style):
    """Draw BTX − average against the steps of finetuning. Small marks are training seeds.

    The marks stand at `shift` times their steps, so that the lines of a panel do not hide each other. A dotted line
    marks the paper's share of finetuning, 15 % of all tokens.
    """
    x = [n * shift for n in lengths]
    gaps = []  # for each length, a list over training seeds
    for n in lengths:
        found = differences(runs, f"{branches}/{routers}_{n} − {branches}/average_{n}", column)
        gaps.append([100 * gap for gap in found])
    panel.plot(x, gaps, ".", color=style["color"], ms=3)
    panel.plot(x, [mean(of_seeds) for of_seeds in gaps], marker="o", ms=5, **style)
    panel.axvline(3 * branches * 15 / 85, color=style["color"], lw=0.8, ls=":")


def label(panel, title, lengths):
    """Give a panel its title, its axis and the line of equal scores."""
    panel.axhline(0, color="black", lw=0.8)
    panel.set(title=title, xlabel="steps of finetuning", xscale="log")
    panel.set_xticks(lengths, lengths)
    panel.minorticks_off()


def draw(pools, out):
    """Draw a panel for each start of the routers, and one for the pretrained seed."""
    small = having(pools[0], "2200/average", "1100/average", "275/average")
    pretrained = having(pools[0], "100/average", "400/average")
    figure, [panels] = make_panels(1, 3, 3.6, 3.4)
    for panel, (routers, title) in zip(panels, ROUTERS.items(), strict=False):
        for i, (branches, shift) in enumerate(((275, 0.94), (1100, 1), (2200, 1.06))):
            draw_line(panel, small, branches, routers, (48, 192, 770, 1540), "all", shift,
                      color=f"C{i}", label=f"branches of {branches:,} steps")
        label(panel, title, (48, 192, 770, 1540))
    for branches, color, shift in ((100, "C3", 0.97), (400, "C4", 1.03)):
        for routers, line, name in (("random", "-", "random routers"), ("text", "--", "routers from text")):
            draw_line(panels[2], pretrained, branches, routers, (53, 212), "home", shift, color=color, ls=line)
            # the legend is made from the first panel
            panels[0].plot([], [], color=color, ls=line, label=f"branches of {branches} steps, {name}")
    label(panels[2], "pretrained seed: math, code, wiki", (53, 212))
    save(figure, [panels], ["BTX − average, points"], out / "when.png")

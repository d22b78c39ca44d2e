"""The picture of this folder's page."""
from statistics import mean

from experiments.runs import differences, having
from support.figures import make_panels, save

ROUTERS = {"random": "random routers, as in the paper", "text": "routers from text, ours"}
LENGTHS = (48, 192, 770, 1540)  # steps of finetuning


def draw(pools, out):
    """Draw BTX − average against the length of finetuning, a panel for each start of the routers.

    Small marks are training seeds. A dotted line marks the paper's share of finetuning, 15 % of all tokens.
    """
    runs = having(pools[0], "2200/average", "1100/average", "275/average")  # the small models
    figure, [panels] = make_panels(1, 2, 3.8, 3.4)
    for panel, (routers, title) in zip(panels, ROUTERS.items(), strict=True):
        for i, branches in enumerate((275, 1100, 2200)):
            gaps = []  # of each length, those of all training seeds
            for n in LENGTHS:
                found = differences(runs, f"{branches}/{routers}_{n} − {branches}/average_{n}", "all")
                gaps.append([100 * gap for gap in found])
            panel.plot(LENGTHS, gaps, ".", color=f"C{i}", ms=3)
            panel.plot(LENGTHS, [mean(of_seeds) for of_seeds in gaps], "o-", color=f"C{i}", ms=5,
                       label=f"branches of {branches:,} steps")
            panel.axvline(3 * branches * 15 / 85, color=f"C{i}", lw=0.8, ls=":")
        panel.axhline(0, color="black", lw=0.8)
        panel.set(title=title, xlabel="steps of finetuning", xscale="log")
        panel.set_xticks(LENGTHS, LENGTHS)
        panel.minorticks_off()
    save(figure, [panels], ["BTX − average, points"], out / "when.png")

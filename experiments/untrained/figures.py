"""The picture of this folder's page."""
from experiments.runs import having, scores
from support.colors import METHODS
from support.figures import make_panels, save

BRANCHES = {"100": ("pretrained seed, branches of 100 steps", "o"),
            "1100": ("small models, branches of 1,100 steps", "^")}


def draw(pools, out):
    """Draw what the mixture solves at home, without finetuning, against what the plain average solves."""
    figure, [[panel]] = make_panels(1, 1, 4, 3.2)
    for branches, (label, marker) in BRANCHES.items():
        runs = having(pools[0], f"{branches}/average", f"{branches}/ridge_mixed")
        x, y = ([100 * score for score in scores(runs, f"{branches}/{name}", "home")]
                for name in ("average", "ridge_mixed"))
        panel.plot(x, y, marker, label=label, color=METHODS["BTX from text"], mfc="white" if marker == "^" else None)
    panel.plot([0, 100], [0, 100], color="black", lw=0.8, label="as much as the average")
    panel.set(xlim=(0, 100), ylim=(0, 100), xlabel="the plain average solves at home, %")
    save(figure, [[panel]], ["the sharp mixture solves at home, %"], out / "untrained.png")

"""The picture of this folder's page."""
from statistics import mean

from experiments.runs import EXPERTS, having, measure
from support.colors import METHODS
from support.figures import make_panels, save

BRANCHES = {"100": ("pretrained seed, branches of 100 steps", "o"),
            "400": ("pretrained seed, branches of 400 steps", "s"),
            "1100": ("small models, branches of 1,100 steps", "^")}


def kept(run, branches, name):
    """What a model solves at home, as a share of what the branches solve, each in its own domain."""
    own = mean(measure(run, f"{branches}/{domain}", domain) for domain in EXPERTS)
    return measure(run, f"{branches}/{name}", "home") / own


def draw(pools, out):
    """Draw what the mixture keeps of its branches, without finetuning, against what the plain average keeps."""
    figure, [[panel]] = make_panels(1, 1, 4, 3.2)
    for branches, (label, marker) in BRANCHES.items():
        found = having(pools[0], f"{branches}/ridge_mixed", f"{branches}/wiki")
        x, y = ([100 * kept(run, branches, name) for run in found] for name in ("average", "ridge_mixed"))
        panel.plot(x, y, marker, label=label, color=METHODS["BTX from text"], mfc="white" if marker == "^" else None)
    panel.axhline(75, color="black", lw=0.8, ls=":")
    panel.set(xlim=(0, 103), ylim=(0, 103), xlabel="the plain average keeps, % of what its branches solve")
    save(figure, [[panel]], ["the sharp mixture keeps, %"], out / "kept.png")

"""The pictures of this folder's page."""
from statistics import mean

from experiments.runs import EXPERTS, having, measure
from support.colors import METHODS
from support.figures import make_panels, save

# The rows of untrained.png, from above: {name: (method, model)}
MODELS = {"seed": ("seed", "seed"), "plain average": ("average", "average"),
          "task arithmetic": ("task arithmetic", "task"), "mixture,\nrandom routers": ("BTX", "btx_mixed"),
          "mixture,\nflat routers from text": ("BTX from text", "flat_mixed"),
          "mixture,\nsharp routers from text": ("BTX from text", "ridge_mixed"),
          "BTM that restarts:\nkeeps all models": ("BTM", "btm_document_top1")}
BRANCHES = {"100": ("pretrained seed, branches of 100 steps", "o"),
            "400": ("pretrained seed, branches of 400 steps", "s"),
            "1100": ("small models, branches of 1,100 steps", "^")}


def kept(run, branches, name):
    """What a model solves at home, as a share of what the branches solve, each in its own domain."""
    own = mean(measure(run, f"{branches}/{domain}", domain) for domain in EXPERTS)
    return measure(run, f"{branches}/{name}", "home") / own


def draw_solved(runs, path):
    """Solved at home and where the text changes, without finetuning. Small dots are training seeds."""
    shown = [b for b in BRANCHES if having(runs, f"{b}/seed")]
    figure, [panels] = make_panels(1, len(shown), 2.9, 3.6)
    for panel, branches in zip(panels, shown, strict=True):
        for row, (method, name) in enumerate(MODELS.values()):
            model = f"{branches}/{name}"
            of_model = having(runs, model)
            for column, shift, inside in (("home", -0.12, METHODS[method]), ("switch", 0.12, "white")):
                percent = [100 * measure(run, model, column) for run in of_model]
                panel.plot(percent, [row + shift] * len(percent), ".", ms=3, color=METHODS[method])
                if percent:
                    panel.plot(mean(percent), row + shift, "o", color=METHODS[method], mfc=inside)
        panel.set(title=BRANCHES[branches][0].replace(", ", ",\n"), xlim=(-3, 103), xlabel="solved, %",
                  yticks=range(len(MODELS)), yticklabels=MODELS, ylim=(len(MODELS) - 0.5, -0.5))
        panel.grid(axis="x", lw=0.3)
    for label, inside in (("math, code and wiki", "black"), ("changing text", "white")):
        panels[-1].plot([], [], "o", color="black", mfc=inside, label=label)
    save(figure, [panels], [""], path)


def draw_kept(runs, path):
    """What the mixture keeps of its branches, without finetuning, against what the plain average keeps."""
    figure, [[panel]] = make_panels(1, 1, 4, 3.2)
    for branches, (label, marker) in BRANCHES.items():
        found = having(runs, f"{branches}/ridge_mixed", f"{branches}/wiki")
        x, y = ([100 * kept(run, branches, name) for run in found] for name in ("average", "ridge_mixed"))
        panel.plot(x, y, marker, label=label, color=METHODS["BTX from text"], mfc="white" if marker == "^" else None)
    panel.axhline(75, color="black", lw=0.8, ls=":")
    panel.set(xlim=(0, 103), ylim=(0, 103), xlabel="the plain average keeps, % of what its branches solve")
    save(figure, [[panel]], ["the sharp mixture keeps, %"], path)


def draw(pools, out):
    """Draw both pictures from the runs."""
    draw_solved(pools[0], out / "untrained.png")
    draw_kept(pools[0], out / "kept.png")

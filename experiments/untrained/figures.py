"""The pictures of this folder's page."""
from statistics import mean

from experiments.runs import EXPERTS, having, scores
from support.colors import METHODS
from support.figures import make_panels, save

BRANCHES = {"100": ("pretrained seed,\nbranches of 100 steps", "o"),
            "400": ("pretrained seed,\nbranches of 400 steps", "s"),
            "1100": ("small models,\nbranches of 1,100 steps", "^")}
OPTIONS = {  # {model: (its row, its color)}
    "seed": ("seed", "seed"), "average": ("plain average", "average"), "task": ("task arithmetic", "average"),
    "hidden_mixed": ("mixture, mean inputs", "BTX from text"), "flat_mixed": ("mixture, flat rows", "BTX from text"),
    "ridge_mixed": ("mixture, sharp rows", "BTX from text"), "dume_mixed": ("mixture, sharpness 256", "BTX from text"),
    "btm_document_top1": ("BTM: all four models", "BTM"), "random_53": ("the paper's BTX, 53 steps", "BTX"),
    "average_53": ("average, FLOPs of 53 steps", "average"), "flat_53": ("BTX, flat rows, 53 steps", "BTX from text"),
    "sharp_53": ("BTX, sharp rows, 53 steps", "BTX from text"), "random_212": ("the paper's BTX, 212 steps", "BTX"),
    "average_212": ("average, FLOPs of 212 steps", "average"),
    "sharp_212": ("BTX, sharp rows, 212 steps", "BTX from text"),
    "dense_212": ("Dense, FLOPs of 212 steps", "Dense in one phase")}


def draw(pools, out):
    """Draw what each option solves, and which share of their branches' solved tasks mixtures keep untrained."""
    draw_options(having(pools[0], *(f"100/{name}" for name in OPTIONS)), out / "options.png")
    draw_kept(pools[0], out / "kept.png")


def draw_options(runs, path):
    """Branches of 100 steps of the pretrained seed: a row for each option, a point for each training seed."""
    figure, [panels] = make_panels(1, 2, 2.6, 2.8)
    for panel, column, title in zip(panels, ("home", "capital"), ("math, code and wiki", "real capitals"), strict=True):
        for y, (name, (_, color)) in enumerate(OPTIONS.items()):
            x = [100 * score for score in scores(runs, f"100/{name}", column)]
            panel.plot(x, [y] * len(x), "o", ms=3, color=METHODS[color])
            panel.plot(mean(x), y, "|", ms=14, color=METHODS[color])
        panel.set(title=title, xlabel="solved, %", xlim=(0, 100), ylim=(len(OPTIONS) - 0.5, -0.5),
                  yticks=range(len(OPTIONS)), yticklabels=[label for label, _ in OPTIONS.values()])
        panel.grid(axis="x", lw=0.3)
        panel.axhline(list(OPTIONS).index("random_53") - 0.5, color="black", lw=0.8)  # finetuned below
    save(figure, [panels], [""], path)


def draw_kept(runs, path):
    """The share of its branches' solved tasks that the sharp mixture keeps, against that of the plain average."""
    figure, [[panel]] = make_panels(1, 1, 4, 3.2)
    for branches, (label, marker) in BRANCHES.items():
        alike = having(runs, *(f"{branches}/{name}" for name in (*EXPERTS, "average", "ridge_mixed")))
        x = [100 * share for share in scores(alike, f"{branches}/average", "kept")]
        y = [100 * share for share in scores(alike, f"{branches}/ridge_mixed", "kept")]
        panel.plot(x, y, marker, label=label, color=METHODS["BTX from text"], mfc="white")
    panel.plot([0, 100], [0, 100], color="black", lw=0.8, label="equal")
    panel.set(xlim=(0, 100), ylim=(0, 100), xlabel="solved by the plain average,\n% of what the branches solve")
    save(figure, [[panel]], ["solved by the sharp mixture,\n% of what the branches solve"], path)

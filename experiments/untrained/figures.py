"""The pictures of this folder's page. README.md has the first."""
from statistics import mean

from experiments.runs import having, scores
from support.colors import METHODS
from support.figures import make_panels, save

# {its row: (its method, its models)}; of two models, the first is finetuned for 53 steps, the other for 212
OPTIONS = {
    "seed": ("seed", ["seed"]),
    "plain average": ("average", ["average"]),
    "task arithmetic": ("task arithmetic", ["task"]),
    "mixture, random routers": ("BTX", ["btx_mixed"]),
    "mixture, mean inputs as rows": ("BTX from text", ["hidden_mixed"]),
    "mixture, flat rows": ("BTX from text", ["flat_mixed"]),
    "mixture, sharp rows": ("BTX from text", ["ridge_mixed"]),
    "mixture, sharpness 256": ("BTX from text", ["dume_mixed"]),
    "BTM: keeps all models": ("BTM", ["btm_document_top1"]),
    "the paper's BTX": ("BTX", ["random_53", "random_212"]),
    "the average": ("average", ["average_53", "average_212"]),
    "BTX from flat rows": ("BTX from text", ["flat_53", "flat_212"]),
    "BTX from sharp rows": ("BTX from text", ["sharp_53", "sharp_212"]),
    "Dense": ("Dense in one phase", ["dense_212"])}
MAIN = ["seed", "plain average", "mixture, random routers", "mixture, sharp rows", "BTM: keeps all models",
        "the paper's BTX", "the average", "BTX from sharp rows"]


def draw(pools, out):
    """Draw what each option solves, from branches of 100 steps of the pretrained seed: the main options, and all."""
    runs = having(pools[0], *(f"100/{model}" for _, models in OPTIONS.values() for model in models))
    draw_options(runs, MAIN, out / "options.png")
    draw_options(runs, [*OPTIONS], out / "all_options.png")


def draw_options(runs, rows, path):
    """A row for each option: points are training seeds, bars their means. Below the line, models are finetuned."""
    figure, [panels] = make_panels(1, 2, 2.8, 0.8 + 0.24 * len(rows))
    for panel, column, title in zip(panels, ("home", "capital"), ("math, code and wiki", "real capitals"), strict=True):
        for y, row in enumerate(rows):
            method, models = OPTIONS[row]
            for model in models:
                steps = model.rpartition("_")[2]
                x = [100 * score for score in scores(runs, f"100/{model}", column)]
                height = y + {"53": -0.18, "212": 0.18}.get(steps, 0)
                inside = "white" if steps == "53" else METHODS[method]
                panel.plot(x, [height] * len(x), "o", ms=4, color=METHODS[method], mfc=inside)
                panel.plot(mean(x), height, "|", ms=8, color=METHODS[method])
        panel.set(title=title, xlabel="solved, %", xlim=(0, 100), ylim=(len(rows) - 0.5, -0.5),
                  yticks=range(len(rows)), yticklabels=rows)
        panel.grid(axis="x", lw=0.3)
        panel.axhline(rows.index("the paper's BTX") - 0.5, color="black", lw=0.8)
    for steps, inside in ((53, "white"), (212, "black")):
        panels[0].plot([], [], "o", ms=4, color="black", mfc=inside, label=f"{steps} steps")
    panels[0].legend(loc="lower left", title="finetuned for")
    save(figure, [], [], path)

"""The picture of this folder's page."""
from statistics import mean

from experiments.runs import having, scores
from support.colors import METHODS
from support.figures import make_panels, save

ROWS = {"alone": "the question alone", "words": "six foreign words before it", "text": "a foreign text before it",
        "ended": "the same, with an end of text", "toll_math": "a fact in arithmetic",
        "story_code": "arithmetic in code"}
MODELS = {  # {name in the figure: (model, method, mark)}
    "BTM by Bayes": ("btm_bayes_top1", "BTM", "x"), "BTM with a fixed share": ("btm_share_top4", "BTM", "o"),
    "BTX, random routers": ("random_770_5", "BTX", "o"), "BTX, sharp rows": ("sharp_770_5", "BTX from text", "o"),
    "average, finetuned": ("average_770_5", "average", "o"), "Dense": ("dense_770_5", "Dense in one phase", "o")}


def draw(pools, out):
    """Draw what the small models solve, by prompt: a point for the mean over training seeds."""
    runs = having(pools[0], *(f"small/{model}" for model, _, _ in MODELS.values()))
    figure, [[panel]] = make_panels(1, 1, 6.5, 3.2)
    for label, (model, method, mark) in MODELS.items():
        x = [100 * mean(scores(runs, f"small/{model}", column)) for column in ROWS]
        panel.plot(x, range(len(ROWS)), mark, color=METHODS[method], label=label)
    panel.set(xlabel="solved, %", xlim=(-2, 102), yticks=range(len(ROWS)), yticklabels=ROWS.values())
    panel.invert_yaxis()
    panel.grid(axis="y", lw=0.3)
    save(figure, [[panel]], [""], out / "prompts.png")

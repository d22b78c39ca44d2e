"""The picture of this folder's page."""
from statistics import mean

from experiments.runs import differences, half_interval
from support.colors import METHODS
from support.figures import label_rivals, make_panels, save

# The rows of the picture, from above: {rival: (method, the rival of BTX with 53 steps, with 120)}
RIVALS = {"BTM that restarts at each\nend of text: keeps all models": ("BTM", "btm_document_top1", "btm_document_top1"),
          "upcycling, about twice\nas many FLOPs in sequence": ("upcycling", "su_flops_53", "su_flops_120"),
          "BTX from text": ("BTX from text", "btx_ridge_53", "btx_ridge_120"),
          "the average, finetuned": ("average", "average_chain_53", "average_chain_120"),
          "Dense in one phase, rate 2e-4": ("Dense in one phase", "dense_chain_53", "dense_chain_120"),
          "Dense in one phase, rate 4e-4": ("Dense in one phase", "dense_4e4_53", "dense_4e4_120"),
          "Dense in one phase, 330 steps,\nrate 4e-4": ("Dense in one phase", "dense_data", "dense_data")}


def draw(pools, out):
    """Draw the paper's BTX minus each rival in solved tasks, with the 95 % interval of the paired difference."""
    figure, [panels] = make_panels(1, 2, 4.1, 4.2)
    titles = {"home": "math, code and wiki", "capital": "capitals"}
    for panel, (column, title) in zip(panels, titles.items(), strict=True):
        for row, (method, *models) in enumerate(RIVALS.values()):
            for model, steps, height in zip(models, (53, 120), (row - 0.17, row + 0.17), strict=True):
                gaps = [100 * gap for gap in differences(pools[0], f"btx_{steps} − {model}", column)]
                panel.errorbar(mean(gaps), height, xerr=half_interval(gaps), fmt="o", ms=6, lw=1.5,
                               color=METHODS[method], mfc="white" if steps == 53 else METHODS[method])
        label_rivals(panel, title, RIVALS)
    for steps, inside in ((53, "white"), (120, "black")):
        panels[1].plot([], [], "o", color="black", mfc=inside, label=f"{steps} steps")
    panels[1].legend(loc="upper right")
    save(figure, [], [], out / "pretrained.png")

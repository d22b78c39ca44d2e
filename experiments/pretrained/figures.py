"""The picture of this folder's page."""
from statistics import mean

from experiments.runs import scores
from support.figures import make_panels, save

PICTURE = {  # its rows: {method: {text beside the mark: model}}
    "the seed": {"": "seed"}, "BTM that restarts\nat each end of text": {"": "btm_document_top1"},
    "upcycling (more FLOPs)": {"53": "su_flops_53", "120": "su_flops_120"},
    "BTX, routers from text (ours)": {"53": "btx_ridge_53", "120": "btx_ridge_120"},
    "BTX as in the paper": {"53": "btx_53", "120": "btx_120"},
    "the average, finetuned": {"53": "average_chain_53", "120": "average_chain_120"},
    "Dense, rate 4e-4": {"53": "dense_4e4_53", "120": "dense_4e4_120"}}
COLORS = ("C0", "C4", "C3", "C6", "C1", "C5", "C2")  # of the rows; those of the paper's figure worth_it


def draw(pools, out):
    """Draw solved tasks: a row for each method. Small marks are training seeds, and large marks their means."""
    runs = pools[0]
    figure, [panels] = make_panels(1, 2, 3.6, 0.42 * len(PICTURE) + 0.6)
    titles = {"home": "math, code and wiki", "capital": "capitals"}
    for panel, (column, title) in zip(panels, titles.items(), strict=True):
        for row, (models, color) in enumerate(zip(PICTURE.values(), COLORS, strict=True)):
            for steps, name in models.items():
                percent = [100 * number for number in scores(runs, name, column)]
                panel.plot(percent, [row] * len(runs), ".", color=color, ms=3)
                panel.plot(mean(percent), row, "o", ms=6, color=color, mfc="white" if steps == "53" else color)
                place = (0, 5 if steps == "53" else -11)  # 53 above its mark, 120 below
                panel.annotate(steps, (mean(percent), row), place, textcoords="offset points", ha="center", size=7)
        panel.set(title=title, xlabel="solved, %", yticks=range(len(PICTURE)), yticklabels=PICTURE,
                  ylim=(len(PICTURE) - 0.4, -0.6), xlim=(0, None))
        panel.grid(axis="x", lw=0.3)
    save(figure, [panels], [""], out / "pretrained.png")

"""The figures of tables.md and of the README. Each function draws one figure and writes it to `path`.

Lines show the range over training seeds; those of worth_it, the 95 % interval.
"""
import numpy as np

from experiments.runs import costs, half_interval, having, scores
from support.figures import draw_routing, make_panels, save

LABELS = {  # in the order of the colors
    "seed": "seed", "btx": "BTX Top-2", "dense_dm": "Dense (DM)", "su_dm": "sparse upcycling (DM)",
    "btm_tfidf_top2": "BTM Top-2", "large": "larger dense model", "btx_sample": "BTX Sample Top-1",
    "su_cm_flops": "sparse upcycling (CM),\nequal FLOPs",
    "su_cm_paper": "sparse upcycling (CM),\nthe paper's share of tokens"}
COLORS = {name: f"C{i}" for i, name in enumerate(LABELS)}

# The models of worth_it: their names in the figure, the offset of each name from its point, and their colors
WORTH = {"seed": ("seed", -6, -17, "0.45"), "average": ("average", 8, -6, "0.45"),
         "average_chain": ("average,\nfinetuned", -64, -14, "C5"), "dense_chain": ("Dense", 9, -8, "C2"),
         "dense_data": ("Dense,\nas many tokens", -2, -32, "C2"), "btx": ("BTX", -38, 4, "C1"),
         "su_dm": ("upcycling,\non as much data", -8, -34, "C3"),
         "su_own_flops": ("upcycling,\nas many FLOPs in total", 10, 6, "C3"), "btm_bayes_top1": ("BTM", 12, -4, "C4"),
         "btm_document_top1": ("BTM that restarts\nat each end of text", 12, -10, "C4")}


def worth_it(runs, path):
    """Solved tasks against FLOPs in sequence since the seed. The area of a point shows the number of weights."""
    figure, [panels] = make_panels(1, 2, 4.6, 3.9)
    titles = {"all": "texts of one domain", "switch": "changing texts"}
    for panel, (group, title) in zip(panels, titles.items(), strict=True):
        for name, (label, dx, dy, color) in WORTH.items():
            if name == "btm_document_top1" and group == "all":
                continue  # on a single text it is the same as BTM
            x, percent = np.mean(costs(runs, name, "chain_flops")) / 1e12, 100 * np.array(scores(runs, name, group))
            if len(percent) > 1:
                panel.errorbar(x, percent.mean(), half_interval(percent), color=color, lw=1)
            panel.scatter(x, percent.mean(), 110 * runs[0]["models"][name]["params"] / 1e6, color=color, zorder=3)
            panel.annotate(label, (x, percent.mean()), (dx, dy), textcoords="offset points", color=color)
        far = panel.dataLim.xmax  # leaves room for the names to the right of points
        panel.set(title=title, xlabel="TFLOP in sequence since the seed", xlim=(-0.05 * far, 1.28 * far), ymargin=0.15)
    save(figure, [panels], ["solved, %"], path)


def compute(runs, path):
    """Mean accuracy against training compute (Figure 2). A circle's area shows the active parameters."""
    names = ("seed", "btx", "dense_dm", "su_dm", "btm_tfidf_top2", "large", "btx_sample", "su_cm_flops", "su_cm_paper")
    runs = having(runs, *names)
    figure, [[panel]] = make_panels(1, 1, 6, 4)
    for name in names:
        flops, percent = np.mean(costs(runs, name, "flops")) / 1e12, 100 * np.array(scores(runs, name, "all"))
        size = runs[0]["models"][name]["active_params"] / 3000
        panel.vlines(flops, percent.min(), percent.max(), color=COLORS[name])
        panel.scatter(flops, percent.mean(), size, color=COLORS[name], alpha=0.8, label=LABELS[name])
    panel.set_xlabel("training compute since the seed, TFLOP")
    save(figure, [[panel]], ["mean accuracy, %"], path)


def probabilities(routing, path):
    """The distribution of each expert's router probability over tokens, by layer; the mean over domains (Figure 5)."""
    means = [np.mean(list(of_model["probs"].values()), axis=0) for of_model in routing.values()]  # (n_layer, N, BINS)
    figure, rows = make_panels(len(routing), len(means[0]), 2.8, 2.3)
    for panels, of_model, mean in zip(rows, routing.values(), means, strict=True):
        for layer, panel in enumerate(panels):
            for expert, share in zip(of_model["experts"], mean[layer], strict=True):
                panel.stairs(100 * share, np.linspace(0, 1, len(share) + 1), label=expert)
            panel.set(title=f"layer {layer + 1}", xlabel="router probability", yscale="log", ylim=(0.05, 100))
    save(figure, rows, [f"{model}\ntokens, %" for model in routing], path)


def draw(pools, out):
    """Draw all figures. pools: the registered runs, and those at equal FLOPs. Figures 3 to 6 show one run."""
    runs, timed = pools
    worth_it(having(timed, *WORTH), out / "worth_it.png")
    compute(runs, out / "figure2.png")
    balance = {"BTX Top-2": "btx", "BTX Top-2, unbalanced": "btx_nolb"}
    routers = {"Switch (short)": "switch_short", "Sample Top-1 (short)": "sample_short",
               "Top-2 (short)": "top2_short", "Soft (short)": "soft_short"}
    first = having(runs, *balance.values(), *routers.values())[0]["routing"]
    balance = {label: first[name] for label, name in balance.items()}
    draw_routing(balance, out / "figure3_4.png")
    probabilities(balance, out / "figure5.png")
    draw_routing({label: first[name] for label, name in routers.items()}, out / "figure6.png")

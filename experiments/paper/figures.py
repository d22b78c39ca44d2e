"""The figures of tables.md and of the README. Each function draws one figure and writes it to `path`."""
import numpy as np

from experiments.runs import costs, differences, half_interval, having, scores
from support.colors import METHODS, color_domains
from support.figures import draw_routing, label_rivals, make_panels, save

# The rows of rivals.png, from above: {name in the figure: (model, method)}
RIVALS = {"BTM that restarts at each end of text:\nkeeps all four models": ("btm_document_top1", "BTM"),
          "BTM: keeps all four models": ("btm_bayes_top1", "BTM"),
          "upcycling, one job,\nas many FLOPs in total": ("su_own_flops", "upcycling"),
          "Dense in one phase, one job,\nas many tokens": ("dense_data", "Dense in one phase"),
          "average of the branches,\nfinetuned twice as long": ("average_twice", "average"),
          "average of the branches, finetuned\nfor as many FLOPs as BTX": ("average_chain", "average"),
          "Dense in one phase, one job,\nas many FLOPs in sequence": ("dense_chain", "Dense in one phase")}
COMPUTE = {  # the models of figure 2: {model: (name in the figure, method, marker)}
    "seed": ("seed", "seed", "o"), "btx": ("BTX Top-2", "BTX", "o"),
    "dense_dm": ("Dense in two phases (DM)", "Dense in two phases", "o"),
    "su_dm": ("sparse upcycling (DM)", "upcycling", "o"), "btm_tfidf_top2": ("BTM Top-2", "BTM", "o"),
    "large": ("larger dense model", "larger dense model", "o"),
    "btx_sample": ("BTX Sample Top-1", "BTX Sample Top-1", "o"),
    "su_cm_flops": ("sparse upcycling (CM),\nequal FLOPs", "upcycling", "s"),
    "su_cm_paper": ("sparse upcycling (CM),\nthe paper's share of tokens", "upcycling", "^")}


def rivals(runs, path):
    """BTX minus each rival in solved tasks: the mean, and the 95 % interval of the paired difference."""
    shown = {label: (model, method) for label, (model, method) in RIVALS.items() if model in runs[0]["models"]}
    figure, [panels] = make_panels(1, 2, 4.1, 3.9)
    titles = {"all": "texts of one domain", "switch": "texts that change domain"}
    for panel, (column, title) in zip(panels, titles.items(), strict=True):
        for row, (model, method) in enumerate(shown.values()):
            gaps = [100 * gap for gap in differences(runs, f"btx − {model}", column)]
            panel.errorbar(np.mean(gaps), row, xerr=half_interval(gaps), fmt="o", color=METHODS[method], lw=2)
        label_rivals(panel, title, shown, xlim=(-17, 29))
    save(figure, [panels], [""], path)


def compute(runs, path):
    """Mean accuracy against training compute (Figure 2). A mark's area shows the active parameters."""
    figure, [[panel]] = make_panels(1, 1, 6, 4)
    for name, (label, method, marker) in COMPUTE.items():
        flops, percent = np.mean(costs(runs, name, "flops")) / 1e12, 100 * np.array(scores(runs, name, "all"))
        size = runs[0]["models"][name]["active_params"] / 3000
        panel.vlines(flops, percent.min(), percent.max(), color=METHODS[method])
        panel.scatter(flops, percent.mean(), size, color=METHODS[method], marker=marker, alpha=0.8, label=label)
    panel.set_xlabel("training compute since the seed, TFLOP")
    save(figure, [[panel]], ["mean accuracy, %"], path)


def probabilities(routing, path):
    """The distribution of each expert's router probability over tokens, by layer; the mean over domains (Figure 5)."""
    means = [np.mean(list(of_model["probs"].values()), axis=0) for of_model in routing.values()]  # (n_layer, N, BINS)
    figure, rows = make_panels(len(routing), len(means[0]), 2.2, 2.1)
    for panels, of_model, mean in zip(rows, routing.values(), means, strict=True):
        for layer, panel in enumerate(panels):
            colors = color_domains(of_model["experts"])
            for expert, share in zip(of_model["experts"], mean[layer], strict=True):
                panel.stairs(100 * share, np.linspace(0, 1, len(share) + 1), color=colors[expert], lw=1.5, label=expert)
            panel.set(title=f"layer {layer + 1}", xlabel="router probability", yscale="log", ylim=(0.05, 100))
    save(figure, rows, [f"{model}\ntokens, %" for model in routing], path)


def draw(pools, out):
    """Draw all figures. pools: the registered runs, and those at equal FLOPs. Figures 3 to 6 show one run."""
    runs, timed = pools
    models = {model for model, _ in RIVALS.values()} - {"btm_document_top1"}  # which runs of this commit lack
    rivals(having(timed, *models), out / "rivals.png")
    compute(having(runs, *COMPUTE), out / "figure2.png")
    balance = {"BTX Top-2": "btx", "BTX Top-2, unbalanced": "btx_nolb"}
    routers = {"Switch (short)": "switch_short", "Sample Top-1 (short)": "sample_short",
               "Top-2 (short)": "top2_short", "Soft (short)": "soft_short"}
    first = having(runs, *balance.values(), *routers.values())[0]["routing"]
    balance = {label: first[name] for label, name in balance.items()}
    draw_routing(balance, out / "figure3_4.png")
    probabilities(balance, out / "figure5.png")
    draw_routing({label: first[name] for label, name in routers.items()}, out / "figure6.png")

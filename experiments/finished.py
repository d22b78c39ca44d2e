"""The table and the picture of results/pretrained, from its runs.

    python -m experiments.finished results/pretrained/seed*.json --out results/figures/finished_seed.png
"""
from cli import make_parser, run
from collections import Counter
from pathlib import Path
from statistics import mean

from experiments.english import RELATIONS, ask_facts, read_countries
from experiments.paired import EXPERTS, costs
from experiments.paper import read_run
from support.figures import make_panels, save
from support.report import markdown, spread

MODELS = {
    "seed": "seed", "math": "math expert", "code": "code expert", "wiki": "wiki expert",
    "average": "average of all weights", "average_tuned": "average, finetuned",
    "btx_mixed": "mixed, random routers, not finetuned", "ridge_mixed": "mixed, routers from text, not finetuned",
    "btx": "BTX from random routers", "btx_ridge": "BTX from routers from text",
    "dense_time": "Dense, equal time", "dense_data": "Dense, equal tokens", "su_own_flops": "upcycling, equal FLOPs",
    "btm_bayes_top1": "BTM Top-1, Bayes", "btm_document_top1": "BTM Top-1, Bayes that begins anew",
    "btm_tfidf_top2": "BTM Top-2, tf-idf", "english": "seed, trained on English alone"}
DRAWN = ("seed", "expert", "average", "average_tuned", "ridge_mixed", "btx_ridge", "btx", "dense_time", "dense_data",
         "su_own_flops", "btm_document_top1")  # expert: the domain's own
MARKERS = "os^"  # circle, square, triangle: the training seeds


def measure(run, name, column):
    """One number of a model: accuracy, also of `home` and `facts`; `facts loss` in nats; `english` in bits per byte."""
    model = run["models"][name]
    if column == "english":
        return model["bits_per_byte"]["english"]
    if column == "facts loss":
        return mean(model["answer_loss"][field] for field in RELATIONS)
    columns = {"home": EXPERTS, "facts": RELATIONS}.get(column, [column])
    return mean(model["accuracy"][one] for one in columns)


def score_table(runs):
    """A row for each model: what it solves, its losses and its costs; mean ± standard deviation over the seeds."""
    solved = (*EXPERTS, "home", "switch", *RELATIONS, "facts")
    rows = []
    for name, label in MODELS.items():
        row = [label, *(spread([measure(run, name, column) for run in runs], 100, 0) for column in solved)]
        row.append(spread([measure(run, name, "facts loss") for run in runs], digits=2))
        row.append(spread([measure(run, name, "english") for run in runs], digits=3))
        row += [f"{mean(costs(runs, name, key)) / 1e15:.3f}" for key in ("flops", "chain_flops")]
        rows.append(row)
    shares = {}  # of the most frequent answer, in %
    for field in RELATIONS:
        answers = [task["answer"] for task in ask_facts(read_countries(), field)[:runs[0]["data"]["tasks"]]]
        shares[field] = f"{100 * Counter(answers).most_common(1)[0][1] / len(answers):.0f}"
    rows.append(["the most frequent answer", *(shares.get(column, "") for column in solved)])
    return markdown(["model", *solved, "loss of facts", "English", "PFLOP", "longest chain"], rows)


def draw(runs, path):
    """A panel for each domain and for facts: a point for each training seed, and a line at their mean."""
    panels = ("math", "code", "wiki", "switch", "facts")
    labels = MODELS | {"expert": "the domain's expert"}
    figure, [axes] = make_panels(1, len(panels), 2.0, 0.34 * len(DRAWN) + 0.9)
    for axis, column in zip(axes, panels, strict=True):
        for place, name in enumerate(DRAWN):
            if name == "expert" and column not in EXPERTS:
                continue  # no expert is at home there
            model = column if name == "expert" else name
            percent = [100 * measure(run, model, column) for run in runs]
            for i, x in enumerate(percent):
                axis.plot(x, place, MARKERS[i % len(MARKERS)], color=f"C{place}", ms=4, alpha=0.6)
            axis.vlines(mean(percent), place - 0.3, place + 0.3, color=f"C{place}", lw=2)
        axis.set(title=column, xlabel="solved, %", xlim=(-4, 104), xticks=(0, 50, 100), ylim=(len(DRAWN) - 0.5, -0.5),
                 yticks=range(len(DRAWN)), yticklabels=[labels[name] for name in DRAWN])
        axis.grid(axis="y", lw=0.3)
    save(figure, [axes], ["model"], path)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="files of `experiments.paper --collect`, one for each seed")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    args = parser.parse_args(argv)
    runs = [read_run(path) for path in args.runs]
    print(score_table(runs))
    draw(runs, args.out)


if __name__ == "__main__":
    run(main)

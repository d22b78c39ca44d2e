"""Print the tables of experiments/pretrained, and draw its picture, from its runs.

    python -m experiments.pretrained.tables experiments/pretrained/runs/seed*.json --out pretrained.png
"""
from cli import BadInput, make_parser, run
from pathlib import Path
from statistics import mean

from experiments.paired import EXPERTS, costs, points
from experiments.paper.tables import LABELS, read_run
from experiments.pretrained.english import RELATIONS
from support.figures import make_panels, save
from support.report import markdown, spread

MODELS = {  # the names of make and their names in the tables
    "seed": "seed", "math": "math expert", "code": "code expert", "wiki": "wiki expert",
    "btx_mixed": "mixed, random routers, not finetuned", "btx": "BTX from random routers, 30 steps",
    "btx_53": "BTX from random routers, 53 steps", "btx_120": "BTX from random routers, 120 steps",
    "ridge_mixed": "mixed, routers from text, not finetuned", "btx_ridge": "BTX from routers from text, 30 steps",
    "btx_ridge_53": "BTX from routers from text, 53 steps", "btx_ridge_120": "BTX from routers from text, 120 steps",
    "average": "average of all weights", "average_tuned": "average, finetuned for 30 steps",
    "average_53": "average, finetuned for 53 steps", "average_120": "average, finetuned for 120 steps",
    "average_chain_53": "average, as many FLOPs in sequence as BTX of 53 steps",
    "average_chain_120": "average, as many FLOPs in sequence as BTX of 120 steps",
    "dense_chain": "Dense, as many FLOPs in sequence as BTX of 30 steps",
    "dense_chain_53": "Dense, as many FLOPs in sequence as BTX of 53 steps",
    "dense_chain_120": "Dense, as many FLOPs in sequence as BTX of 120 steps",
    "dense_4e4_53": "Dense, FLOPs in sequence of 53 steps, rate 4e-4",
    "dense_4e4_120": "Dense, FLOPs in sequence of 120 steps, rate 4e-4",
    "dense_8e4_53": "Dense, FLOPs in sequence of 53 steps, rate 8e-4",
    "dense_8e4_120": "Dense, FLOPs in sequence of 120 steps, rate 8e-4",
    "dense_clock_53": "Dense, 204 steps, about as many seconds as BTX of 53 steps",
    "dense_clock_120": "Dense, 335 steps, about as many seconds as BTX of 120 steps",
    "dense_data": "Dense, as many tokens as BTX of 30 steps",
    "dense_half_53": "Dense, FLOPs in sequence of 53 steps, averaged with the seed",
    "su_own_flops": "upcycling, as many FLOPs in all as BTX of 30 steps",
    "su_flops_53": "upcycling, as many FLOPs in all as BTX of 53 steps",
    "su_flops_120": "upcycling, as many FLOPs in all as BTX of 120 steps",
    "btm_bayes_top1": "BTM Top-1, Bayes", "btm_document_top1": "BTM Top-1, Bayes that begins anew",
    "btm_tfidf_top2": "BTM Top-2, tf-idf", "english": "seed, trained on English alone"}
LINES = {  # of the picture: a method with one learning rate, the look of its line, and its models from short to long
    "BTX as in the paper, rate 1e-4": ("C1o-", ("btx_mixed", "btx")),
    "BTX as in the paper, rate 2e-4": ("C1s-", ("btx_53", "btx_120")),
    "BTX, routers from text (ours), rate 1e-4": ("C1o:", ("ridge_mixed", "btx_ridge", "btx_ridge_53", "btx_ridge_120")),
    "average, rate 1e-4": ("C0o-", ("average", "average_tuned")),
    "average, rate 2e-4": ("C0s-", ("average_53", "average_chain_53", "average_120", "average_chain_120")),
    "Dense, rate 4e-4": ("C2o-", ("seed", "dense_chain", "dense_4e4_53", "dense_4e4_120", "dense_data")),
    "Dense, rate 8e-4": ("C2^--", ("dense_8e4_53", "dense_8e4_120")),
    "Dense, rate 2e-4": ("C2s:", ("dense_chain_53", "dense_clock_53", "dense_chain_120", "dense_clock_120")),
    "upcycling, rate 4e-4": ("C3o-", ("seed", "su_own_flops", "su_flops_53", "su_flops_120")),
    "BTM that begins anew": ("C4o", ("btm_document_top1",))}
PANELS = {"home": "math, code and wiki", "switch": "where the text changes", "capital": "capitals"}


def present(runs):
    """The models that occur in all runs, in the order of the tables."""
    return [name for name in MODELS if all(name in run["models"] for run in runs)]


def measure(run, name, column):
    """A number of a model: accuracy, also of `home` and `facts`; `facts loss` in nats; `english` in bits per byte."""
    if name not in run["models"]:
        raise BadInput(f"a run has no model {name}, which these predictions or the picture need; name other runs")
    model = run["models"][name]
    if column == "english":
        return model["bits_per_byte"]["english"]
    if column == "facts loss":
        return mean(model["answer_loss"][field] for field in RELATIONS)
    columns = {"home": EXPERTS, "facts": RELATIONS}.get(column, [column])
    return mean(model["accuracy"][one] for one in columns)


def score_table(runs):
    """A table of what each model solves, its losses and its costs: mean ± standard deviation over the seeds."""
    columns = (*EXPERTS, "home", "switch", "capital")
    rows = []
    for name in present(runs):
        row = [MODELS[name], *(spread([measure(run, name, column) for run in runs], 100, 0) for column in columns)]
        row.append(spread([measure(run, name, "facts loss") for run in runs], digits=2))
        row.append(spread([measure(run, name, "english") for run in runs], digits=3))
        row.append(spread([measure(run, name, "demonym") for run in runs], 100, 0))
        row += [f"{mean(costs(runs, name, key)) / 1e15:.3f}" for key in ("flops", "chain_flops")]
        rows.append(row)
    names = [LABELS.get(column, column) for column in columns]
    head = ["model", *names, "loss of facts", "English", "demonym", "PFLOP in all", "PFLOP in sequence"]
    return markdown(head, rows)


def prediction_table(runs, page):
    """A table of registered predictions. page: the text in which they were registered. The runs have all its models."""
    lines = page.split("<!-- predictions -->")[1].splitlines()
    rows = []
    for line in [line for line in lines if "−" in line and line.startswith("|")]:
        comparison, column, predicted, bounds, _ = (cell.strip() for cell in line.strip("| ").split("|"))
        a, b = comparison.split(" − ")
        found = [measure(run, a, column) - measure(run, b, column) for run in runs]
        low, high = map(float, bounds.split(" to "))
        holds = "yes" if low <= 100 * mean(found) <= high else "**no**"
        rows.append([f"{MODELS[a]} − {MODELS[b]}", column, f"{predicted} ({bounds})", points(found),
                     ", ".join(f"{100 * x:+.1f}" for x in found), holds])
    return markdown(["comparison", "column", "predicted", "measured", "by seed", "holds"], rows)


def draw(runs, path):
    """Draw solved tasks against FLOPs in sequence: a panel for each of PANELS, with a line for each of LINES."""
    figure, [axes] = make_panels(1, len(PANELS), 3.4, 3.6)
    for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
        for label, (look, names) in LINES.items():
            percent = [[100 * measure(run, name, column) for run in runs] for name in names]  # (points, seeds)
            x = [mean(costs(runs, name, "chain_flops")) / 1e15 for name in names]
            axis.plot(x, percent, ".", color=look[:2], ms=3)
            axis.plot(x, [mean(of_seeds) for of_seeds in percent], look, ms=5, label=label)
        axis.set(title=title, xlabel="PFLOP in sequence since the seed", ylim=(-3, 103))
        axis.grid(lw=0.3)
    save(figure, [axes], ["solved, %"], path)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="files of `experiments.paper.tables --collect`")
    parser.add_argument("--predictions", type=Path, help="file with a table of predictions to compare with")
    parser.add_argument("--out", type=Path, help="picture to write (of runs that have all models)")
    args = parser.parse_args(argv)
    runs = [read_run(path) for path in args.runs]
    print(score_table(runs))
    if args.predictions:
        print(f"\n{prediction_table(runs, args.predictions.read_text(encoding='utf-8'))}")
    if args.out:
        draw(runs, args.out)


if __name__ == "__main__":
    run(main)

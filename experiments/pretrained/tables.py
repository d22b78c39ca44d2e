"""Write tables.md and the picture of this folder from its runs.

    python -m experiments.pretrained.tables experiments/pretrained/runs/*.json --out experiments/pretrained
"""
import re
from cli import BadInput, make_parser, replacing, run
from pathlib import Path
from statistics import mean

from data.task import DOMAINS
from experiments.paired import EXPERTS, costs, points, pooled_interval
from experiments.paper.tables import read_run
from experiments.pretrained.english import RELATIONS
from support.figures import make_panels, save
from support.report import markdown, spread

COMPARED = ("home", "switch", "capital", "english")  # columns of the tables of differences
# Models that the pooled interval leaves out: the seed, which has no spread; runs on one domain; BTM by Bayes, which is
# BTM that restarts on a single text; and a run of Dense that spreads seven times as much as the others.
NOT_POOLED = {"seed", "math", "code", "wiki", "english", "btm_bayes_top1", "dense_8e4_120"}
PICTURE = {  # its rows: {method: {text beside the mark: model}}
    "the seed": {"": "seed"}, "BTM that restarts\nat each end of text": {"": "btm_document_top1"},
    "upcycling (more FLOPs)": {"53": "su_flops_53", "120": "su_flops_120"},
    "BTX, routers from text (ours)": {"53": "btx_ridge_53", "120": "btx_ridge_120"},
    "BTX as in the paper": {"53": "btx_53", "120": "btx_120"},
    "the average, finetuned": {"53": "average_chain_53", "120": "average_chain_120"},
    "Dense, rate 4e-4": {"53": "dense_4e4_53", "120": "dense_4e4_120"}}


def measure(run, name, column):
    """A number of a model: its accuracy in a domain, in `all`, `home` or `facts`, or one of the losses named here."""
    model = run["models"][name]
    if column == "english":  # in bits per byte
        return model["bits_per_byte"]["english"]
    if column == "loss":
        return mean(model["loss"][domain] for domain in DOMAINS)
    if column == "home loss":  # of the right answers
        return mean(model["answer_loss"][domain] for domain in EXPERTS)
    columns = {"all": DOMAINS, "home": EXPERTS, "facts": RELATIONS}.get(column, [column])
    return mean(model["accuracy"][one] for one in columns)


def compare(runs, comparison, column):
    """The difference between two models in each run. comparison: their names, as in "btx_53 − su_flops_53"."""
    a, b = comparison.split(" − ")
    return [measure(run, a, column) - measure(run, b, column) for run in runs]


def score_cells(runs, name):
    """What a model solves and what it costs, as cells of a table: means, some with their deviation over the seeds."""
    cells = [f"{100 * mean(measure(run, name, column) for run in runs):.0f}" for column in EXPERTS]
    cells += [spread([measure(run, name, column) for run in runs], 100, 0) for column in ("home", "switch", "capital")]
    cells += [f"{mean(costs(runs, name, key)) / 1e15:.3f}" for key in ("flops", "chain_flops")]
    return " | ".join(cells)


def difference_cells(runs, comparison, registered):
    """The differences of a comparison in all columns of COMPARED, as cells. Those that were registered are bold."""
    cells = []
    for column in COMPARED:
        cell = points(compare(runs, comparison, column))
        cells.append(f"**{cell}**" if (comparison, column) in registered else cell)
    return " | ".join(cells)


def pooled(runs, column):
    """Half the pooled 95 % interval of any difference in a column, as in `± 3.6`."""
    names = [name for name in runs[0]["models"] if name not in NOT_POOLED]
    return f"± {100 * pooled_interval([[measure(run, name, column) for run in runs] for name in names]):.1f}"


def read_predictions(page):
    """The table of registered predictions in a page: {(comparison, column): (predicted, bounds)}."""
    lines = page.split("<!-- predictions -->")[1].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    return {(row[0], row[1]): (row[2], row[3]) for row in rows if "−" in row[0]}


def prediction_table(runs, predictions):
    """A table of what was predicted and what was measured; predictions: from read_predictions."""
    rows = []
    for (comparison, column), (predicted, bounds) in predictions.items():
        found = compare(runs, comparison, column)
        low, high = map(float, bounds.split(" to "))
        holds = "yes" if low <= 100 * mean(found) <= high else "**no**"
        rows.append([comparison, column, f"{predicted} ({bounds})", points(found), pooled(runs, column),
                     ", ".join(f"{100 * x:+.1f}" for x in found), holds])
    return markdown(["comparison", "column", "predicted", "measured", "pooled", "by seed", "holds"], rows)


def make_page(runs):
    """The text of tables.md: tables.template, in which models and comparisons in braces become cells."""
    folder = Path(__file__).parent
    predictions = read_predictions((folder / "predictions.md").read_text(encoding="utf-8"))

    def fill(found):
        if found[1] == "predictions":
            return prediction_table(runs, predictions)
        if found[1] == "pooled":
            return " | ".join(pooled(runs, column) for column in COMPARED)
        if "−" in found[1]:
            return difference_cells(runs, found[1], predictions)
        return score_cells(runs, found[1])

    return re.sub(r"\{(.*?)\}", fill, (folder / "tables.template").read_text(encoding="utf-8"))


def draw(runs, path):
    """Draw solved tasks: a row for each method. Small marks are training seeds, and large marks their means."""
    figure, [panels] = make_panels(1, 2, 3.6, 0.42 * len(PICTURE) + 0.6)
    titles = {"home": "math, code and wiki", "capital": "capitals"}
    for panel, (column, title) in zip(panels, titles.items(), strict=True):
        for row, models in enumerate(PICTURE.values()):
            for steps, name in models.items():
                percent = [100 * measure(run, name, column) for run in runs]
                look = {"color": f"C{row}", "mfc": "white" if steps == "53" else f"C{row}"}
                panel.plot(percent, [row] * len(runs), ".", color=f"C{row}", ms=3)
                panel.plot(mean(percent), row, "o", ms=6, **look)
                place = (0, 5 if steps == "53" else -11)  # 53 above its mark, 120 below
                panel.annotate(steps, (mean(percent), row), place, textcoords="offset points", ha="center", size=7)
        panel.set(title=title, xlabel="solved, %", yticks=range(len(PICTURE)), yticklabels=PICTURE,
                  ylim=(len(PICTURE) - 0.4, -0.6), xlim=(0, None))
        panel.grid(axis="x", lw=0.3)
    save(figure, [panels], [""], path)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="files of `experiments.paper.tables --collect`")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    args = parser.parse_args(argv)
    runs = [read_run(path) for path in args.runs]
    try:
        page = make_page(runs)
    except KeyError as missing:
        raise BadInput(f"a run has no {missing}, which the tables need; name the runs of this folder") from None
    with replacing(args.out / "tables.md") as part:
        part.write_text(page, encoding="utf-8")
    draw(runs, args.out / "pretrained.png")
    print(f"tables: {args.out}/tables.md   picture: {args.out}/pretrained.png")


if __name__ == "__main__":
    run(main)

"""Write the tables and figures of an experiment from its runs, beside the paper's own numbers.

    python -m experiments.tables paper

The page tables.md is tables.template with its braces filled: `{scores: btx}` becomes the cells of a model, and
`{points: btx − dense_dm, all}` a difference between two. `{predictions: ...}` becomes a table.
"""
import re
from importlib import import_module
from pathlib import Path
from statistics import mean

from cli import BadInput, make_parser, replacing, run
from data.task import DOMAINS
from experiments.runs import costs, differences, having, points, pooled_interval, read_runs, scores
from support.report import markdown, spread

FOLDER = Path(__file__).parent
CELL = re.compile(r"\{(\w+): (.*?)\}")
# Models that the pooled interval leaves out: the seed, which has no spread; runs on one domain; BTM by Bayes, which is
# BTM that restarts on a single text; and a run of Dense that spreads seven times as much as the others.
NOT_POOLED = {"seed", "math", "code", "wiki", "english", "btm_bayes_top1", "dense_8e4_120"}


# ---- the cells of a model or of a comparison
def score_cells(runs, name):
    """A model's accuracy by column, their mean, and its loss: mean ± deviation over the seeds."""
    cells = [spread(scores(runs, name, column), 100) for column in (*DOMAINS, "switch", "all")]
    return [*cells, spread(scores(runs, name, "loss"), digits=3)]


def cost_cells(runs, name):
    """A model's tokens, FLOPs, share of MoE training, active parameters and mean accuracy (Table 3)."""
    tokens, flops = mean(costs(runs, name, "tokens")) / 1e6, mean(costs(runs, name, "flops")) / 1e12
    model = runs[0]["models"][name]  # share and size are the same in all runs
    share = "" if model["moe_share"] is None else f"{100 * model['moe_share']:.0f} %"
    size = f"{model['active_params'] / 1e3:.0f} of {model['params'] / 1e3:.0f}"
    return [f"{tokens:.1f}", f"{flops:.1f}", share, size, spread(scores(runs, name, "all"), 100)]


def pretrained_cells(runs, name):
    """What a model solves, some with its deviation over the seeds, and its FLOPs in total and in sequence."""
    cells = [f"{100 * mean(scores(runs, name, column)):.0f}" for column in ("math", "code", "wiki")]
    cells += [spread(scores(runs, name, column), 100, 0) for column in ("home", "switch", "capital")]
    return cells + [f"{mean(costs(runs, name, key)) / 1e15:.3f}" for key in ("flops", "chain_flops")]


def size_cells(runs, name):
    """A model's TFLOP in total and in the longest chain of stages; its millions of weights, and those a token uses."""
    work = [f"{mean(costs(runs, name, key)) / 1e12:.1f}" for key in ("flops", "chain_flops")]
    model = runs[0]["models"][name]
    active = "params" if "btm_" in name else "active_params"  # BTM uses all; older runs say otherwise
    return [*work, f"{model['params'] / 1e6:.2f}", f"{model[active] / 1e6:.2f}"]


def both_cells(runs, name, kinds):
    """For each kind of task: of those whose two parts a model solves alone, the share that it solves; their number."""
    cells = []
    for kind in kinds.split():
        shares, counts = [], []
        for outcomes in [found["models"][name]["outcomes"] for found in runs]:
            parts = zip(outcomes[kind], outcomes[f"{kind}_1"], outcomes[f"{kind}_2"], strict=True)
            solved = [whole == "1" for whole, first, second in parts if first == second == "1"]
            counts.append(len(solved))
            if solved:
                shares.append(mean(solved))
        cells += [spread(shares, 100) if len(shares) == len(runs) else "", f"{mean(counts):.0f}"]
    return cells


def difference_cells(runs, pair, column):
    """A difference in accuracy, and its number of seeds."""
    found = differences(runs, pair, column)
    return [points(found), str(len(found))]


def pooled_cell(runs, column):
    """Half the pooled 95 % interval of any difference in a column."""
    names = [name for name in runs[0]["models"] if name not in NOT_POOLED]
    return [f"± {100 * pooled_interval([scores(runs, name, column) for name in names]):.1f}"]


CELLS = {"scores": score_cells, "means": lambda runs, name: score_cells(runs, name)[-3:], "cost": cost_cells,
         "pretrained": pretrained_cells, "difference": difference_cells, "pooled": pooled_cell, "size": size_cells,
         "both": both_cells,
         "solved": lambda runs, name, columns: [spread(scores(runs, name, c), 100) for c in columns.split()],
         "whole": lambda runs, name, column: [f"{100 * mean(scores(runs, name, column)):.0f}"],
         "points": lambda runs, pair, column: [points(differences(runs, pair, column))],
         "nats": lambda runs, name, column: [spread(scores(runs, name, column), digits=3)]}


# ---- what was predicted
def read_predictions(page, mark):
    """The table of predictions after a mark in a page: rows {head: cell}, whose `pair` are the names of two models."""
    lines = page.split(f"<!-- {mark} -->\n")[1].split("\n\n")[0].splitlines()
    head, _, *cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    rows = [dict(zip(head, row, strict=True)) for row in cells]
    for row in rows:
        part = f"{row['branches']}/" if "branches" in row else ""
        row["pair"] = " − ".join(part + name for name in row["comparison"].split(" − "))
    return rows


def prediction_table(runs, predictions, is_pooled=False):
    """What was predicted, what was measured, and whether the mean lies within the bounds.

    A row has the runs with both of its models. Fewer than three decide nothing.
    """
    table = []
    with_all = having(runs, *(name for row in predictions for name in row["pair"].split(" − ")))
    for row in predictions:
        column = row.get("column", "all")
        found = differences(runs, row["pair"], column)
        low, high = map(float, row["between"].split(" to "))
        cells = {key: row[key] for key in ("comparison", "branches", "column") if key in row}
        cells["predicted"] = f"{row['predicted']} ({row['between']})"
        cells["measured"] = points(found) if found else "to come"
        if is_pooled:
            cells["pooled"] = pooled_cell(with_all, column)[0]
        cells["by seed"] = ", ".join(f"{100 * x:+.1f}" for x in found)
        cells["holds"] = ""
        if found:
            cells["holds"] = "yes" if low <= 100 * mean(found) <= high else "**no**"
        if 0 < len(found) < 3:
            cells["holds"] += " so far"
        table.append(cells)
    return markdown([*table[0]], [[*cells.values()] for cells in table])


# ---- the page
def read_pools(folder):
    """The pools of runs in an experiment's folder; `fill` takes each table from the first that has all its models."""
    return [read_runs(folder / "runs"), read_runs(folder / "equal_flops")]


def fill(table, pools):
    """Fill the cells of a table from the first pool of runs in which all its models occur.

    Its rows have the same training seeds, except that a `difference` has those of its two models.
    """
    known = " ".join(name for pool in pools for run in pool for name in run["models"])
    if "btm_document_top1" not in known:  # runs of this commit have no BTM that restarts
        table = "".join(row for row in table.splitlines(keepends=True) if "btm_document_top1" not in row)
    every, alike = set(), set()  # names of models: all, and those that each run must have
    for kind, argument in CELL.findall(table):
        names = {*argument.split(", ")[0].split(" − ")} if kind != "pooled" else set()
        every |= names
        if kind != "difference":
            alike |= names
    pools = [pool for pool in pools if every <= {name for run in pool for name in run["models"]}]
    runs = having(pools[0], *alike) if pools else []
    if not runs:
        raise BadInput(f"no run has all models of a table; run the recipe that makes {', '.join(sorted(every))}")
    seeds = "1 training seed" if len(runs) == 1 else f"{len(runs)} training seeds"
    table = table.replace("{seeds} training seeds", seeds)
    return CELL.sub(lambda cell: " | ".join(CELLS[cell[1]](runs, *cell[2].split(", "))), table)


def make_page(folder, pools):
    """The text of tables.md, from tables.template and predictions.md in this folder, and from pools of runs."""
    def check_predictions(found):
        kind, mark = found.groups()
        predictions = read_predictions((folder / "predictions.md").read_text(encoding="utf-8"), mark)
        return prediction_table(pools[0], predictions, kind == "pooled predictions")

    if folder.name == "untrained":  # one of its tables has rivals of the other page
        pools = [*pools, read_runs(FOLDER / "pretrained" / "runs")]
    page = (folder / "tables.template").read_text(encoding="utf-8")
    page = re.sub(r"(?m)(^\|.*\n)+", lambda table: fill(table[0], pools), page)
    return re.sub(r"(?m)^\{([\w ]+): (.+)\}", check_predictions, page)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("experiment", choices=("paper", "pretrained", "untrained", "one_or_all"),
                        help="a folder of experiments/")
    parser.add_argument("--out", type=Path, help="folder with the runs, to write to (default: that of the experiment)")
    args = parser.parse_args(argv)
    folder = FOLDER / args.experiment
    out = args.out or folder
    pools = read_pools(out)
    with replacing(out / "tables.md") as part:
        part.write_text(make_page(folder, pools), encoding="utf-8")
    import_module(f"experiments.{args.experiment}.figures").draw(pools, out)
    print(f"tables: {out}/tables.md   figures: {out}/*.png")


if __name__ == "__main__":
    run(main)

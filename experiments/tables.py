"""Write the tables and figures of an experiment from its runs, beside the paper's own numbers.

    python -m experiments.tables paper

The page tables.md is tables.template with its braces filled: `{scores: btx}` becomes the cells of a model, and
`{points: btx − dense_dm, all}` a difference between two. `{predictions: ...}` becomes a table.
"""
import math
import re
from importlib import import_module
from itertools import product
from pathlib import Path
from statistics import mean, median

from cli import BadInput, make_parser, replacing, run
from data.task import DOMAINS
from experiments.runs import costs, differences, having, holm, paired_p, points, pooled_interval, read_runs, scores
from support.report import markdown, spread

FOLDER = Path(__file__).parent
CELL = re.compile(r"\{(\w+): (.*?)\}")
# Models that the pooled interval leaves out: the seed, which has no spread; runs on one domain; BTM by Bayes, which is
# BTM that restarts on a single text; and a run of Dense that spreads seven times as much as the others.
NOT_POOLED = {"seed", "math", "code", "wiki", "english", "btm_bayes_top1", "dense_8e4_120"}
# Of `when`, also all models that are not finetuned, because their losses are on another scale.
NOT_POOLED |= {f"{branches}/{name}" for branches in (100, 400)
               for name in (*NOT_POOLED, "average", "btx_mixed", "ridge_mixed", "btm_document_top1")}


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


def worth_cells(runs, name):
    """A model's accuracies, FLOPs in total and in the longest chain of stages, and weights."""
    flops, longest = mean(costs(runs, name, "flops")) / 1e12, mean(costs(runs, name, "chain_flops")) / 1e12
    weights = runs[0]["models"][name]["params"] / 1e6
    return [spread(scores(runs, name, "all"), 100), spread(scores(runs, name, "switch"), 100),
            f"{flops:.1f}", f"{longest:.1f}", f"{weights:.2f}"]


def pretrained_cells(runs, name):
    """What a model solves, some with its deviation over the seeds, and its FLOPs in total and in sequence."""
    cells = [f"{100 * mean(scores(runs, name, column)):.0f}" for column in ("math", "code", "wiki")]
    cells += [spread(scores(runs, name, column), 100, 0) for column in ("home", "switch", "capital")]
    return cells + [f"{mean(costs(runs, name, key)) / 1e15:.3f}" for key in ("flops", "chain_flops")]


def difference_cells(runs, pair, column):
    """A difference in accuracy, and its number of seeds."""
    found = differences(runs, pair, column)
    return [points(found), str(len(found))]


def seed_cells(runs, name, column):
    """A model's score in each run, in %."""
    return [", ".join(f"{100 * score:.1f}" for score in scores(runs, name, column))]


def growth_cells(runs, longer, shorter, column):
    """How longer branches change the distance in loss between two models, a and b in "a − b".

    The cells are the change of this difference, by training seed, too; the ratio a / b by training seed, with the
    shorter and with the longer branches; and the change of the logarithm of this ratio, in hundredths.
    """
    after, before = (differences(runs, pair, column) for pair in (longer, shorter))
    changes = [a - b for a, b in zip(after, before, strict=True)]
    ratios = []
    for pair in (shorter, longer):
        a, b = pair.split(" − ")
        ratios.append([x / y for x, y in zip(scores(runs, a, column), scores(runs, b, column), strict=True)])
    logs = [math.log(after / before) for before, after in zip(*ratios, strict=True)]
    by_seed = [", ".join(f"{ratio:.2f}" for ratio in row) for row in ratios]
    return [points(changes), ", ".join(f"{100 * change:+.1f}" for change in changes), *by_seed, points(logs)]


def seconds_cells(runs, branches, lengths):
    """How many times the average's stored seconds BTX's finetuning took: the median, and the range of all runs."""
    ratios = []
    for part, steps in product(branches.split(), lengths.split()):
        for models in (found["models"] for found in having(runs, f"{part}/random_{steps}")):
            btx = models[f"{part}/random_{steps}"]["seconds"] - models[f"{part}/btx_mixed"]["seconds"]
            average = models[f"{part}/average_{steps}"]["seconds"] - models[f"{part}/average"]["seconds"]
            ratios.append(btx / average)
    return [f"{median(ratios):.2f}", f"{min(ratios):.2f} to {max(ratios):.2f}"]


def ordering_cells(runs, column, *inequalities):
    """Whether inequalities hold for the means over runs, and in how many training seeds all of them hold.

    A name stands for this BTX minus the average that was finetuned as long. "1100/text_48 1100/text_192 > 275/text_48"
    compares the larger of two such differences with a third.
    """
    def average(name):
        return re.sub("/[a-z]+", "/average", name)

    def largest(runs, side):
        return max(mean(differences(runs, f"{name} − {average(name)}", column)) for name in side.split())

    def hold(runs):
        sides = [inequality.split(" > ") for inequality in inequalities]
        return all(largest(runs, above) > largest(runs, below) for above, below in sides)

    names = re.findall(r"\S+/\S+", " ".join(inequalities))
    runs = having(runs, *names, *map(average, names))
    n = sum(hold([run]) for run in runs)
    return ["yes" if hold(runs) else "**no**", f"{n} of {len(runs)}"]


def pooled_cell(runs, column):
    """Half the pooled 95 % interval of any difference in a column."""
    names = [name for name in runs[0]["models"] if name not in NOT_POOLED]
    return [f"± {100 * pooled_interval([scores(runs, name, column) for name in names]):.1f}"]


CELLS = {"scores": score_cells, "means": lambda runs, name: score_cells(runs, name)[-3:], "cost": cost_cells,
         "worth": worth_cells, "pretrained": pretrained_cells, "difference": difference_cells,
         "ordering": ordering_cells, "pooled": pooled_cell, "seeds": seed_cells, "growth": growth_cells,
         "seconds": seconds_cells,
         "whole": lambda runs, name, column: [f"{100 * mean(scores(runs, name, column)):.0f}"],
         "points": lambda runs, pair, column: [points(differences(runs, pair, column))],
         "percent": lambda runs, name, column: [spread(scores(runs, name, column), 100)],
         "nats": lambda runs, name, column: [spread(scores(runs, name, column), digits=3)]}


NO_MODEL = ("pooled", "ordering", "seconds")  # cells whose first argument is not the name of a model


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
    """What was predicted, what was measured, and whether the mean lies within the bounds."""
    table = []
    verdict = "holds so far" if len(runs) < 3 else "holds"  # fewer than three training seeds decide nothing
    for row in predictions:
        column = row.get("column", "all")
        found = differences(runs, row["pair"], column)
        low, high = map(float, row["between"].split(" to "))
        cells = {key: row[key] for key in ("comparison", "branches", "column") if key in row}
        cells["predicted"] = f"{row['predicted']} ({row['between']})"
        cells["measured"] = points(found)
        if is_pooled and len(runs) > 2:
            cells["pooled"] = pooled_cell(runs, column)[0]
        cells["by seed"] = ", ".join(f"{100 * x:+.1f}" for x in found)
        cells[verdict] = "yes" if low <= 100 * mean(found) <= high else "**no**"
        table.append(cells)
    return markdown([*table[0]], [[*cells.values()] for cells in table])


def holm_table(runs):
    """The 24 comparisons of the small models with their p-values, those of a paired t-test, smallest first."""
    rows = []
    for branches, routers, steps in product((275, 1100, 2200), ("random", "text"), (48, 192, 770, 1540)):
        found = differences(runs, f"{branches}/{routers}_{steps} − {branches}/average_{steps}", "all")
        rows.append((paired_p(found), f"{branches}/{routers}_{steps}", points(found)))
    rows.sort()
    corrected = holm([p for p, _, _ in rows])
    cells = [[name, lead, f"{p:.5f}", f"{new_p:.3f}"] for (p, name, lead), new_p in zip(rows, corrected, strict=True)]
    return markdown(["BTX", "BTX − average, points", "p", "p (Holm)"], cells)


# ---- the page
def read_pools(folder):
    """The pools of runs in an experiment's folder; `fill` takes each table from the first that has all its models."""
    return [read_runs(folder / "runs"), read_runs(folder / "equal_flops")]


def fill(table, pools):
    """Fill the cells of a table from the first pool of runs in which all its models occur.

    Its rows have the same training seeds, except that a `difference` has those of its two models.
    """
    every, alike = set(), set()  # names of models: all, and those that each run must have
    for kind, argument in CELL.findall(table):
        names = {*argument.split(", ")[0].split(" − ")} if kind not in NO_MODEL else set()
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
        if kind == "holm":
            return holm_table(having(pools[0], *mark.split()))
        predictions = read_predictions((folder / "predictions.md").read_text(encoding="utf-8"), mark)
        runs = having(pools[0], *(name for row in predictions for name in row["pair"].split(" − ")))
        return prediction_table(runs, predictions, kind == "pooled predictions")

    page = (folder / "tables.template").read_text(encoding="utf-8")
    page = re.sub(r"(?m)(^\|.*\n)+", lambda table: fill(table[0], pools), page)
    return re.sub(r"(?m)^\{([\w ]+): (.+)\}", check_predictions, page)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("experiment", choices=("paper", "pretrained", "when"), help="a folder of experiments/")
    parser.add_argument("--out", type=Path, help="folder with the runs, to write to (default: that of the experiment)")
    args = parser.parse_args(argv)
    folder = FOLDER / args.experiment
    out = args.out or folder
    pools = read_pools(out)
    page = make_page(folder, pools)
    with replacing(out / "tables.md") as part:
        part.write_text(page, encoding="utf-8")
    import_module(f"experiments.{args.experiment}.figures").draw(pools, out)
    print(f"tables: {out}/tables.md   figures: {out}/*.png")


if __name__ == "__main__":
    run(main)

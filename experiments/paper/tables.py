"""Write the paper's tables and figures with the numbers of our runs, beside the paper's own numbers.

    python -m experiments.paper.tables --collect out/seed0/[rp]*/results.json --out runs/seed0.json
    python -m experiments.paper.tables runs/seed*.json --timed equal_flops/seed*.json --out experiments/paper

The first command gathers what evaluate.py measured for one run. The second writes tables.md and the figures from that.
"""
import json
import re
from cli import BadInput, make_parser, replacing, run
from pathlib import Path
from statistics import mean

from data.task import DOMAINS
from experiments.paired import costs, differences, having, points, scores
from experiments.paper import figures
from support.figures import draw_routing
from support.report import spread

COLUMNS = (*DOMAINS, "switch")


def score_cells(runs, name):
    """A model's accuracy by column, their mean, and its loss, as cells of a table: mean ± deviation over the seeds."""
    cells = [spread(scores(runs, name, column), 100) for column in (*COLUMNS, "all")]
    return [*cells, spread(scores(runs, name, "all", "loss"), digits=3)]


def cost_cells(runs, name):
    """A model's tokens, FLOPs, share of MoE training, active parameters and mean accuracy, as cells (Table 3)."""
    tokens, flops = mean(costs(runs, name, "tokens")) / 1e6, mean(costs(runs, name, "flops")) / 1e12
    model = runs[0]["models"][name]  # share and size are the same in all runs
    share = "" if model["moe_share"] is None else f"{100 * model['moe_share']:.0f} %"
    size = f"{model['active_params'] / 1e3:.0f} of {model['params'] / 1e3:.0f}"
    return [f"{tokens:.1f}", f"{flops:.1f}", share, size, spread(scores(runs, name), 100)]


def worth_cells(runs, name):
    """A model's accuracies, FLOPs in total and in the longest chain of stages, and weights, as cells."""
    flops, longest = mean(costs(runs, name, "flops")) / 1e12, mean(costs(runs, name, "chain_flops")) / 1e12
    weights = runs[0]["models"][name]["params"] / 1e6
    return [spread(scores(runs, name), 100), spread(scores(runs, name, "switch"), 100),
            f"{flops:.1f}", f"{longest:.1f}", f"{weights:.2f}"]


def difference_cells(runs, comparison):
    """A difference in accuracy and its number of seeds, as cells. comparison: for instance "btx − dense_dm, all"."""
    pair, group = comparison.split(", ")
    found = differences(runs, *pair.split(" − "), group)
    return [points(found), str(len(found))]


CELLS = {"scores": score_cells, "means": lambda runs, name: score_cells(runs, name)[-3:], "cost": cost_cells,
         "worth": worth_cells, "difference": difference_cells, "worth_difference": difference_cells}


def fill(table, runs):
    """Fill a table, in which `{cost: btx}` stands for the cells of a model. All its models have the same seeds."""
    runs = having(runs, *re.findall(r"\{\w+: ([\w-]+)\}", table))
    if not runs:
        raise BadInput("no run has all the models of a table; run make paper")
    table = table.replace("{seeds}", str(len(runs)))
    return re.sub(r"\{(\w+): (.*?)\}", lambda key: " | ".join(CELLS[key[1]](runs, key[2])), table)


def make_page(runs, timed):
    """The text of tables.md: tables.template with its tables filled, those of `worth` from the timed runs."""
    template = Path(__file__).with_suffix(".template").read_text(encoding="utf-8")
    return re.sub(r"(?m)(^\|.*\n)+", lambda table: fill(table[0], timed if "{worth" in table[0] else runs), template)


def draw(runs, timed, out):
    """Draw all figures. Figures 3 to 6 show the first run that has their models."""
    figures.worth_it(having(timed, *figures.WORTH), out / "worth_it.png")
    figures.gain(runs, out / "gain.png")
    figures.compute(runs, out / "figure2.png")
    balance = {"BTX Top-2": "btx", "BTX Top-2, unbalanced": "btx_nolb"}
    routers = {"Switch (short)": "switch_short", "Sample Top-1 (short)": "sample_short",
               "Top-2 (short)": "top2_short", "Soft (short)": "soft_short"}
    first = having(runs, *balance.values(), *routers.values())[0]["routing"]
    balance = {label: first[name] for label, name in balance.items()}
    draw_routing(balance, out / "figure3_4.png")
    figures.probabilities(balance, out / "figure5.png")
    draw_routing({label: first[name] for label, name in routers.items()}, out / "figure6.png")


def read_run(path):
    """Read the results of a run, as evaluate.py or --collect wrote them. Raises BadInput."""
    try:
        results = json.loads(path.read_text())
    except (OSError, ValueError):
        results = None
    if not isinstance(results, dict) or "models" not in results:
        raise BadInput(f"{path}: there are no results of a run in this file; make help says what writes them")
    return results


def collect(runs):
    """Join the results of several evaluations of one run."""
    gathered = runs[0]
    for more in runs[1:]:
        gathered["models"] |= more["models"]
        gathered["routing"] |= more["routing"]
    for name, routing in gathered["routing"].items():
        if name not in ("btx", "btx_nolb"):  # figure 5 shows only the histograms of these two
            routing.pop("probs", None)
    # round all numbers to 5 decimals
    return json.loads(json.dumps(gathered), parse_float=lambda digits: round(float(digits), 5))


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="files from --collect; with --collect, a run's results.json")
    parser.add_argument("--collect", action="store_true", help="gather the results of one run in one file")
    parser.add_argument("--timed", nargs="+", type=Path, default=[], help="results.json of the runs at equal FLOPs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; with --collect, file to write")
    args = parser.parse_args(argv)
    runs = [read_run(path) for path in args.runs]
    if args.collect:
        with replacing(args.out) as part:
            part.write_text(json.dumps(collect(runs)))
        return
    timed = [read_run(path) for path in args.timed]
    page = make_page(runs, timed)
    with replacing(args.out / "tables.md") as part:
        part.write_text(page, encoding="utf-8")
    draw(runs, timed, args.out)
    print(f"tables: {args.out}/tables.md   figures: {args.out}/*.png")


if __name__ == "__main__":
    run(main)

"""Write tables.md and the picture of this folder from its runs. Or print the choice of learning rates, for rates.md.

    python -m experiments.when.tables experiments/when/runs/*.json --out experiments/when
    python -m experiments.when.tables --rates out/when/cpu/seed0/1100/rates
"""
from cli import BadInput, make_parser, replacing, run
from pathlib import Path
from statistics import mean

from data.task import DOMAINS
from experiments.paired import points
from experiments.paper.tables import read_run
from experiments.pretrained.tables import compare, measure
from support.checkpoint import load_checkpoint
from support.figures import make_panels, save
from support.report import markdown, spread

LENGTHS = {"cpu": (48, 192, 770, 1540), "pretrained": (53, 212)}  # steps of finetuning
ROUTERS = {"random": "random routers, as in the paper", "text": "routers from text, ours"}
ALONE = {"routers_random": "routers alone, from random", "routers_text": "routers alone, from text",
         "random_770": "all weights, from random routers", "text_770": "all weights, from routers from text"}
MARKS = ("predictions", "pretrained")  # of the tables in predictions.md
METHODS = {"btx_mixed": ("BTX from random routers", "random"), "ridge_mixed": ("BTX from text", "text"),
           "average": ("the average, finetuned", "average")}  # before finetuning: its name, and its models' names after


def read_runs(paths, preset):
    """{steps of the branches: [run of each training seed]}, from files named PRESET_SEED_BRANCHES.json.

    Training seeds that do not have all lengths of branches yet are left out, so that all cells have the same seeds.
    """
    found = {}
    for path in paths:
        name, seed, branches = path.stem.split("_")
        if name == preset:
            found.setdefault(int(branches), {})[seed] = read_run(path)
    whole = set.intersection(*(set(runs) for runs in found.values())) if found else set()
    return {branches: [found[branches][seed] for seed in sorted(whole)] for branches in sorted(found)}


def gap_table(runs, lengths, column):
    """BTX − average: a row for each length of the branches and start of the routers, a column for each finetuning."""
    rows = []
    for branches, of_branches in runs.items():
        for routers, label in ROUTERS.items():
            gaps = [compare(of_branches, f"{routers}_{n} − average_{n}", column) for n in lengths]
            rows.append([f"branches of {branches} steps, {label}", *map(points, gaps)])
    return markdown(["BTX − average", *(f"{n} steps" for n in lengths)], rows)


def score_table(runs, lengths, column, digits=1):
    """Each method before finetuning and after each length of it: mean ± standard deviation over the training seeds."""
    rows = []
    for branches, of_branches in runs.items():
        for start, (label, method) in METHODS.items():
            names = [start, *(f"{method}_{n}" for n in lengths)]
            numbers = [[measure(run, name, column) for run in of_branches] for name in names]
            scale = 1 if "loss" in column else 100
            rows.append([f"{branches} steps, {label}", *(spread(some, scale, digits) for some in numbers)])
        kept = [measure(run, "btm_document_top1", column) for run in of_branches]
        rows.append([f"{branches} steps, BTM that restarts at each end of text", spread(kept, scale, digits)])
    return markdown(["branches, method", "not finetuned", *(f"{n} steps" for n in lengths)], rows)


def prediction_table(runs, table):
    """What was predicted in a table of predictions.md, what was measured, and whether it lies within the bounds."""
    rows = []
    for line in table.splitlines():
        comparison, branches, *column, predicted, bounds, _ = [cell.strip() for cell in line.strip("| ").split("|")]
        if "−" not in comparison:
            continue
        found = compare(runs[int(branches)], comparison, *(column or ["all"]))
        low, high = map(float, bounds.split(" to "))
        holds = "yes" if low <= 100 * mean(found) <= high else "**no**"
        by_seed = ", ".join(f"{100 * x:+.1f}" for x in found)
        rows.append([comparison, branches, *column, f"{predicted} ({bounds})", points(found), by_seed, holds])
    column = ["column"] if len(rows[0]) == 7 else []
    return markdown(["comparison", "branches", *column, "predicted", "measured", "by seed", "holds"], rows)


def orderings(gap):
    """Whether the registered orderings of the small models hold. gap: {(routers, branches, length): BTX − average}."""
    lengths = LENGTHS["cpu"]

    def longest_gap(routers, branches):
        return max(lengths, key=lambda n: gap[routers, branches, n])

    text = {cell: value for cell, value in gap.items() if cell[0] == "text"}
    return [all(longest_gap("random", branches) in (192, 770) for branches in (1100, 2200)),
            all(gap["random", 1100, n] > gap["random", 275, n] for n in (192, 770, 1540)),
            all(gap["text", 1100, n] > gap["text", 275, n] for n in lengths),
            max(text, key=text.get)[1] == 2200,
            all(gap["text", branches, 48] > gap["text", branches, 1540] for branches in (1100, 2200))]


def ordering_table(runs):
    """Whether each ordering holds for the means, and in how many training seeds."""
    gaps = {}
    for branches, of_branches in runs.items():
        for routers in ROUTERS:
            for n in LENGTHS["cpu"]:
                gaps[routers, branches, n] = compare(of_branches, f"{routers}_{n} − average_{n}", "all")
    of_means = orderings({cell: mean(found) for cell, found in gaps.items()})
    n_seeds = len(runs[275])
    of_seeds = [orderings({cell: found[i] for cell, found in gaps.items()}) for i in range(n_seeds)]
    rows = []
    for i, holds in enumerate(of_means):
        n_holding = sum(of_seed[i] for of_seed in of_seeds)
        rows.append([str(i + 1), "yes" if holds else "**no**", f"{n_holding} of {n_seeds}"])
    return markdown(["ordering", "holds for the means", "training seeds in which it holds"], rows)


def routers_table(runs):
    """What training the routers alone gives after 770 steps, beside all weights, with branches of 1,100 steps."""
    rows = []
    for name, label in ALONE.items():
        solved, loss = ([measure(run, name, column) for run in runs[1100]] for column in ("all", "loss"))
        rows.append([label, spread(solved, 100), spread(loss, digits=3)])
    return markdown(["trained for 770 steps", "solved, %", "loss"], rows)


def loss_ordering_table(runs):
    """Whether BTX − average in home loss is further below zero with branches of 400 steps than of 100: 6 and 7."""
    rows = []
    for i, routers in enumerate(ROUTERS):
        short, long = (compare(runs[branches], f"{routers}_53 − average_53", "home loss") for branches in (100, 400))
        n_holding = sum(b < a for a, b in zip(short, long, strict=True))
        holds = "yes" if mean(long) < mean(short) else "**no**"
        rows.append([str(6 + i), holds, f"{n_holding} of {len(short)}"])
    return markdown(["ordering", "holds for the means", "training seeds in which it holds"], rows)


def draw(runs, path):
    """Draw BTX − average against the length of finetuning, a panel for each start of the routers.

    Small marks are training seeds. A dotted line marks the paper's share of finetuning, 15 % of all tokens.
    """
    lengths = LENGTHS["cpu"]
    figure, [panels] = make_panels(1, 2, 3.8, 3.4)
    for panel, (routers, title) in zip(panels, ROUTERS.items(), strict=True):
        for i, (branches, of_branches) in enumerate(runs.items()):
            gaps = [[100 * x for x in compare(of_branches, f"{routers}_{n} − average_{n}", "all")] for n in lengths]
            panel.plot(lengths, gaps, ".", color=f"C{i}", ms=3)
            panel.plot(lengths, [mean(of_seeds) for of_seeds in gaps], "o-", color=f"C{i}", ms=5,
                       label=f"branches of {branches:,} steps")
            panel.axvline(3 * branches * 15 / 85, color=f"C{i}", lw=0.8, ls=":")
        panel.axhline(0, color="black", lw=0.8)
        panel.set(title=title, xlabel="steps of finetuning", xscale="log")
        panel.set_xticks(lengths, lengths)
        panel.minorticks_off()
    save(figure, [panels], ["BTX − average, points"], path)


def rate_table(folder):
    """The validation loss over all domains of each model of `rates` at each rate, the lowest of a row in bold."""
    losses = {}  # {model: {rate: loss}}
    for path in folder.glob("*/*.pt"):
        val_loss = load_checkpoint(path)["log"][-1]["val_loss"]
        losses.setdefault(path.stem, {})[path.parent.name] = mean(val_loss[domain] for domain in DOMAINS)
    rates = sorted({rate for row in losses.values() for rate in row}, key=float)
    rows = []
    for name, row in sorted(losses.items()):
        lowest = min(row, key=row.get)
        cells = {rate: f"{loss:.4f}" for rate, loss in row.items()}
        cells[lowest] = f"**{cells[lowest]}**"
        rows.append([name, *(cells.get(rate, "") for rate in rates)])
    return markdown(["model", *rates], rows)


def make_page(runs, pretrained, predictions):
    """The text of tables.md. predictions: the text of predictions.md, whose two tables follow marks."""
    of_small, of_pretrained = [predictions.split(f"<!-- {mark} -->\n")[1].split("\n\n")[0] for mark in MARKS]
    short, long = LENGTHS["cpu"], LENGTHS["pretrained"]
    sections = {
        "BTX − average, points over five domains": gap_table(runs, short, "all"),
        "BTX − average, hundredths of a nat per token (below zero BTX is better)": gap_table(runs, short, "loss"),
        "Solved, %": score_table(runs, short, "all"),
        "Predictions": prediction_table(runs, of_small),
        "Orderings": ordering_table(runs),
        "The routers alone": routers_table(runs)}
    if pretrained:
        sections |= {
            "Pretrained seed: loss of the answers at home, nats": score_table(pretrained, long, "home loss", 3),
            "Pretrained seed: solved at home, %": score_table(pretrained, long, "home"),
            "Pretrained seed: capitals, %": score_table(pretrained, long, "capital"),
            "Pretrained seed: predictions": prediction_table(pretrained, of_pretrained),
            "Pretrained seed: orderings": loss_ordering_table(pretrained)}
    page = "# When do experts beat averaging? The numbers\n\nDifferences are ± half their 95 % interval, scores ± the "
    page += "standard deviation over training seeds.\n"
    for title, table in sections.items():
        page += f"\n## {title}\n\n{table}\n"
    return page


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("runs", nargs="*", type=Path, help="files that recipe.mk writes to runs/")
    parser.add_argument("--rates", type=Path, help="folder of the runs that choose learning rates: print their losses")
    parser.add_argument("--out", type=Path, default=Path("experiments/when"), help="folder to write to")
    args = parser.parse_args(argv)
    if args.rates:
        print(rate_table(args.rates))
        return
    runs, pretrained = (read_runs(args.runs, preset) for preset in LENGTHS)
    if not runs or not all(runs.values()):
        raise BadInput("no training seed has branches of all lengths; recipe.mk says how to run one")
    predictions = (Path(__file__).parent / "predictions.md").read_text(encoding="utf-8")
    with replacing(args.out / "tables.md") as part:
        part.write_text(make_page(runs, pretrained, predictions), encoding="utf-8")
    draw(runs, args.out / "when.png")
    print(f"tables: {args.out}/tables.md   picture: {args.out}/when.png")


if __name__ == "__main__":
    run(main)

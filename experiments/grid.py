"""Write the table of learning rates: what `make grid` ends with.

    python -m experiments.grid out/grid/1e-3 out/grid/branch-1e-3 --out results      # writes results/grid.md

The text is that of grid.md. There [[btx 1e-3 2e-3]] stands for the cells of btx in the folders 1e-3 and 2e-3.
"""
import json
import re
from pathlib import Path
from statistics import mean

from data.common import BadInput, make_parser, replacing, run
from data.task import DOMAINS
from experiments.paper import EXPERTS, GROUPS, Report


def make_cells(name, runs):
    """A model's mean accuracy in % (and loss) in each run, the best in bold.

    It is over all domains; of an expert over its own, of the seed ("knowledge") over general and trivia.
    """
    domains = DOMAINS
    if name in EXPERTS:
        domains = [name]
    elif name == "knowledge":
        name, domains = "seed", GROUPS["knowledge"]
    models = [run["models"][name] for run in runs]
    accuracies = [mean(model["accuracy"][domain] for domain in domains) for model in models]
    cells = []
    for model, accuracy in zip(models, accuracies, strict=True):
        mark = "**" if accuracy == max(accuracies) else ""
        loss = mean(model["loss"][domain] for domain in domains)
        cells.append(f"{mark}{100 * accuracy:.1f}{mark} ({loss:.3f})")
    return " | ".join(cells)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of make grid, each with a grid/results.json")
    parser.add_argument("--out", type=Path, default="results", help="folder for grid.md (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        runs = {folder.name: json.loads((folder / "grid" / "results.json").read_text()) for folder in args.folders}
        text = (Path(__file__).parent / "grid.md").read_text().replace("[[machines]]", Report(runs.values()).machines())
        for words in re.findall(r"\[\[(.+?)\]\]", text):
            name, *points = words.split()
            text = text.replace(f"[[{words}]]", make_cells(name, [runs[point] for point in points]))
    except (OSError, KeyError) as missing:
        raise BadInput(f"{missing}: missing; run make grid") from None
    with replacing(args.out / "grid.md") as part:
        part.write_text(text)


if __name__ == "__main__":
    run(main)

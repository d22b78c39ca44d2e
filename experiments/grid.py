"""Write the table of learning rates: what `make grid` ends with.

    python -m experiments.grid out/grid/1e-3 out/grid/branch-1e-3 --out results      # writes results/grid.md

The text is that of grid.md. There [[grid btx all 1e-3 2e-3]] stands for the cells of btx in the folders 1e-3 and 2e-3,
over a group of domains or in one domain.
"""
import json
import re
from pathlib import Path
from statistics import mean

from cli import BadInput, make_parser, replacing, run
from experiments.paper import GROUPS, Report


def make_cells(name, group, runs):
    """Cells: a model's mean accuracy in % and loss in each run, over a group of domains or in one; the best is bold."""
    domains = GROUPS.get(group, [group])
    results = [run["models"][name] for run in runs]
    accuracies = [mean(result["accuracy"][domain] for domain in domains) for result in results]
    cells = []
    for result, accuracy in zip(results, accuracies, strict=True):
        mark = "**" if accuracy == max(accuracies) else ""
        loss = mean(result["loss"][domain] for domain in domains)
        cells.append(f"{mark}{100 * accuracy:.1f}{mark} ({loss:.3f})")
    return " | ".join(cells)


def fill_grid(text, runs, cells_of):
    """Replace each [[grid MODEL GROUP POINT ...]] by cells_of(MODEL, GROUP, the runs of these points).

    runs: {point: results of evaluate.py}.
    """
    def call(match):
        name, group, *points = match[1].split()
        return cells_of(name, group, [runs[point] for point in points])
    return re.sub(r"\[\[grid (.+?)\]\]", call, text)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of make grid, each with a grid/results.json")
    parser.add_argument("--out", type=Path, default="results", help="folder for grid.md (default: %(default)s)")
    args = parser.parse_args(argv)
    try:
        runs = {folder.name: json.loads((folder / "grid" / "results.json").read_text()) for folder in args.folders}
        text = (Path(__file__).parent / "grid.md").read_text().replace("[[machines]]", Report(runs.values()).machines())
        text = fill_grid(text, runs, make_cells)
    except (OSError, KeyError) as missing:
        raise BadInput(f"{missing}: missing; run make grid") from None
    with replacing(args.out / "grid.md") as part:
        part.write_text(text)


if __name__ == "__main__":
    run(main)

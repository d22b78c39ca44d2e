"""Write the report on real text: what `make text` ends with.

    python -m experiments.text_report out/text/seed10 out/text/seed11 --grid out/text/grid --out results/text

Writes README.md, results.json and a figure. The text is that of text.md. There [[scores btx]] stands for
TextReport.scores("btx"), and [[grid btx mean 1e-3 2e-3]] for the cells of btx in the folders 1e-3 and 2e-3 of --grid.
"""
import json
from pathlib import Path
from statistics import mean

from cli import BadInput, make_parser, replacing, run
from experiments.grid import fill_grid
from experiments.paired import points, spread
from experiments.paper import Report
from support import figures

DOMAINS = ("packages", "python", "german", "dictionary")
GROUPS = {"mean": DOMAINS, "experts": DOMAINS[1:]}
COLUMNS = (*DOMAINS, "mean", "changing")


class TextReport(Report):
    """A report on bits per byte. Its methods give what [[...]] stands for in text.md."""

    def bits(self, name, column):
        """A model's bits per byte in each run, in one domain or the mean of a group of them."""
        domains = GROUPS.get(column, [column])
        return [mean(result["bits_per_byte"][domain] for domain in domains) for result in self.results(name)]

    def scores(self, name):
        """Cells: bits per byte in each column, and TFLOP since the seed."""
        cells = [spread(self.bits(name, column), digits=3) for column in COLUMNS]
        return " | ".join([*cells, f"{mean(self.costs(name, 'flops')) / 1e12:.1f}"])

    def minus(self, a, b, *columns):
        """Cells: a's bits per byte minus b's in each column, or in those named, in hundredths."""
        cells = []
        for column in columns or COLUMNS:
            pairs = zip(self.bits(a, column), self.bits(b, column), strict=True)
            cells.append(points([x - y for x, y in pairs]))
        return " | ".join(cells)


def make_cells(name, column, runs):
    """Cells: a model's bits per byte in one column in each run, the least in bold."""
    bits = TextReport(runs).bits(name, column)
    return " | ".join(f"**{value:.3f}**" if value == min(bits) else f"{value:.3f}" for value in bits)


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("seeds", nargs="+", type=Path, help="folders of make rivals, one for each seed")
    parser.add_argument("--grid", required=True, type=Path, help="folder of make grid")
    parser.add_argument("--out", type=Path, default="results/text", help="folder to write to (default: %(default)s)")
    args = parser.parse_args(argv)
    text = (Path(__file__).parent / "text.md").read_text(encoding="utf-8")
    try:
        runs = [json.loads((folder / "rivals/results.json").read_text()) for folder in args.seeds]
        files = args.grid.glob("*/grid/results.json")
        grid = {file.parents[1].name: json.loads(file.read_text()) for file in files}  # {rate: results}
        text = fill_grid(text, grid, make_cells)
    except (OSError, KeyError) as missing:
        raise BadInput(f"{missing}: missing; run make text") from None
    with replacing(args.out / "README.md") as part:
        part.write_text(TextReport(runs).fill(text), encoding="utf-8")
    numbers = {"seeds": [run["models"] for run in runs], "grid": {name: run["models"] for name, run in grid.items()}}
    with replacing(args.out / "results.json") as part:
        part.write_text(json.dumps(numbers))
    figures.routing({name: runs[0]["routing"][name] for name in ("btx", "su_dm")}, args.out / "figures/routing.png")


if __name__ == "__main__":
    run(main)

"""Write a report on real text, from scratch (what `make text` ends with) or from a pretrained seed.

    python -m experiments.text_report out/text/seed1?/rivals/results.json --grid out/text/grid --page text

Writes README.md, results.json and a figure into results/PAGE. The text is that of PAGE.md. There [[scores btx]] stands
for TextReport.scores("btx"), and [[grid btx mean 1e-3 2e-3]] for the cells of btx in the folders 1e-3 and 2e-3 of
--grid.
"""
import json
import re
from pathlib import Path
from statistics import mean

from cli import BadInput, make_parser, replacing, run
from experiments.facts import RELATIONS
from experiments.grid import fill_grid
from experiments.paired import points, spread
from experiments.paper import Report
from support import figures

DOMAINS = ("packages", "python", "german", "dictionary")
GROUPS = {"mean": DOMAINS, "experts": DOMAINS[1:]}
COLUMNS = (*DOMAINS, "mean", "changing")
HOME = {"packages": "seed", "python": "python", "german": "german", "dictionary": "dictionary"}  # domain -> its model


ROW = r"\| (\w+) − (\w+) \| (\w+) \| (\S+) \| (\S+) to (\S+) \| (.+) \|"  # of the table in predictions.md


class TextReport(Report):
    """A report on bits per byte. Its methods give what [[...]] stands for in text.md."""

    def bits(self, name, column):
        """A model's bits per byte in each run, in one domain or the mean of a group of them."""
        domains = GROUPS.get(column, [column])
        if name == "home":
            return [mean(bits) for bits in zip(*(self.bits(HOME[domain], domain) for domain in domains), strict=True)]
        return [mean(result["bits_per_byte"][domain] for domain in domains) for result in self.results(name)]

    def measure(self, name, column):
        """What a prediction is about, in each run: accuracy on facts, the loss of their answers, or bits per byte."""
        key = {"facts": "accuracy", "answers": "answer_loss"}.get(column)
        if key is None:
            return self.bits(name, column)
        return [mean(result[key][fact] for fact in RELATIONS) for result in self.results(name)]

    def facts(self, name):
        """Cells: accuracy in % for each of RELATIONS and the mean, then the loss of the answers' tokens likewise."""
        results = self.results(name)
        cells = [spread([result["accuracy"][fact] for result in results], 100) for fact in RELATIONS]
        cells.append(spread(self.measure(name, "facts"), 100))
        cells += [spread([result["answer_loss"][fact] for result in results], digits=2) for fact in RELATIONS]
        cells.append(spread(self.measure(name, "answers"), digits=2))
        return " | ".join(cells)

    def predictions(self):
        """Rows: the predictions of predictions.md and what was measured, wrong ones first."""
        table = (Path(__file__).parent / "predictions.md").read_text(encoding="utf-8")
        wrong, right = [], []
        for a, b, column, said, low, high, why in re.findall(ROW, table):
            pairs = zip(self.measure(a, column), self.measure(b, column), strict=True)
            found = 100 * mean(x - y for x, y in pairs)
            row = f"| {a} − {b} | {column} | {said} ({low} to {high}) | {found:+.1f} | "
            if float(low) <= found <= float(high):
                right.append(f"{row}yes | {why} |")
            else:
                wrong.append(f"{row}**no** | {why} |")
        return "\n".join([*wrong, *right])

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
    parser.add_argument("results", nargs="+", type=Path, help="files that evaluate.py wrote, one for each seed")
    parser.add_argument("--grid", required=True, type=Path, help="folder of make grid")
    parser.add_argument("--page", choices=("text", "pretrained"), default="text", help="which report (default: text)")
    args = parser.parse_args(argv)
    out = Path("results", args.page)
    try:
        text = (Path(__file__).parent / f"{args.page}.md").read_text(encoding="utf-8")
        runs = [json.loads(file.read_text()) for file in args.results]
        files = args.grid.glob("*/grid/results.json")
        grid = {file.parents[1].name: json.loads(file.read_text()) for file in files}  # {rate: results}
        text = fill_grid(text, grid, make_cells)
    except (OSError, KeyError) as missing:
        raise BadInput(f"{missing}: missing; run make text, or make PRESET=pretrained") from None
    with replacing(out / "README.md") as part:
        part.write_text(TextReport(runs).fill(text), encoding="utf-8")
    numbers = {"seeds": [run["models"] for run in runs], "grid": {name: run["models"] for name, run in grid.items()}}
    with replacing(out / "results.json") as part:
        part.write_text(json.dumps(numbers))
    figures.routing({name: runs[0]["routing"][name] for name in ("btx", "su_dm")}, out / "figures/routing.png")


if __name__ == "__main__":
    run(main)

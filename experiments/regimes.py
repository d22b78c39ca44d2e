"""When does branching pay? For seeds of several ages and branches of several rates: is the average of all as good as the seed,
and does BTX's margin over sparse upcycling follow it? (`make regimes`)

    python -m experiments.regimes out/regimes/2000_1e-3_0 out/regimes/2000_1e-3_1 --out results

A folder is called AGE_RATE_SEED: the seed's steps, the branches' peak learning rate, the training seed. Reads its
grid/results.json; writes regimes.md, regimes.json and figures/regimes.png.
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path

from data.task import over_domains
from experiments.paired import cell, table
from experiments.paper import read_results, where
from support import figures
from support.files import check_other, prepare_output, reading, write_text
from support.settings import BadInput, option, parse, run

MODELS = ("seed", "soup", "btx_mixed", "su_dm", "btx")


@dataclass
class Settings:
    runs: list = option([], "folders named AGE_RATE_SEED", positional=True)
    recipe: list = option([], "files of make paper, seed0.json and so on: one more cell", nargs="+")
    recipe_cell: str = option("", "their AGE_RATE, as in 6500_1.5e-3")
    out: str = option("results", "folder to write to")


TEXT = """# When does branching pay?

The paper does not say from which seeds branches can be averaged. Here seeds of {ages} steps branch at several peak rates. The
average of all weights (`soup`) shows whether the branches can still be averaged. Each dot of the figure is one run. Everything
else is the recipe's. Mean accuracy over the domains, in % (± standard deviation over runs).

![BTX minus sparse upcycling (DM), against the average of all weights minus the seed](figures/regimes.png)

{cells}

Correlation of the two over all runs: {r:.2f}.

`make regimes SEEDS={n}` repeats it ({where}).
"""


def correlation(pairs):
    """Pearson's r of a list of pairs.

    >>> round(correlation([(0, 0), (1, 2), (2, 4)]), 6)
    1.0
    """
    x, y = ([v - sum(vs) / len(vs) for v in vs] for vs in zip(*pairs, strict=True))
    spread = sum(a * a for a in x) * sum(b * b for b in y)
    return sum(a * b for a, b in zip(x, y, strict=True)) / spread**0.5 if spread else float("nan")


def main(argv=None):
    settings, cells, machines = parse(Settings, argv), {}, {}
    files = [(Path(folder).name, Path(folder) / "grid" / "results.json") for folder in settings.runs]
    files += [(f"{settings.recipe_cell}_{n}", Path(file)) for n, file in enumerate(settings.recipe)]
    for name, file in files:
        parts = re.fullmatch(r"(\d+)_([\d.]+e-\d+)_(\d+)", name)
        if not parts:
            raise BadInput(f"{name}: should be named AGE_RATE_SEED; make regimes makes it so")
        numbers = read_results(file, MODELS)
        with reading(file):
            machines[where(numbers["machine"])] = True
            scores = {m: over_domains(numbers["models"][m]["accuracy"]) for m in MODELS}
            cells.setdefault((int(parts[1]), parts[2]), []).append(scores)
    if not cells:
        raise BadInput("name the folders of the runs, as in: python -m experiments.regimes out/regimes/* --out results")
    out = Path(settings.out)
    for name in ("regimes.json", "regimes.md", "figures/regimes.png"):
        check_other(out / name, [file for _, file in files])
    prepare_output(out / "figures" / "regimes.png")
    cells = dict(sorted(cells.items()))
    dots = {key: [(100 * (s["soup"] - s["seed"]), 100 * (s["btx"] - s["su_dm"])) for s in runs] for key, runs in cells.items()}
    figures.scatter({f"{age} steps, {rate}": pairs for (age, rate), pairs in dots.items()},
                    ("average of all weights minus seed, points", "BTX minus sparse upcycling (DM), points"),
                    out / "figures" / "regimes.png")
    rows = [[str(age), rate, str(len(runs)), *(cell([s[m] for s in runs], 100) for m in MODELS),
             *(cell(values) for values in zip(*dots[age, rate], strict=True))] for (age, rate), runs in cells.items()]
    head = ["seed's steps", "branch rate", "runs", "seed", "average of all", "BTX, not finetuned", "upcycling (DM)", "BTX",
            "average - seed", "BTX - upcycling"]
    text = TEXT.format(cells=table(head, rows), where="; ".join(machines), n=min(map(len, cells.values())),
                       ages=", ".join(sorted({str(a) for a, _ in cells}, key=int)),
                       r=correlation([pair for pairs in dots.values() for pair in pairs]))
    write_text(out / "regimes.md", text)
    numbers = [{"age": age, "rate": rate, "runs": runs} for (age, rate), runs in cells.items()]
    write_text(out / "regimes.json", json.dumps(numbers, indent=1))
    print(table(head, rows))


if __name__ == "__main__":
    run(main)

"""The table of learning rates: what `make grid` ends with.

    python -m experiments.grid out/grid/1e-3 out/grid/branch-1e-3 --out results      # writes results/grid.md
"""
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from data.task import DOMAINS
from experiments.paired import table
from experiments.paper import EXPERTS, full, read_results, where
from support.files import prepare_output, reading, write_text
from support.settings import BadInput, option, parse, run


@dataclass
class Settings:
    runs: list = option([], "folders of make grid, named RATE, branch-RATE or large-RATE", positional=True)
    out: str = option("results", "folder for grid.md")


REPORT = """# Models at several learning rates

Mean accuracy over the domains (loss) at each peak learning rate, the best in bold. From these the rates in the
[Makefile](../Makefile) were chosen: on data and tasks of another data seed, with a training seed that the report does not have.
Dense (DM) and sparse upcycling have one rate for both of their phases; BTX has one for the branches (second table) and one for
the finetuning, which all its variants share.

{rates}

The branches' rate, with the finetuning at the recipe's: each expert at home, the average of all, and BTX made of them.

{branches}

{larger}What was chosen: 1e-3 for Dense (DM), sparse upcycling and BTX's finetuning, the best of each. For the branches 1.5e-3,
though BTX is half a point better at 2.25e-3. There the average of all weights is 7 points below the seed (which has 42.4 here),
at 1.5e-3 four, at 1e-3 one, and the [conditions](../experiments/registered.md) allow three. At 1e-3 the wiki expert learns too
little. So the compromise costs BTX half a point, and its rivals nothing. The larger dense model has 1e-2, the best of its three.

`make grid` repeats it ({where}).
"""


def report(results):
    """The report of `make grid`; results: of each folder, named RATE, branch-RATE or large-RATE."""
    texts = {}
    for kind, prefix in (("rates", ""), ("branches", "branch-"), ("larger", "large-")):
        names = [n for n in results if n.startswith(prefix or tuple("123456789"))]
        rows = []
        for model in dict.fromkeys(model for name in names for model in results[name]["models"]):
            found = {name: results[name]["models"][model] for name in names if model in results[name]["models"]}
            home = [model] if model in EXPERTS else DOMAINS  # an expert's own domain
            scores = {name: mean(m["accuracy"][d] for d in home) for name, m in found.items()}
            best = max(scores.values())
            cells = []
            for name in names:
                mark = "**" if scores.get(name) == best else ""
                cells.append(f"{mark}{100 * scores[name]:.1f}{mark} ({mean(found[name]['loss'][d] for d in home):.3f})"
                             if name in found else "")
            rows.append([full(model), *cells])
        texts[kind] = table(["model", *(name.removeprefix(prefix) for name in names)], rows) if rows else ""
    if texts["larger"]:
        texts["larger"] = f"The larger dense model, trained for half of its steps.\n\n{texts['larger']}\n\n"
    machines = dict.fromkeys(where(found["machine"]) for found in results.values())
    return REPORT.format(where="; ".join(machines), **texts)


def main(argv=None):
    settings = parse(Settings, argv)
    folders, out = [Path(folder) for folder in settings.runs], Path(settings.out) / "grid.md"
    if len({folder.name for folder in folders}) < max(1, len(folders)):
        raise BadInput(f"{', '.join(settings.runs) or 'no folder'}: name folders of make grid, no two with one name")
    results = {folder.name: read_results(folder / "grid" / "results.json", []) for folder in folders}
    with reading(", ".join(settings.runs), "reported"):
        text = report(results)
    prepare_output(out)
    write_text(out, text)
    print(text)


if __name__ == "__main__":
    run(main)

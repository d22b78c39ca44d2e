"""When does branching pay? BTX minus Dense (DM) and minus sparse upcycling (DM), over a grid of small runs (`make regimes`).

    python -m experiments.regimes out/regimes/100-1000_1e-3 out/regimes/100-4000_1e-3 --out results

A folder is called FACTS-AGE_RATE: how many lands, people and functions are to be known by heart; the seed's steps; the peak
learning rate of the branches and of the rivals, of whom the better counts. Reads its some/results.json; writes regimes.md,
regimes.json and figures/regimes.png.
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from experiments.summarise import table
from support import figures
from support.files import prepare_output, read_json, write_text
from support.settings import BadInput, option, parse, run

FACTS_EACH = 6  # a land has three, a person two, a function one
RIVALS = {"dense_dm": "Dense (DM)", "su_dm": "sparse upcycling (DM)"}


@dataclass
class Settings:
    runs: list = option([], "folders named FACTS-AGE_RATE", positional=True)
    out: str = option("results", "folder to write to")


TEXT = """# When does branching pay?

BTX minus its data-matched rivals, in points of mean accuracy, one run a cell: over the load of facts to be known by heart (so
many lands with three facts, as many people with two, as many functions), the age of the seed (tokens; the branches have
{branch:.1f}M each, the finetuning {finetune:.1f}M) and the branches' peak learning rate. The figure compares BTX at each rate
with each rival at the better of the two; the table has each rate. No load balancing. A single run each: the report's standard
deviations over seeds say how much of it is noise.

![BTX minus Dense (DM) and minus sparse upcycling (DM)](figures/regimes.png)

{cells}

What we read in the committed run: **branching too early is what loses.** With the youngest seed BTX is behind both rivals in
every cell: the branches still learn what all of them need, each for itself, and go so far from each other that the average of
their attention fits none of the experts (see the mixed model before finetuning). The oldest seed narrows the gap: with twelve
times the tokens BTX is from 1.8 points ahead of Dense (DM) to 5.4 behind, and from 0.3 to 6.1 points behind sparse upcycling.
In no cell is it clearly ahead; in the [report](README.md), whose branches and finetuning from the oldest of these seeds are
longer, it is ahead of Dense (DM). The more there is to memorise, the more a second expert from the start is worth while the
seed is young. BTX is a little better at the branches' higher rate in every regime, though the mixed model before finetuning is
worse there. Read the trend, not the cell: two runs of one cell that differed in rounding alone were up to seven points apart.
Llama-2, the paper's seed, had seen ten times what a branch sees.

`make regimes` repeats it (one seed; {where}).
"""


def main(argv=None):
    settings = parse(Settings, argv)
    cells, models, machines = [], {}, {}
    for folder in settings.runs:
        parts = re.fullmatch(r"(\d+)-(\d+)_([\d.e-]+)", Path(folder).name)
        file = Path(folder) / "some" / "results.json"
        if not parts or not file.exists():
            raise BadInput(f"{folder}: should be named FACTS-AGE_RATE and hold some/results.json; make regimes makes it so")
        results = read_json(file)
        models, machine = results["models"], results["machine"]
        machines[f"{machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}, commit {machine['commit']}"] = True
        score = {name: mean(m["accuracy"].values()) for name, m in models.items()}
        at_home = mean(models[d]["accuracy"][d] for d in ("math", "code", "wiki"))
        cells.append({"facts": int(parts[1]), "age": models["seed"]["tokens"], "rate": parts[3],
                      "params": models["seed"]["params"], "experts_at_home": at_home, **score})
    if not cells:
        raise BadInput("name the folders of the runs, as in: python -m experiments.regimes out/regimes/* --out results")
    out = Path(settings.out)
    prepare_output(out / "figures" / "regimes.png")
    for cell in cells:
        regime = [c for c in cells if (c["facts"], c["age"]) == (cell["facts"], cell["age"])]
        cell["best"] = {rival: max(c[rival] for c in regime) for rival in RIVALS}
    figures.regimes(cells, RIVALS, out / "figures" / "regimes.png")
    scores = {"seed": "seed", "experts_at_home": "experts, each at home", "top2_mixed": "mixed, not finetuned",
              **RIVALS, "btx": "BTX"}
    head = ["load", "facts per 1000 parameters", "seed's tokens, M", "rate", *scores.values()]
    rows = [[str(c["facts"]), f"{1000 * FACTS_EACH * c['facts'] / c['params']:.0f}", f"{c['age'] / 1e6:.1f}", c["rate"],
             *(f"{100 * c[name]:.1f}" for name in scores)] for c in cells]
    tokens = {"branch": models["math"]["tokens"] - models["seed"]["tokens"]}
    tokens["finetune"] = models["btx"]["tokens"] - models["seed"]["tokens"] - 3 * tokens["branch"]
    where = "; ".join(machines)  # one, if all cells are of one commit
    text = TEXT.format(cells=table(head, rows), where=where, **{k: v / 1e6 for k, v in tokens.items()})
    write_text(out / "regimes.md", text)
    write_text(out / "regimes.json", json.dumps(cells, indent=1))
    print(table(head, rows))


if __name__ == "__main__":
    run(main)

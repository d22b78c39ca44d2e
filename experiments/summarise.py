"""Several runs of the pipeline with different seeds become one report: means, spreads, and which of our promises hold.

    python -m experiments.summarise out/seed0 out/seed1 out/seed2 --out results/demo    # what `make results` ends with

Copies each run's results.json and the figures of the first, and writes README.md.
"""
import shutil
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from support.files import prepare_output, read_json, write_text
from support.settings import BadInput, option, parse, run

DOMAINS = ("general", "math", "code", "wiki", "switch")
EXPERTS = ("math", "code", "wiki")


@dataclass
class Settings:
    runs: list = option([], "folders that evaluate.py wrote", positional=True)
    out: str = option("results/demo", "folder to write to")


def cell(values, scale=1.0, digits=1):
    """Mean and sample standard deviation as text, `91.2 ± 0.4`; the mean alone of a single value."""
    text = f"{scale * mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {scale * stdev(values):.{digits}f}"


def rows(runs):
    """A line of the table for each model: accuracy by domain, their mean, loss, and what it cost."""
    for name in runs[0]["models"]:
        models = [r["models"][name] for r in runs]
        yield ([name] + [cell([m["accuracy"][d] for m in models], 100) for d in DOMAINS]
               + [cell([mean(m["accuracy"].values()) for m in models], 100),
                  cell([mean(m["loss"].values()) for m in models], digits=3),
                  f"{models[0]['active_params'] / 1e6:.2f} of {models[0]['params'] / 1e6:.2f}",
                  f"{models[0]['tokens'] / 1e6:.2f}", f"{models[0]['flops'] / 1e15:.3f}",
                  cell([m["elapsed"] for m in models], digits=0)])


def promises(runs):
    """What the method should show, as (sentence, worst margin or value, whether it holds), from means over the runs."""
    accuracy = {name: {d: mean(r["models"][name]["accuracy"][d] for r in runs) for d in DOMAINS} for name in runs[0]["models"]}
    average = {name: mean(a.values()) for name, a in accuracy.items()}
    btx, seed = accuracy["btx"], accuracy["seed"]
    n = len(runs[0]["routing"]["btx"]["experts"])
    shares = {d: [[mean(run["routing"]["btx"]["share"][d][layer][i] for run in runs) for i in range(n)]
                  for layer in range(len(runs[0]["routing"]["btx"]["share"][d]))] for d in DOMAINS}
    experts = runs[0]["routing"]["btx"]["experts"]
    rivals = ("seed", *EXPERTS, "soup", "btm_bayes_top1")
    margin = min(average["btx"] - average[r] for r in rivals)
    yield "BTX's mean accuracy above seed, experts, soup and BTM Top-1 by 5 points", f"{100 * margin:+.1f}", margin >= 0.05
    for d in EXPERTS:
        gain = accuracy[d][d] - seed[d]
        yield f"{d} expert above the seed in its domain by 35 points", f"{100 * gain:+.1f}", gain >= 0.35
        kept = btx[d] / accuracy[d][d]
        yield f"BTX keeps 95 % of the {d} expert's accuracy in {d}", f"{100 * kept:.1f} %", kept >= 0.95
    yield "the seed solves 75 % of general", f"{100 * seed['general']:.1f} %", seed["general"] >= 0.75
    yield ("the seed solves 5 to 40 % of each other domain", ", ".join(f"{100 * seed[d]:.1f} %" for d in EXPERTS),
           all(0.05 <= seed[d] <= 0.40 for d in EXPERTS))
    kept = btx["general"] / seed["general"]
    yield "BTX keeps 95 % of the seed's accuracy in general", f"{100 * kept:.1f} %", kept >= 0.95
    gain = btx["switch"] - accuracy["btm_bayes_top1"]["switch"]
    yield "BTX above BTM Top-1 on switch by 25 points", f"{100 * gain:+.1f}", gain >= 0.25
    for d in EXPERTS:
        led = sum(max(range(n), key=layer.__getitem__) == experts.index(d) for layer in shares[d])
        yield (f"the {d} expert has the largest share of the gates for {d} text in most layers",
               f"{led} of {len(shares[d])}", led > len(shares[d]) / 2)
    smallest = min(mean(mean(layer[i] for layer in shares[d]) for d in DOMAINS) for i in range(n))
    yield "no expert has less than 5 % of all gates", f"{100 * smallest:.1f} %", smallest >= 0.05


def table(head, lines):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def main(argv=None):
    settings = parse(Settings, argv)
    if not settings.runs:
        raise BadInput("name the folders of the runs, as in: python -m experiments.summarise out/seed0 out/seed1 --out results")
    files = [Path(folder) / "results.json" for folder in settings.runs]
    for file in files:
        if not file.exists():
            raise BadInput(f"{file}: no such file; evaluate.py writes it")
    runs, out = [read_json(file) for file in files], Path(settings.out)
    for file, r in zip(files, runs, strict=True):
        missing = {"btx", "seed", *EXPERTS, "soup", "btm_bayes_top1"} - r["models"].keys()
        if missing:
            raise BadInput(f"{file}: lacks the models {', '.join(sorted(missing))}; `make` evaluates all of them")
    prepare_output(out / "README.md")
    for folder, file in zip(settings.runs, files, strict=True):
        shutil.copy(file, out / f"{Path(folder).name}.json")
    shutil.copytree(Path(settings.runs[0]) / "figures", out / "figures", dirs_exist_ok=True)
    if (page := Path(settings.runs[0]) / "explore.html").exists():
        shutil.copy(page, out)
    head = ["model", *DOMAINS, "mean", "loss", "active of all, M", "tokens, M", "PFLOP", "elapsed, s"]
    machine = runs[0]["machine"]
    text = f"""# Results over {len(runs)} seeds

{table(head, rows(runs))}

Accuracy in %, mean ± sample standard deviation over training seeds ({', '.join(Path(f).name for f in settings.runs)})
on the same data. The [glossary](../../docs/glossary.md) explains the columns. `make results` repeats this.
Machine: {machine['cores']} cores of {machine['cpu']}, torch {machine['torch']}, commit {machine['commit']}.

{table(['what should hold, over the means', 'measured', ''], [[s, v, 'yes' if ok else '**no**'] for s, v, ok in promises(runs)])}

Figures of the first seed:

![accuracy by domain](figures/accuracy.png)

![share of the gates that each expert has](figures/routing.png)

![validation loss](figures/curves.png)

Which expert wrote which token: [explore.html](explore.html), to be opened in a browser.
"""
    write_text(out / "README.md", text)
    print(text)


if __name__ == "__main__":
    run(main)

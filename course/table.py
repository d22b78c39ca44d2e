"""The table of an experiment (EXPERIMENT.md): mean ± standard deviation over seeds, for models named VARIANT_sSEED.

    python -m course.table out/experiment2-12345/results.json
    python -m course.table out/class/mine_s*.pt             # GFLOP since data/start of a class row, by the ledgers
"""
import json
import sys
from pathlib import Path
from statistics import mean, stdev

import torch

from data.task import over_domains
from support.checkpoint import load_checkpoint
from support.report import markdown


def measure(model, routing):
    """A model's row: accuracies and their mean in %, two losses in nats, and the shares `own` and `largest` in %."""
    row = {domain: 100 * value for domain, value in model["accuracy"].items() if domain != "switch"}
    share = {domain: torch.tensor(gates) for domain, gates in routing["share"].items()}  # (n_layer, N) each
    own = torch.stack([share[name][:, routing["experts"].index(name)] for name in ("math", "code", "wiki")]).mean()
    largest = torch.stack([share[domain] for domain in row]).mean(0).max(1).values.mean()
    losses = {"loss": over_domains(model["loss"]), "answers": over_domains(model["answer_loss"])}
    return {**row, "mean": mean(row.values()), **losses, "own": 100 * own.item(), "largest": 100 * largest.item()}


def main(argv):
    if argv[0].endswith(".pt"):
        given = {entry["id"] for path in Path("data/start").glob("*.pt") for entry in load_checkpoint(path)["ledger"]}
        for path in argv:
            cost = sum(entry["flops"] for entry in load_checkpoint(path)["ledger"] if entry["id"] not in given) / 1e9
            print(f"{path}: {cost:.1f} of 730 GFLOP since data/start")
        return
    results = json.loads(Path(argv[0]).read_text())
    runs = {}  # {variant: its rows, one for each seed}
    for name, model in results["models"].items():
        runs.setdefault(name.rsplit("_s", 1)[0], []).append(measure(model, results["routing"][name]))
    columns = list(next(iter(runs.values()))[0])
    rows = []
    for variant, measured in runs.items():
        row = [variant]
        for column in columns:
            values = [run[column] for run in measured]
            digits = 3 if column in ("loss", "answers") else 1
            spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
            row.append(f"{mean(values):.{digits}f}{spread}")
        rows.append(row)
    print(markdown(["variant", *columns], rows))


if __name__ == "__main__":
    main(sys.argv[1:])

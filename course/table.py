"""The table of an experiment (EXPERIMENT.md): mean ± standard deviation over seeds, for models named VARIANT_sSEED.

    python -m course.table out/experiment2-12345/results.json
"""
import json
from pathlib import Path
from statistics import mean

import torch

from cli import make_parser, run
from support.checkpoint import load_checkpoint
from support.report import markdown, over_domains, own_gates, spread

DIGITS = {"loss": 3, "answers": 3}  # decimals; other columns have 1


def measure(model, routing):
    """A model's row: accuracies in %, losses in nats, and `own` and `largest` in %, None if there are none."""
    accuracy = {domain: 100 * value for domain, value in model["accuracy"].items() if domain != "switch"}
    row = {**accuracy, "mean": mean(accuracy.values()), "loss": over_domains(model["loss"]),
           "answers": over_domains(model["answer_loss"]), "own": None, "largest": None}
    if routing:
        experts = [name.split("_")[0] for name in routing["experts"]]  # math_2 is another copy of math
        domains = [domain for domain in ("math", "code", "wiki") if domain in experts]
        if domains:
            row["own"] = 100 * mean(own_gates(routing | {"experts": experts}, domain) for domain in domains)
        gates = torch.tensor([routing["share"][domain] for domain in accuracy])  # (domains, n_layer, N)
        gates = gates / gates.sum(-1, keepdim=True)  # Switch's gates do not sum to 1
        row["largest"] = 100 * gates.mean(0).max(1).values.mean().item()
    return row


def main(argv=None):
    parser = make_parser(__doc__)
    parser.add_argument("results", help="the results.json of an experiment, beside its checkpoints")
    path = parser.parse_args(argv).results
    results = json.loads(Path(path).read_text())
    ledgers = {name: load_checkpoint(Path(path).parent / f"{name}.pt")["ledger"] for name in results["models"]}
    shared = set.intersection(*({entry["id"] for entry in ledger} for ledger in ledgers.values()))
    runs = {}  # {variant: its rows, one for each seed}
    for name, model in results["models"].items():
        row = measure(model, results["routing"].get(name))
        row["GFLOP"] = sum(entry["flops"] for entry in ledgers[name] if entry["id"] not in shared) / 1e9
        runs.setdefault(name.rsplit("_s", 1)[0], []).append(row)
    rows = []
    for variant, measured in runs.items():
        rows.append([variant])
        for name, value in measured[0].items():
            column = [row[name] for row in measured]
            rows[-1].append("–" if value is None else spread(column, digits=DIGITS.get(name, 1)))
    print(markdown(["variant", *measured[0]], rows))


if __name__ == "__main__":
    run(main)

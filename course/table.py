"""The table of an experiment (EXPERIMENT.md): mean ± standard deviation over seeds, for models named VARIANT_sSEED.

    python -m course.table out/experiment2-12345/results.json
"""
import json
import sys
from pathlib import Path
from statistics import mean

import torch

from data.task import over_domains
from support.checkpoint import load_checkpoint
from support.ledger import join_ledgers, totals
from support.report import markdown, spread

DIGITS = {"loss": 3, "answers": 3}  # decimals; other columns have 1


def measure(model, routing, given):
    """A model's row: accuracies, `own` and `largest` in %, losses in nats, and the GFLOP spent beyond those `given`."""
    row = {domain: 100 * value for domain, value in model["accuracy"].items() if domain != "switch"}
    share = {domain: torch.tensor(gates) for domain, gates in routing["share"].items()}  # (n_layer, N) each
    own = 0.0  # the gates of a domain's own expert, or of all its chunks
    for domain in ("math", "code", "wiki"):
        mine = torch.tensor([expert.split(".")[0] == domain for expert in routing["experts"]])
        own += share[domain][:, mine].sum(1).mean().item() / 3
    largest = torch.stack([share[domain] for domain in row]).mean(0).max(1).values.mean()
    return {**row, "mean": mean(row.values()), "loss": over_domains(model["loss"]),
            "answers": over_domains(model["answer_loss"]), "own": 100 * own, "largest": 100 * largest.item(),
            "GFLOP": (model["flops"] - given) / 1e9}


def main(path):
    results = json.loads(Path(path).read_text())
    start = join_ledgers(load_checkpoint(checkpoint)["ledger"] for checkpoint in Path("data/start").glob("*.pt"))
    runs = {}  # {variant: its rows, one for each seed}
    for name, model in results["models"].items():
        row = measure(model, results["routing"][name], totals(start)["flops"])
        runs.setdefault(name.rsplit("_s", 1)[0], []).append(row)
    rows = []
    for variant, measured in runs.items():
        cells = [spread([row[name] for row in measured], digits=DIGITS.get(name, 1)) for name in measured[0]]
        rows.append([variant, *cells])
    print(markdown(["variant", *measured[0]], rows))


if __name__ == "__main__":
    main(sys.argv[1])

"""The table of an experiment (EXPERIMENT.md): mean ± standard deviation over seeds, for models named VARIANT_sSEED.

    python -m course.table out/alpha/results.json
"""
import json
import sys
from pathlib import Path
from statistics import mean, stdev


def measure(accuracy, routing):
    """A model's row: accuracies, their mean, and the shares `own` and `largest` (EXPERIMENT.md), in %."""
    row = {domain: 100 * value for domain, value in accuracy.items() if domain != "switch"}
    share = routing["share"]  # {domain: (n_layer, N)}
    own = []
    for domain in ("math", "code", "wiki"):
        own += [layer[routing["experts"].index(domain)] for layer in share[domain]]
    largest = []
    for layers in zip(*(share[domain] for domain in row), strict=True):  # an (N,) of each domain
        largest.append(max(mean(gates) for gates in zip(*layers, strict=True)))
    return {**row, "mean": mean(row.values()), "own": 100 * mean(own), "largest": 100 * mean(largest)}


def main(argv):
    results = json.loads(Path(argv[0]).read_text())
    rows = {}
    for name, model in results["models"].items():
        rows.setdefault(name.rsplit("_s", 1)[0], []).append(measure(model["accuracy"], results["routing"][name]))
    columns = list(next(iter(rows.values()))[0])
    print("|".join(["", "variant", *columns, ""]))
    print("|---" * (len(columns) + 1) + "|")
    for variant, runs in rows.items():
        cells = [[run[column] for run in runs] for column in columns]
        spread = [f" ± {stdev(cell):.1f}" if len(cell) > 1 else "" for cell in cells]
        print("|".join(["", variant, *(f"{mean(cell):.1f}{s}" for cell, s in zip(cells, spread, strict=True)), ""]))


if __name__ == "__main__":
    main(sys.argv[1:])

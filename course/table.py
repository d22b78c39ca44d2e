"""The table of an experiment (EXPERIMENT.md): mean ± standard deviation over seeds, for models named VARIANT_sSEED.

    python -m course.table out/alpha/results.json
"""
import json
import sys
from pathlib import Path
from statistics import mean, stdev

from support.report import markdown


def measure(accuracy, routing):
    """A model's row: accuracies, their mean, and the shares `own` and `largest` (EXPERIMENT.md), in %."""
    row = {domain: 100 * value for domain, value in accuracy.items() if domain != "switch"}
    share = routing["share"]  # {domain: (n_layer, N)}
    own = []
    for domain in ("math", "code", "wiki"):
        own += [layer[routing["experts"].index(domain)] for layer in share[domain]]
    largest = []
    for layer in range(len(share["math"])):
        gates = [share[domain][layer] for domain in row]  # an (N,) for each domain
        largest.append(max(mean(column) for column in zip(*gates, strict=True)))
    return {**row, "mean": mean(row.values()), "own": 100 * mean(own), "largest": 100 * mean(largest)}


def main(argv):
    results = json.loads(Path(argv[0]).read_text())
    runs = {}  # {variant: its rows, one for each seed}
    for name, model in results["models"].items():
        runs.setdefault(name.rsplit("_s", 1)[0], []).append(measure(model["accuracy"], results["routing"][name]))
    columns = list(next(iter(runs.values()))[0])
    rows = []
    for variant, measured in runs.items():
        row = [variant]
        for column in columns:
            values = [run[column] for run in measured]
            spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
            row.append(f"{mean(values):.1f}{spread}")
        rows.append(row)
    print(markdown(["variant", *columns], rows))


if __name__ == "__main__":
    main(sys.argv[1:])

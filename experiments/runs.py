"""Runs of several training seeds: a model's numbers, and differences between models of the same seeds.

A run is the dictionary that evaluate.py writes to results.json for one training seed.
"""
import json
import math
from statistics import mean, stdev

from data.task import DOMAINS
from support.report import own_gates

EXPERTS = ("math", "code", "wiki")
T_95 = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814)  # 1 to 10 degrees
GROUPS = {"all": DOMAINS, "knowledge": ("general", "trivia"), "home": EXPERTS}  # of domains
BEGINNINGS = ("alone", "words", "text", "ended", "names", "chat")  # of the prompts in experiments/one_or_all
for beginning in BEGINNINGS:
    GROUPS[beginning] = [f"{beginning}_{domain}" for domain in EXPERTS]


def read_runs(folder):
    """Read the runs in a folder, one for each training seed.

    Files SEED_PART.json of a seed become one run, in which the model NAME of a part is called PART/NAME.
    """
    runs = {}
    for path in sorted(folder.glob("*.json")):
        seed, _, part = path.stem.rpartition("_")
        run = json.loads(path.read_text())
        if seed:
            for name, routing in run["routing"].items():
                run["models"][name]["routing"] = routing
            models = {f"{part}/{name}": model for name, model in run["models"].items()}
            runs.setdefault(seed, {"models": {}})["models"] |= models
        else:
            runs[path.stem] = run
    return list(runs.values())


def having(runs, *names):
    """The runs that have all these models, because only models of the same seeds should be compared."""
    return [run for run in runs if run["models"].keys() >= {*names}]


def measure(run, name, column):
    """A number of a model: its accuracy in a domain or a group of domains, or one of those named here."""
    model = run["models"][name]
    if column == "english":  # in bits per byte
        return model["bits_per_byte"]["english"]
    if column == "own":  # the share of the gates on the text's own expert
        return mean(own_gates(model["routing"], domain) for domain in EXPERTS)
    if column == "kept":  # of what the branches of the same steps solve, each in its own domain
        part = name.rpartition("/")[0]
        return measure(run, name, "home") / mean(measure(run, f"{part}/{branch}", branch) for branch in EXPERTS)
    if column == "loss":
        return mean(model["loss"][domain] for domain in DOMAINS)
    if column.endswith(" loss"):
        return model["loss"][column.removesuffix(" loss")]
    return mean(model["accuracy"][domain] for domain in GROUPS.get(column, [column]))


def scores(runs, name, column):
    """A number of a model in each run."""
    return [measure(run, name, column) for run in runs]


def differences(runs, pair, column):
    """The difference between two models in each run that has both. pair: their names, as in "btx − dense_dm"."""
    a, b = pair.split(" − ")
    return [measure(run, a, column) - measure(run, b, column) for run in having(runs, a, b)]


def costs(runs, name, key):
    """A model's cost in each run, without the seed's cost, as the paper counts it. The larger model has no seed."""
    part = name.rpartition("/")[0]
    seed = f"{part}/seed" if part else "seed"
    found = []
    for run in runs:
        since = 0 if name == "large" else run["models"][seed][key]
        found.append(run["models"][name][key] - since)
    return found


def critical_t(degrees):
    """Half the width of a 95 % interval in standard errors: Student's t, from a table or by Cornish and Fisher."""
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    z = 1.959964
    series = [z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384]
    return sum(term / degrees**power for power, term in enumerate(series))


def half_interval(numbers):
    """Half the 95 % confidence interval of the mean of some numbers. A single number has none: 0."""
    if len(numbers) == 1:
        return 0.0
    return critical_t(len(numbers) - 1) * stdev(numbers) / math.sqrt(len(numbers))


def points(differences):
    """The mean of differences times 100, ± half of its 95 % confidence interval, as in `+3.0 ± 1.2`.

    The interval is that of a paired t-test. A single difference has none.
    """
    text = f"{100 * mean(differences):+.1f}"
    if len(differences) > 1:
        text += f" ± {100 * half_interval(differences):.1f}"
    return text


def pooled_interval(rows):
    """Half the 95 % interval of a difference between any two models, from the spread of all of them.

    rows: the numbers of each model in the same training seeds. It is assumed that a number is the sum of the model's
    mean, of a shift of the seed that all models share, and of a rest that spreads alike in all of them.
    """
    n = len(rows[0])
    means = [mean(row) for row in rows]
    shifts = [mean(column) - mean(means) for column in zip(*rows, strict=True)]
    rests = [x - m - shift for row, m in zip(rows, means, strict=True) for x, shift in zip(row, shifts, strict=True)]
    degrees = (len(rows) - 1) * (n - 1)
    return critical_t(degrees) * math.sqrt(sum(rest * rest for rest in rests) / degrees * 2 / n)

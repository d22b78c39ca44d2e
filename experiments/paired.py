"""Numbers from several training seeds: a model's scores, and differences between models of the same seeds.

A run is the dictionary that evaluate.py writes to results.json for one training seed.
"""
import math
from statistics import mean, stdev

from data.task import DOMAINS

EXPERTS = ("math", "code", "wiki")
GROUPS = {"all": DOMAINS, "knowledge": ("general", "trivia"), "experts": EXPERTS}  # of domains


def having(runs, *names):
    """The runs that have all these models, because only models of the same seeds should be compared."""
    return [run for run in runs if run["models"].keys() >= {*names}]


def scores(runs, name, group="all", key="accuracy"):
    """A model's accuracy (or "loss") in each run that has it: the mean over a group of domains, or one column alone."""
    columns = GROUPS.get(group, [group])
    return [mean(run["models"][name][key][column] for column in columns) for run in having(runs, name)]


def differences(runs, a, b, group):
    """a's accuracy minus b's in each run that has both."""
    both = having(runs, a, b)
    return [x - y for x, y in zip(scores(both, a, group), scores(both, b, group), strict=True)]


def costs(runs, name, key):
    """A model's cost in each run, without the seed's cost, as the paper counts it. The larger model has no seed."""
    found = []
    for run in having(runs, name):
        since = 0 if name == "large" else run["models"]["seed"][key]
        found.append(run["models"][name][key] - since)
    return found


def half_interval(numbers):
    """Half the 95 % confidence interval of the mean of 2 to 10 numbers; for more numbers, slightly too wide."""
    n = len(numbers)
    t = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)[min(n, 10) - 2]  # Student's t
    return t * stdev(numbers) / math.sqrt(n)


def points(differences):
    """The mean of differences in percentage points, ± half of its 95 % confidence interval, as in `+3.0 ± 1.2`.

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
    t = 1.96 + 2.37 / degrees  # Student's t, to 0.01 for 20 degrees of freedom or more
    return t * math.sqrt(sum(rest * rest for rest in rests) / degrees * 2 / n)

"""Numbers of several training seeds: a model's scores, differences between models of the same seeds, and tests.

A run is a dictionary as evaluate.py writes it to results.json, of one training seed.
"""
import math
from statistics import mean, stdev

import numpy as np

from data.task import DOMAINS

EXPERTS = ("math", "code", "wiki")
GROUPS = {"all": DOMAINS, "knowledge": ("general", "trivia"), "experts": EXPERTS}  # of domains


def having(runs, *names):
    """The runs that have all these models. Only models of the same seeds should be compared."""
    return [run for run in runs if run["models"].keys() >= {*names}]


def scores(runs, name, group="all", key="accuracy"):
    """A model's accuracy (or "loss") in each run that has it: the mean over a group of domains, or in one column."""
    columns = GROUPS.get(group, [group])
    return [mean(run["models"][name][key][column] for column in columns) for run in having(runs, name)]


def differences(runs, a, b, group):
    """a's accuracy minus b's in each run that has both."""
    both = having(runs, a, b)
    return [x - y for x, y in zip(scores(both, a, group), scores(both, b, group), strict=True)]


def costs(runs, name, key):
    """A model's cost in each run, without the seed's, as the paper counts it. The larger model has no seed."""
    found = []
    for run in having(runs, name):
        since = 0 if name == "large" else run["models"]["seed"][key]
        found.append(run["models"][name][key] - since)
    return found


def spread(values, scale=1.0, digits=1):
    """Mean ± sample standard deviation, as in `91.2 ± 0.4`; of one value the value alone."""
    text = f"{scale * mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * stdev(values):.{digits}f}"
    return text


def points(differences):
    """The mean of differences in hundredths, ± half of its 95 % confidence interval, as in `+3.0 ± 1.2`."""
    text = f"{100 * mean(differences):+.1f}"
    if len(differences) > 1:
        text += f" ± {100 * t_test(differences)[1]:.1f}"
    return text


def t_test(differences):
    """Paired t-test: the two-sided p that the mean is zero, and half of the mean's 95 % confidence interval.

    With t = sqrt(n - 1) tan(x), the density of Student's t becomes cos(x)^(n - 2), 0 < x < pi / 2. That is easy to sum.
    """
    n = len(differences)
    error = stdev(differences) / math.sqrt(n)
    x = (np.arange(20_000) + 0.5) / 20_000 * math.pi / 2
    t = math.sqrt(n - 1) * np.tan(x)
    density = np.cos(x) ** (n - 2)
    beyond = density[::-1].cumsum()[::-1] / density.sum()  # the probability that |t| is larger
    half = t[(beyond <= 0.05).argmax()] * error
    if error == 0:
        return float(mean(differences) == 0), half
    return np.interp(abs(mean(differences)) / error, t, beyond), half


def holm(p_values):
    """Correct p values for their number (Holm 1979): [0.01, 0.04, 0.02] becomes [0.03, 0.04, 0.04]."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected

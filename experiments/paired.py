"""Numbers over several seeds as text, and the paired t-test with Holm's correction."""
import math
from statistics import mean, stdev

import numpy as np


def spread(values, scale=1.0, digits=1):
    """Mean ± sample standard deviation, as in `91.2 ± 0.4`; of one value the value alone."""
    text = f"{scale * mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * stdev(values):.{digits}f}"
    return text


def points(differences, digits=1):
    """The mean of differences in hundredths, ± half of its 95 % confidence interval, as in `+3.0 ± 1.2`."""
    text = f"{100 * mean(differences):+.{digits}f}"
    if len(differences) > 1:
        text += f" ± {100 * t_test(differences)[1]:.{digits}f}"
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

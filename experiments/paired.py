"""Numbers over several seeds as text, and the paired t-test with Holm's correction."""
import math
from functools import cache
from statistics import mean, stdev

import numpy as np


def spread(values, scale=1.0, digits=1):
    """Mean ± sample standard deviation, as in `91.2 ± 0.4`; of one value the value alone."""
    text = f"{scale * mean(values):.{digits}f}"
    if len(values) > 1:
        text += f" ± {scale * stdev(values):.{digits}f}"
    return text


def points(differences):
    """The mean of differences in points, ± half of its 95 % confidence interval, as in `+3.0 ± 1.2`."""
    text = f"{100 * mean(differences):+.1f}"
    if len(differences) > 1:
        text += f" ± {100 * half_width(differences):.1f}"
    return text


@cache
def t_distribution(n):
    """Values t > 0, and the probability that |t| is larger, for Student's t with n - 1 degrees of freedom.

    With t = sqrt(n - 1) tan(x), Student's density becomes cos(x)^(n - 2) for 0 < x < pi / 2, which is easy to sum.
    """
    x = (np.arange(200_000) + 0.5) / 200_000 * math.pi / 2
    density = np.cos(x) ** (n - 2)
    tail = density[::-1].cumsum()[::-1]
    return math.sqrt(n - 1) * np.tan(x), tail / density.sum()


def p_value(differences):
    """The two-sided p of the t-test that paired differences have mean zero. Needs two of them or more.

    >>> round(p_value([1.0, 2.0, 3.0]), 3)
    0.074
    """
    error = stdev(differences) / math.sqrt(len(differences))
    if error == 0:
        return float(mean(differences) == 0)
    t, beyond = t_distribution(len(differences))
    return float(np.interp(abs(mean(differences)) / error, t, beyond))


def half_width(differences):
    """Half of the 95 % confidence interval of the mean. Needs two differences or more.

    >>> round(half_width([1.0, 2.0, 3.0]), 2)
    2.48
    """
    t, beyond = t_distribution(len(differences))
    return float(t[(beyond <= 0.05).argmax()]) * stdev(differences) / math.sqrt(len(differences))


def holm(p_values):
    """Correct p values for their number (Holm 1979); returns them in the same order.

    >>> holm([0.01, 0.04, 0.02])
    [0.03, 0.04, 0.04]
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected

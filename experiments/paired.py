"""Numbers over several runs: means and spreads as text, tables, and the paired t-test with Holm's correction."""
import math
from statistics import mean, stdev

import numpy as np


def cell(values, scale=1.0, digits=1):
    """Mean and sample standard deviation as text, `91.2 ± 0.4`; the mean alone of a single value, "" of none."""
    if not values:
        return ""
    text = f"{scale * mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {scale * stdev(values):.{digits}f}"


def table(head, lines):
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines])


def student(n):
    """|t| of Student's distribution with n - 1 degrees of freedom, and the probability that a value lies beyond it.

    With t = sqrt(n - 1) tan(x) its density is that of cos(x)^(n - 2), which is summed here.
    """
    x = (np.arange(200_000) + 0.5) / 200_000 * math.pi / 2
    density = np.cos(x) ** (n - 2)
    return math.sqrt(n - 1) * np.tan(x), density[::-1].cumsum()[::-1] / density.sum()


def p_value(deltas):
    """Two-sided p of the t-test that the mean of paired differences is zero; None for fewer than two.

    >>> round(p_value([1.0, 2.0, 3.0]), 3)
    0.074
    """
    if len(deltas) < 2:
        return None
    error = stdev(deltas) / math.sqrt(len(deltas))
    t, beyond = student(len(deltas))
    return float(np.interp(abs(mean(deltas)) / error, t, beyond)) if error else float(mean(deltas) == 0)


def half_width(deltas):
    """Half of the 95 % confidence interval of a mean; None for fewer than two values.

    >>> round(half_width([1.0, 2.0, 3.0]), 2)
    2.48
    """
    if len(deltas) < 2:
        return None
    t, beyond = student(len(deltas))
    return float(t[(beyond <= 0.05).argmax()]) * stdev(deltas) / math.sqrt(len(deltas))


def holm(values):
    """p values corrected for their number (Holm 1979), in the same order.

    >>> holm([0.01, 0.04, 0.02])
    [0.03, 0.04, 0.04]
    """
    order, corrected, worst = sorted(range(len(values)), key=values.__getitem__), [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        worst = max(worst, min(1.0, (len(values) - rank) * values[i]))
        corrected[i] = worst
    return corrected

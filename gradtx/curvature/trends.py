"""Where a noisy sequence is going, and how sure that is."""

from typing import NamedTuple

import numpy as np

_MOST = 1000  # numbers that are compared in pairs: longer sequences are cut into so many blocks, of each the median
_SIGMA = 1.4826  # of a normal distribution, over its median absolute deviation
_ROUNDING = float(np.finfo(np.float32).eps)


class Trend(NamedTuple):
    """A sequence as a line and what is left."""

    change: float
    """From the first to the last number, by the line."""
    error: float
    """The standard error of ``change``."""
    fluctuation: float
    """The standard deviation of what a parabola leaves."""
    correlation: float
    """Of what a parabola leaves, from step to step; -1 where it alternates."""


def trend(values: np.ndarray) -> Trend:
    """The median of the slopes of all pairs (Theil 1950, Sen 1968), which a few outliers do not move.

    Its error is that of a slope with noise of the deviation seen around a parabola, wider by ``(1 + r) / (1 - r)`` in
    variance where the noise is correlated by ``r`` from step to step; ``(1 + 3 r) / n`` is added to ``r``, which a
    short sequence shows too small (Kendall 1954). It is never below the rounding of float32.
    """
    n = len(values)
    steps = np.arange(n) - (n - 1) / 2
    blocks = np.array_split(np.arange(n), min(n, _MOST))
    x = np.array([steps[block].mean() for block in blocks])
    y = np.array([np.median(values[block]) for block in blocks])
    first, second = np.triu_indices(len(x), 1)
    slope = float(np.median((y[second] - y[first]) / (x[second] - x[first])))

    unit = steps / max(n - 1, 1)
    basis = np.stack([np.ones(n), unit, unit**2], axis=1)
    middle = float(np.median(values))
    rest = values - middle - basis @ np.linalg.lstsq(basis, values - middle, rcond=None)[0]
    power = float(np.sum(rest**2))
    correlation = float(np.sum(rest[1:] * rest[:-1])) / power if power else 0.0
    deviation = max(_SIGMA * float(np.median(np.abs(rest))), _ROUNDING * abs(middle))
    seen = min(max(correlation + (1 + 3 * correlation) / n, 0.0), 0.97)
    error = deviation * np.sqrt(12 / n * (1 + seen) / (1 - seen))
    return Trend(slope * (n - 1), float(error), deviation, correlation)

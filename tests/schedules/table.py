"""One row per schedule: how it is made, its exact value in float64, and how far float32 may be from it."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from gradtx import schedules


class Row(NamedTuple):
    """``make(total)`` is done after ``total`` steps; ``exact(t, total)`` is its value and the largest of its terms."""

    name: str
    make: Callable[[int], schedules.Schedule]
    exact: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
    ulp: float = 4.0


def line(t, init, end, steps, begin=0):
    x = np.clip((t - begin) / steps, 0, 1)
    return init * (1 - x) + end * x, np.maximum(np.abs(init * (1 - x)), np.abs(end * x))


def cosine(t, init, end, steps, exponent=1.0):
    c = np.sin(np.pi / 2 * np.clip(steps - t, 0, steps) / steps) ** (2 * exponent)
    return init * c + end * (1 - c), np.maximum(np.abs(init * c), np.abs(end * (1 - c)))


def after(t, boundary, before, then):
    return tuple(np.where(t < boundary, a, b) for a, b in zip(before, then, strict=True))


def warm(total):
    return total // 3


ROWS = [
    Row("constant", lambda n: schedules.constant_schedule(0.1), lambda t, n: (np.full(t.shape, 0.1),) * 2, 0.5),
    Row("line up", lambda n: schedules.linear_schedule(0.0, 0.3, n), lambda t, n: line(t, 0.0, 0.3, n), 3.0),
    Row("line down", lambda n: schedules.linear_schedule(0.7, 1e-6, n, 3), lambda t, n: line(t, 0.7, 1e-6, n, 3), 3.0),
    Row("line through 0", lambda n: schedules.linear_schedule(0.7, -0.3, n), lambda t, n: line(t, 0.7, -0.3, n), 3.0),
    Row("cosine", lambda n: schedules.cosine_decay_schedule(3e-4, n), lambda t, n: cosine(t, 3e-4, 0.0, n)),
    Row(
        "cosine to a tenth",
        lambda n: schedules.cosine_decay_schedule(0.3, n, alpha=0.1),
        lambda t, n: cosine(t, 0.3, 0.03, n),
    ),
    Row(  # a power multiplies the relative error of its base
        "cosine to the power of 1.75",
        lambda n: schedules.cosine_decay_schedule(0.3, n, exponent=1.75),
        lambda t, n: cosine(t, 0.3, 0.0, n, 1.75),
        8.0,
    ),
    Row(
        "warm-up and constant",
        lambda n: schedules.warmup_constant_schedule(0.01, 0.3, warm(n)),
        lambda t, n: after(t, warm(n), line(t, 0.01, 0.3, max(warm(n), 1)), (np.full(t.shape, 0.3),) * 2),
    ),
    Row(
        "warm-up and cosine",
        lambda n: schedules.warmup_cosine_decay_schedule(0.01, 0.3, warm(n), n, 0.002),
        lambda t, n: after(
            t, warm(n), line(t, 0.01, 0.3, max(warm(n), 1)), cosine(t - warm(n), 0.3, 0.002, n - warm(n))
        ),
        5.0,
    ),
    Row(
        "warm-up in front",
        lambda n: schedules.linear_warmup(schedules.linear_schedule(0.3, 0.0, n), warm(n)),
        lambda t, n: after(t, warm(n), line(t, 0.0, 0.3, max(warm(n), 1)), line(t - warm(n), 0.3, 0.0, n)),
    ),
    Row(
        "joined",
        lambda n: schedules.join_schedules(
            [schedules.constant_schedule(0.1), schedules.cosine_decay_schedule(0.3, n), lambda t: 0.05], [2, n + 2]
        ),
        lambda t, n: after(
            t,
            n + 2,
            after(t, 2, (np.full(t.shape, 0.1),) * 2, cosine(t - 2, 0.3, 0.0, n)),
            (np.full(t.shape, 0.05),) * 2,
        ),
    ),
]

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


def polynomial(t, init, end, power, steps):
    left = np.clip((steps - t) / steps, 0, 1) ** power
    change = np.where(left > 0.5, -np.expm1(power * np.log1p(-np.clip(t / steps, 0, 0.99))), 1 - left)
    return init * left + end * change, np.maximum(np.abs(init * left), np.abs(end * change))


def same(value):
    """A value that is a product: it has one term."""
    return value, np.abs(value)


def floor_divided(t, steps):
    return np.floor_divide(np.asarray(t, np.int64), steps).astype(np.float64)


def exponential(t, init, rate, steps):
    return same(
        np.float64(init) * np.exp2(np.maximum(t, 0) * (np.log2(np.longdouble(rate)) / steps)).astype(np.float64)
    )


def cycles(t, first, growth):
    """The number of restarts so far, steps since the last one, and steps of the cosine."""
    number, begin, length = np.zeros_like(t), np.zeros_like(t), np.full_like(t, first)
    while np.any(over := t - begin >= length):
        number, begin = np.where(over, number + 1, number), np.where(over, begin + length, begin)
        length = np.where(over, length * growth, length)
    return t - begin, length


def pieces(t, values, boundaries, curve):
    found = curve(t, values[0], values[0], 1)
    for begin, end, before, then in zip((0, *boundaries), boundaries, values, values[1:], strict=False):
        found = after(t, begin, found, curve(t - begin, before, then, max(end - begin, 1)))
        found = after(t, end, found, curve(t, then, then, 1))
    return found


def square_root(t, init, end, steps):
    root = np.sqrt(np.clip(t / steps, 0, 1))
    return init * (1 - root) + end * root, np.maximum(np.abs(init * (1 - root)), np.abs(end * root))


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
    Row(  # a power multiplies the relative error of its base
        "power of 2.5",
        lambda n: schedules.polynomial_schedule(0.3, 0.01, 2.5, n),
        lambda t, n: polynomial(t, 0.3, 0.01, 2.5, n),
        5.0,
    ),
    Row(
        "power of 2, up from 0",
        lambda n: schedules.polynomial_schedule(0.0, 0.3, 2, n),
        lambda t, n: polynomial(t, 0.0, 0.3, 2.0, n),
        5.0,
    ),
    Row(
        "power of 1",
        lambda n: schedules.polynomial_schedule(0.3, 0.01, 1, n),
        lambda t, n: line(t, 0.3, 0.01, n),
    ),
    Row(
        "exponential",
        lambda n: schedules.exponential_decay(0.3, n, 1e-3),
        lambda t, n: exponential(t, 0.3, 1e-3, n),
    ),
    Row(
        "exponential at every step",
        lambda n: schedules.exponential_decay(0.3, 1, 0.9999),
        lambda t, n: exponential(t, 0.3, 0.9999, 1),
    ),
    Row(
        "exponential with stairs and an end",
        lambda n: schedules.exponential_decay(0.3, max(n // 7, 1), 0.5, 3, True, 0.004),
        lambda t, n: same(np.maximum(0.3 * 0.5 ** floor_divided(np.maximum(t - 3, 0), max(n // 7, 1)), 0.004)),
    ),
    Row(
        "growth up to an end",
        lambda n: schedules.exponential_decay(0.001, n, 700.0, end_value=0.5),
        lambda t, n: same(np.minimum(exponential(t, 0.001, 700.0, n)[0], 0.5)),
    ),
    Row(
        "steps",
        lambda n: schedules.step_decay(0.3, max(n // 5, 1)),
        lambda t, n: same(0.3 * 0.1 ** floor_divided(t, max(n // 5, 1))),
    ),
    Row(
        "inverse of the time",
        lambda n: schedules.inverse_time_decay(0.3, max(n // 9, 1), 0.7, 2),
        lambda t, n: same(0.3 / (1 + 0.7 * np.maximum(t - 2, 0) / max(n // 9, 1))),
    ),
    Row(
        "inverse of the time with stairs",
        lambda n: schedules.inverse_time_decay(0.3, max(n // 9, 1), staircase=True),
        lambda t, n: same(0.3 / (1 + floor_divided(t, max(n // 9, 1)))),
    ),
    Row(
        "inverse root of the time",
        lambda n: schedules.inverse_sqrt_decay(0.3, max(n // 9, 1), 2),
        lambda t, n: same(0.3 / np.sqrt(1 + np.maximum(t - 2, 0) / max(n // 9, 1))),
    ),
    Row(
        "warm-up and inverse root",
        lambda n: schedules.warmup_inverse_sqrt_schedule(0.3, max(warm(n), 1)),
        lambda t, n: same(
            0.3
            * np.minimum((t + 1) ** -0.5, (t + 1) * float(max(warm(n), 1)) ** -1.5)
            * np.sqrt(float(max(warm(n), 1)))
        ),
    ),
    Row(
        "warm-up and exponential",
        lambda n: schedules.warmup_exponential_decay_schedule(0.01, 0.3, warm(n), n, 0.01, 2, end_value=0.02),
        lambda t, n: after(
            t,
            warm(n),
            line(t, 0.01, 0.3, max(warm(n), 1)),
            same(np.maximum(exponential(t - warm(n) - 2, 0.3, 0.01, n)[0], 0.02)),
        ),
    ),
    Row(
        "jumps",
        lambda n: schedules.piecewise_constant_schedule(0.3, {n: 0.1, n // 2: 0.5}),
        lambda t, n: same(np.where(t >= n, 0.015, np.where(t >= n // 2, 0.15, 0.3))),
        0.6,
    ),
    Row(
        "lines",
        lambda n: schedules.piecewise_interpolate_schedule("linear", 0.1, {n: 0.25, n // 2: 3.0, n // 2 + 1: 0.0}),
        lambda t, n: pieces(t, (0.1, 0.3, 0.0, 0.0), (n // 2, n // 2 + 1, max(n, n // 2 + 1)), line),
    ),
    Row(
        "half cosines",
        lambda n: schedules.piecewise_interpolate_schedule("cosine", 0.1, {n: 0.25, n // 2: 3.0}),
        lambda t, n: pieces(t, (0.1, 0.3, 0.075), (n // 2, n), cosine),
        5.0,
    ),
    Row(
        "one cycle of lines",
        lambda n: schedules.linear_onecycle_schedule(n, 0.5),
        lambda t, n: pieces(t, (0.02, 0.5, 0.02, 2e-6), (int(0.3 * n), int(0.85 * n), n), line),
    ),
    Row(
        "one cycle of half cosines",
        lambda n: schedules.cosine_onecycle_schedule(n, 0.5),
        lambda t, n: pieces(t, (0.02, 0.5, 2e-6), (int(0.3 * n), n), cosine),
        5.0,
    ),
    Row(
        "restarts",
        lambda n: schedules.cosine_restarts_schedule(0.3, max(n // 4, 1), alpha=0.01),
        lambda t, n: cosine(t % max(n // 4, 1), 0.3, 0.003, max(n // 4, 1)),
        5.0,
    ),
    Row(
        "restarts that take longer",
        lambda n: schedules.cosine_restarts_schedule(0.3, max(n // 7, 1), growth=2),
        lambda t, n: cosine(*(lambda s, length: (s, 0.3, 0.0, length))(*cycles(t, max(n // 7, 1), 2))),
        5.0,
    ),
    Row(
        "cycles of their own",
        lambda n: schedules.sgdr_schedule(
            [
                dict(init_value=0.01, peak_value=0.3, warmup_steps=warm(n), decay_steps=n),
                dict(init_value=0.2, peak_value=0.2, warmup_steps=0, decay_steps=n, end_value=0.1),
            ]
        ),
        lambda t, n: after(
            t,
            n,
            after(t, warm(n), line(t, 0.01, 0.3, max(warm(n), 1)), cosine(t - warm(n), 0.3, 0.0, n - warm(n))),
            cosine(t - n, 0.2, 0.1, n),
        ),
        5.0,
    ),
    *(
        Row(
            f"warm-up, stable, {shape}",
            lambda n, shape=shape: schedules.warmup_stable_decay_schedule(
                0.01, 0.3, warm(n), warm(n), n, 0.002, shape=shape
            ),
            lambda t, n, curve=curve: after(
                t,
                warm(n),
                line(t, 0.01, 0.3, max(warm(n), 1)),
                curve(t - 2 * warm(n), 0.3, 0.002, n - 2 * warm(n)),
            ),
            5.0,
        )
        for shape, curve in (("linear", line), ("cosine", cosine), ("1-sqrt", square_root))
    ),
]

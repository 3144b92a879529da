"""A linear warm-up in front of a schedule."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradtx import errors
from gradtx.schedules.cosine import on_cosine
from gradtx.schedules.exponential import on_exponential
from gradtx.schedules.linear import on_line
from gradtx.schedules.step import (
    Factor,
    Schedule,
    Value,
    as_step,
    as_value,
    check_countable,
    check_schedule,
    evaluate,
)


@errors.checked
def linear_warmup(schedule: Schedule, warmup_steps: errors.Index, init_value: Value = 0.0) -> Schedule:
    """A line from ``init_value`` to ``schedule(0)`` in ``warmup_steps`` steps, then ``schedule`` from its beginning.

    ``f(t) = (1 - t/W) init_value + t/W schedule(0)`` for ``t < W = warmup_steps``, then ``schedule(t - W)``.

    Args:
        schedule: Any function of the step; the number of its own steps stays what it is.
        warmup_steps: Steps until ``schedule`` begins; 0 leaves it alone.
        init_value: Value at step 0.

    Raises:
        ArgumentTypeError, ArgumentRangeError: ``schedule`` is no function of the step, or a number is out of range.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2 (gradual warm-up).

    >>> from gradtx import schedules
    >>> f = schedules.linear_warmup(schedules.linear_schedule(1.0, 0.0, 2), warmup_steps=4)
    >>> [float(f(step)) for step in range(7)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0]
    """
    check_schedule(f"linear_warmup({errors.show(schedule)}, {warmup_steps})", "schedule", schedule)
    check_countable("linear_warmup", warmup_steps=warmup_steps)
    init_value = as_value(init_value)
    return lambda step: warmed(step, schedule, warmup_steps, init_value)


@errors.checked
def warmup_constant_schedule(init_value: Value, peak_value: Value, warmup_steps: errors.Index) -> Schedule:
    """A line from ``init_value`` to ``peak_value`` in ``warmup_steps`` steps, then ``peak_value`` for ever.

    Args:
        init_value: Value at step 0.
        peak_value: Value from step ``warmup_steps`` on.
        warmup_steps: Steps between them. (For 0, Optax gives the constant ``init_value``; this gives ``peak_value``.)

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, or ``warmup_steps`` is not a whole number from 0.

    >>> from gradtx import schedules
    >>> f = schedules.warmup_constant_schedule(0.0, 1.0, warmup_steps=4)
    >>> [float(f(step)) for step in (0, 1, 4, 1000)]
    [0.0, 0.25, 1.0, 1.0]
    """
    check_countable("warmup_constant_schedule", warmup_steps=warmup_steps)
    init_value, peak_value = as_value(init_value), as_value(peak_value)
    return lambda step: warmed(step, lambda _: peak_value, warmup_steps, init_value)


@errors.checked
def warmup_cosine_decay_schedule(
    init_value: Value,
    peak_value: Value,
    warmup_steps: errors.Index,
    decay_steps: errors.Count,
    end_value: Value = 0.0,
    exponent: errors.NonNegativeNumber = 1.0,
) -> Schedule:
    """A line from ``init_value`` to ``peak_value``, then half a cosine down to ``end_value``.

    With ``W = warmup_steps`` and ``T = decay_steps``, both from the very beginning:
    ``f(t) = (1 - t/W) init_value + t/W peak_value`` for ``t < W``, then ``c peak_value + (1 - c) end_value`` with
    ``c = (1/2 + 1/2 cos(pi (min(t, T) - W) / (T - W)))**exponent``. Start, peak and end are exact.

    Args:
        init_value: Value at step 0.
        peak_value: Value at step ``warmup_steps``.
        warmup_steps: Steps of the line; 0 begins at the peak.
        decay_steps: Steps in all, those of the warm-up included.
        end_value: Value from step ``decay_steps`` on, also where the peak is 0. (Optax stays at 0 there.)
        exponent: Above 1 falls earlier, below 1 later.

    Raises:
        ArgumentTypeError: an argument is not a number, or a count not a whole one.
        ArgumentRangeError: a value is not finite, or ``decay_steps`` leaves no step after the warm-up.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5; warm-up as in :func:`linear_warmup`.

    >>> from gradtx import schedules
    >>> f = schedules.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=10, decay_steps=110, end_value=0.5)
    >>> [float(f(step)) for step in (0, 5, 10, 60, 110, 1000)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.5]
    """
    check_countable("warmup_cosine_decay_schedule", decay_steps=decay_steps)
    if decay_steps <= warmup_steps:
        raise errors.ArgumentRangeError(
            f"warmup_cosine_decay_schedule(..., warmup_steps={warmup_steps}, decay_steps={decay_steps})",
            expected="decay_steps must be greater than warmup_steps",
            got=decay_steps,
            cause="decay_steps counts all steps, those of the warm-up included",
            fix=f"write decay_steps={warmup_steps + decay_steps}",
        )
    init_value, peak_value, end_value, exponent = map(as_value, (init_value, peak_value, end_value, exponent))
    fall_steps = decay_steps - warmup_steps
    return lambda step: warmed(
        step, lambda t: on_cosine(t, peak_value, end_value, fall_steps, exponent), warmup_steps, init_value
    )


@errors.checked
def warmup_exponential_decay_schedule(
    init_value: Value,
    peak_value: Value,
    warmup_steps: errors.Index,
    transition_steps: errors.Count,
    decay_rate: Factor,
    transition_begin: errors.Index = 0,
    staircase: bool = False,
    end_value: Value | None = None,
) -> Schedule:
    """A line from ``init_value`` to ``peak_value``, then :func:`exponential_decay` from there.

    Args:
        init_value: Value at step 0.
        peak_value: Value at step ``warmup_steps``.
        warmup_steps: Steps of the line; 0 begins at the peak.
        transition_steps: Steps for one factor ``decay_rate``, at least 1.
        decay_rate: Factor, positive.
        transition_begin: Steps at the peak after the warm-up.
        staircase: The factor comes at once, every ``transition_steps`` steps.
        end_value: The decay stops here: a lower bound if ``decay_rate < 1``, otherwise an upper one.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, ``decay_rate`` is not positive, or a count is not
            a whole number in range.

    >>> from gradtx import schedules
    >>> f = schedules.warmup_exponential_decay_schedule(0.0, 1.0, 4, transition_steps=10, decay_rate=0.5)
    >>> [float(f(step)) for step in (0, 1, 4, 14, 24)]
    [0.0, 0.25, 1.0, 0.5, 0.25]
    """
    counts = {"warmup_steps": warmup_steps, "transition_steps": transition_steps, "transition_begin": transition_begin}
    check_countable("warmup_exponential_decay_schedule", **counts)
    init_value, peak_value, decay_rate = map(as_value, (init_value, peak_value, decay_rate))
    end_value = None if end_value is None else as_value(end_value)

    def after(step):
        return on_exponential(step, peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)

    return lambda step: warmed(step, after, warmup_steps, init_value)


@errors.checked
def warmup_inverse_sqrt_schedule(peak_value: Value, warmup_steps: errors.Count) -> Schedule:
    """``f(t) = peak_value min(n / W, sqrt(W / n))`` with ``n = t + 1`` and ``W = warmup_steps``.

    The rate of the original Transformer of width ``d`` has the peak ``1 / sqrt(d W)``. It never ends, so the number of
    steps need not be known.

    Args:
        peak_value: Value at step ``warmup_steps - 1``, the highest; ``peak_value / warmup_steps`` at step 0.
        warmup_steps: Steps of the rise, at least 1, and a third of those from the peak to half of it.

    Raises:
        ArgumentTypeError, ArgumentRangeError: ``peak_value`` is not finite, or ``warmup_steps`` is not a whole number
            in range.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3, whose steps count from 1.

    >>> from gradtx import schedules
    >>> f = schedules.warmup_inverse_sqrt_schedule(1.0, warmup_steps=4)
    >>> [float(f(step)) for step in (0, 1, 3, 15, 63)]
    [0.25, 0.5, 1.0, 0.5, 0.25]
    """
    check_countable("warmup_inverse_sqrt_schedule", warmup_steps=warmup_steps)
    peak_value = as_value(peak_value)

    def schedule(step):
        number, steps = as_step(step).astype(jnp.float32) + 1, jnp.float32(warmup_steps)
        return peak_value * jnp.where(number < steps, number / steps, jnp.sqrt(steps / number))

    return schedule


def warmed(step: ArrayLike, schedule: Schedule, warmup_steps: int, init_value: float | jax.Array) -> jax.Array:
    """The value at ``step`` of a line up to the first value of ``schedule``, and of that from there."""
    step = as_step(step)
    after = evaluate(schedule, jnp.maximum(step - warmup_steps, 0))
    if warmup_steps == 0:
        return after
    rising = on_line(step, init_value, evaluate(schedule, jnp.zeros_like(step)), warmup_steps)
    return jnp.where(step < warmup_steps, rising, after)

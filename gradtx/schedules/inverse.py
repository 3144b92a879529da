"""One over the time, and one over its root."""

from typing import Annotated

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradtx import errors
from gradtx.schedules.step import LARGEST, Schedule, Value, as_step, as_value, check_countable

Rate = Annotated[float, errors.Interval(0.0, LARGEST, schedule=False)]


@errors.checked
def inverse_time_decay(
    init_value: Value,
    transition_steps: errors.Count,
    decay_rate: Rate = 1.0,
    transition_begin: errors.Index = 0,
    staircase: bool = False,
) -> Schedule:
    """``f(t) = init_value / (1 + decay_rate x)`` with ``x = max(t - transition_begin, 0) / transition_steps``.

    Args:
        init_value: Value until step ``transition_begin``.
        transition_steps: Steps until half of it, with a ``decay_rate`` of 1; at least 1.
        decay_rate: Not negative; 0 gives a constant.
        transition_begin: Steps before the decay begins.
        staircase: ``x`` is rounded down.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, ``decay_rate`` is negative, or a count is not a
            whole number in range.

    Source: Robbins and Monro 1951, doi:10.1214/aoms/1177729586: of their condition, sums of steps diverge and sums of
    their squares do not, this is the standard example.

    >>> from gradtx import schedules
    >>> f = schedules.inverse_time_decay(1.0, transition_steps=10)
    >>> [float(f(step)) for step in (0, 10, 30, 70)]
    [1.0, 0.5, 0.25, 0.125]
    """
    check_countable("inverse_time_decay", transition_steps=transition_steps, transition_begin=transition_begin)
    init_value, decay_rate = as_value(init_value), as_value(decay_rate)

    def schedule(step):
        done = since(step, transition_begin)
        x = (done // transition_steps).astype(jnp.float32) if staircase else done / jnp.float32(transition_steps)
        return init_value / (1 + decay_rate * x)

    return schedule


@errors.checked
def inverse_sqrt_decay(
    init_value: Value, transition_steps: errors.Count, transition_begin: errors.Index = 0
) -> Schedule:
    """``f(t) = init_value / sqrt(1 + x)`` with ``x = max(t - transition_begin, 0) / transition_steps``.

    It never ends, so the number of steps need not be known. The original begins with a warm-up:
    :func:`warmup_inverse_sqrt_schedule`.

    Args:
        init_value: Value until step ``transition_begin``.
        transition_steps: A third of the steps until half of it; at least 1.
        transition_begin: Steps before the decay begins.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, or a count is not a whole number in range.

    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 3, after the warm-up.

    >>> from gradtx import schedules
    >>> f = schedules.inverse_sqrt_decay(1.0, transition_steps=10)
    >>> [float(f(step)) for step in (0, 30, 150)]
    [1.0, 0.5, 0.25]
    """
    check_countable("inverse_sqrt_decay", transition_steps=transition_steps, transition_begin=transition_begin)
    init_value = as_value(init_value)
    return lambda step: init_value / jnp.sqrt(1 + since(step, transition_begin) / jnp.float32(transition_steps))


def since(step: ArrayLike, begin: int) -> jax.Array:
    """Steps since ``begin``."""
    return jnp.maximum(as_step(step) - begin, 0)

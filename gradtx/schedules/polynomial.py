"""A power of the remaining steps, from one value to another."""

import jax.numpy as jnp

from gradtx import errors
from gradtx.schedules.linear import on_line
from gradtx.schedules.step import Factor, Schedule, Value, as_value, check_countable, progress


@errors.checked
def polynomial_schedule(
    init_value: Value,
    end_value: Value,
    power: Factor,
    transition_steps: errors.Count,
    transition_begin: errors.Index = 0,
) -> Schedule:
    """``f(t) = x**power init_value + (1 - x**power) end_value`` with the remaining part ``x`` of the steps.

    ``x = 1 - (t - transition_begin) / transition_steps`` within [0, 1]. Both ends are exact, and near each of them the
    difference to it is as exact as the value: nothing cancels.

    Args:
        init_value: Value until step ``transition_begin``.
        end_value: Value from step ``transition_begin + transition_steps`` on.
        power: Above 1 changes earlier, below 1 later; positive. (Optax never leaves ``init_value`` for 0.)
        transition_steps: Steps from one value to the other, at least 1. (Optax gives a constant for 0.)
        transition_begin: Steps before the change begins.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, ``power`` is not positive, or a count is not a
            whole number in range.

    >>> from gradtx import schedules
    >>> f = schedules.polynomial_schedule(1.0, 0.0, power=2, transition_steps=4, transition_begin=10)
    >>> [float(f(step)) for step in (0, 10, 11, 12, 14, 99)]
    [1.0, 1.0, 0.5625, 0.25, 0.0, 0.0]
    """
    check_countable("polynomial_schedule", transition_steps=transition_steps, transition_begin=transition_begin)
    init_value, end_value, power = map(as_value, (init_value, end_value, power))
    if isinstance(power, float) and power == 1:
        return lambda step: on_line(step, init_value, end_value, transition_steps, transition_begin)

    def schedule(step):
        done, remaining, total = progress(step, transition_steps, transition_begin)
        left = (remaining / total) ** power
        change = jnp.where(left > 0.5, -jnp.expm1(power * jnp.log1p(-done / total)), 1 - left)
        return init_value * left + end_value * change

    return schedule

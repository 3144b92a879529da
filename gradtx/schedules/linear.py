"""A straight line from one value to another."""

from typing import Any

import jax
from jax.typing import ArrayLike

from gradtx import errors
from gradtx.schedules.step import Schedule, Value, as_value, check_countable, progress


@errors.checked
def linear_schedule(
    init_value: Value, end_value: Value, transition_steps: errors.Count, transition_begin: errors.Index = 0
) -> Schedule:
    """``f(t) = (1 - x) init_value + x end_value`` with ``x = (t - transition_begin) / transition_steps`` within [0, 1].

    Both ends are exact; between them the error is at most 3 ULP of the larger term, for up to 16 million steps.

    Args:
        init_value: Value until step ``transition_begin``.
        end_value: Value from step ``transition_begin + transition_steps`` on.
        transition_steps: Steps from one value to the other, at least 1. (Optax gives a constant for 0.)
        transition_begin: Steps before the line begins.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, or a count is not a whole number in range.

    >>> from gradtx import schedules
    >>> f = schedules.linear_schedule(1.0, 0.0, transition_steps=4, transition_begin=10)
    >>> [float(f(step)) for step in (0, 10, 11, 12, 14, 99)]
    [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    """
    check_countable("linear_schedule", transition_steps=transition_steps, transition_begin=transition_begin)
    init_value, end_value = as_value(init_value), as_value(end_value)
    return lambda step: on_line(step, init_value, end_value, transition_steps, transition_begin)


def on_line(step: ArrayLike, init_value: Any, end_value: Any, steps: int | jax.Array, begin: int = 0) -> jax.Array:
    """The value at ``step`` of a line of ``steps`` steps; as two terms, so that neither end suffers cancellation."""
    done, remaining, total = progress(step, steps, begin)
    return init_value * (remaining / total) + end_value * (done / total)

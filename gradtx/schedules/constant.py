"""The same value at every step."""

import jax.numpy as jnp

from gradtx import errors
from gradtx.schedules.step import Schedule, Value, as_step, as_value


@errors.checked
def constant_schedule(value: Value) -> Schedule:
    """``f(t) = value``, a number as a schedule.

    Args:
        value: Any finite number.

    Raises:
        ArgumentTypeError, ArgumentRangeError: ``value`` is not one finite number.

    >>> from gradtx import schedules
    >>> float(schedules.constant_schedule(0.5)(1000))
    0.5
    """
    value = as_value(value)
    return lambda step: jnp.full_like(as_step(step), value, jnp.float32)

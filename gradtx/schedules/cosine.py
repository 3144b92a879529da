"""Half a period of a cosine from one value down to another."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradtx import errors
from gradtx.schedules.step import Schedule, Value, as_value, check_countable, progress

# sin(pi/2 sqrt(s))**2 = 2 s + s (a_0 + a_1 s + ...), highest power first; on [0, 1/4] the next term is below 1e-9 s.
_SINE_SQUARED = [(-1) ** k * math.pi ** (2 * k + 2) / (2 * math.factorial(2 * k + 2)) for k in range(7)]
_SINE_SQUARED = [*_SINE_SQUARED[:0:-1], _SINE_SQUARED[0] - 2]


@errors.checked
def cosine_decay_schedule(
    init_value: Value, decay_steps: errors.Count, alpha: Value = 0.0, exponent: errors.NonNegativeNumber = 1.0
) -> Schedule:
    """``f(t) = init_value (alpha + (1 - alpha) c)`` with ``c = (1/2 + 1/2 cos(pi min(t, T) / T))**exponent``.

    ``T = decay_steps``. Both ends are exact. With ``exponent=1`` the error between them is at most 4 ULP for up to 16
    million steps, also close to the end, where ``1 + cos`` cancels and this is computed without it.

    Args:
        init_value: Value at step 0.
        decay_steps: Steps until ``alpha init_value``, at least 1; the value stays there.
        alpha: Last value as a fraction of the first.
        exponent: Above 1 falls earlier, below 1 later.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, or ``decay_steps`` is not a whole number in range.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, without restarts.

    >>> from gradtx import schedules
    >>> f = schedules.cosine_decay_schedule(2.0, decay_steps=100, alpha=0.25)
    >>> [float(f(step)) for step in (0, 50, 100, 1000)]
    [2.0, 1.25, 0.5, 0.5]
    """
    check_countable("cosine_decay_schedule", decay_steps=decay_steps)
    init_value = as_value(init_value)
    end_value, exponent = init_value * as_value(alpha), as_value(exponent)
    return lambda step: on_cosine(step, init_value, end_value, decay_steps, exponent)


def on_cosine(
    step: ArrayLike, init_value: Any, end_value: Any, steps: int | jax.Array, exponent: Any = 1.0
) -> jax.Array:
    """The value at ``step`` of half a cosine of ``steps`` steps.

    ``1/2 + 1/2 cos(pi t / T)`` is ``sin(pi r / 2T)**2`` with ``r = T - t`` steps remaining, and 1 minus the same of
    ``t``: the smaller of the two comes from the series, in which nothing cancels, the other from 1 minus it.
    """
    done, remaining, total = progress(step, steps)
    fewer = jnp.minimum(done, remaining)
    square = fewer * fewer / (total * total)  # exact products up to 4,096 steps
    tail = 0.0
    for coefficient in _SINE_SQUARED:
        tail = tail * square + coefficient
    small = 2 * square + square * tail  # 2 is exact, so that the rounding of the tail weighs less
    fall = jnp.where(done > remaining, small, 1 - small)
    rise = jnp.where(done > remaining, 1 - small, small)
    if not (isinstance(exponent, float) and exponent == 1):
        fall = fall**exponent
        rise = 1 - fall
    return init_value * fall + end_value * rise

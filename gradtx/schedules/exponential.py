"""The same factor every so many steps, smoothly or at once."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gradtx import errors
from gradtx.schedules.step import LARGEST, Factor, Schedule, Value, as_step, as_value, check_countable

_BITS = 15  # A step has 31: two groups of at most 16, whose products with 8 bits of the slope are exact in float32.


@errors.checked
def exponential_decay(
    init_value: Value,
    transition_steps: errors.Count,
    decay_rate: Factor,
    transition_begin: errors.Index = 0,
    staircase: bool = False,
    end_value: Value | None = None,
) -> Schedule:
    """``f(t) = init_value decay_rate**x`` with ``x = max(t - transition_begin, 0) / transition_steps``.

    The exponent is exact to a fraction of a unit, so ``f`` is within 4 ULP at every step, also where ``decay_rate`` is
    close to 1. (The float32 power of the rounded rate is 15,000 ULP off for a rate of 0.999 a step, near the end of the
    range.) Growth stops at the largest float32.

    Args:
        init_value: Value until step ``transition_begin``.
        transition_steps: Steps for one factor ``decay_rate``, at least 1. (Optax gives a constant for 0.)
        decay_rate: Factor, positive. (Optax gives a constant for 0.)
        transition_begin: Steps before the decay begins.
        staircase: ``x`` is rounded down, by division of whole numbers, so that no stair comes a step late.
        end_value: The decay stops here: a lower bound if ``decay_rate < 1``, otherwise an upper one.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, ``decay_rate`` is not positive, or a count is not
            a whole number in range.

    >>> from gradtx import schedules
    >>> f = schedules.exponential_decay(1.0, transition_steps=10, decay_rate=0.25, end_value=0.01)
    >>> [round(float(f(step)), 4) for step in (0, 5, 10, 20, 1000)]
    [1.0, 0.5, 0.25, 0.0625, 0.01]
    """
    check_countable("exponential_decay", transition_steps=transition_steps, transition_begin=transition_begin)
    init_value, decay_rate = as_value(init_value), as_value(decay_rate)
    end_value = None if end_value is None else as_value(end_value)

    def schedule(step):
        return on_exponential(step, init_value, transition_steps, decay_rate, transition_begin, staircase, end_value)

    return schedule


@errors.checked
def step_decay(init_value: Value, transition_steps: errors.Count, decay_rate: Factor = 0.1) -> Schedule:
    """``f(t) = init_value decay_rate**floor(t / transition_steps)``: multiplied once every ``transition_steps`` steps.

    :func:`exponential_decay` with a staircase; at steps of your own, :func:`piecewise_constant_schedule`.

    Args:
        init_value: Value of the first ``transition_steps`` steps.
        transition_steps: Steps between two changes, at least 1.
        decay_rate: Factor of every change, positive.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, ``decay_rate`` is not positive, or
            ``transition_steps`` is not a whole number in range.

    >>> from gradtx import schedules
    >>> f = schedules.step_decay(1.0, transition_steps=30, decay_rate=0.5)
    >>> [float(f(step)) for step in (0, 29, 30, 59, 60)]
    [1.0, 1.0, 0.5, 0.5, 0.25]
    """
    check_countable("step_decay", transition_steps=transition_steps)
    init_value, decay_rate = as_value(init_value), as_value(decay_rate)
    return lambda step: on_exponential(step, init_value, transition_steps, decay_rate, 0, True, None)


def on_exponential(
    step: ArrayLike, init_value: Any, steps: int, rate: Any, begin: int, staircase: bool, end_value: Any
) -> jax.Array:
    """The value at ``step`` of an exponential with the factor ``rate`` every ``steps`` steps, from ``begin`` on."""
    done = jnp.maximum(as_step(step) - begin, 0)
    count, steps = (done // steps, 1) if staircase else (done, steps)
    known = isinstance(rate, float)
    mantissa, exponent = _power_of_two(count, (math.log2(rate) if known else jnp.log2(rate)) / steps)
    value = jnp.ldexp(init_value * mantissa, exponent)
    value = jnp.clip(value, -LARGEST, LARGEST)
    if end_value is None:
        return value
    return jnp.where(rate < 1, jnp.maximum(value, end_value), jnp.minimum(value, end_value))


def _power_of_two(count: jax.Array, slope: Any) -> tuple[jax.Array, jax.Array]:
    """``2**(count * slope)`` as a factor near 1 and a whole exponent.

    The product is a sum of exact ones, of a few bits each, whose whole parts are added apart from the rest.
    """
    low, high = (count & (2**_BITS - 1)).astype(jnp.float32), (count >> _BITS).astype(jnp.float32)
    products = [part * low for part in _parts(slope)] + [part * high for part in _parts(slope * 2.0**_BITS)]
    whole = rest = jnp.zeros_like(low)
    for product in products[::-1]:
        whole, rest = whole + jnp.round(product), rest + (product - jnp.round(product))
    whole, rest = whole + jnp.round(rest), rest - jnp.round(rest)
    return jnp.exp(rest * math.log(2)), jnp.clip(whole, -300, 300).astype(jnp.int32)


def _parts(slope: Any) -> list[Any]:
    """Numbers of 8 bits that sum up to ``slope``, largest first, and what is left; a traced one stays whole."""
    if isinstance(slope, jax.Array):
        return [slope]
    parts = []
    for _ in range(3):
        mantissa, exponent = math.frexp(slope)
        parts.append(math.ldexp(round(mantissa * 2**8), exponent - 8))
        slope -= parts[-1]
    return [*parts, slope]

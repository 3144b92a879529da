"""What every schedule shares: steps come in as any number, values leave as float32."""

import math
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gradtx import errors

Schedule = Callable[[ArrayLike], Any]
"""A function of the step. Those made here return float32 of the step's shape; of others, one real number is asked."""

LARGEST = float(np.finfo(np.float32).max)
LAST_STEP = int(np.iinfo(np.int32).max)

TINY = float(np.finfo(np.float32).tiny)

Value = Annotated[float, errors.Interval(-LARGEST, LARGEST, schedule=False)]
Factor = Annotated[float, errors.Interval(0.0, LARGEST, open_low=True, schedule=False, smallest=TINY)]


def as_step(step: ArrayLike) -> jax.Array:
    """The step as int32 in [0, 2**31 - 1], of whatever type it is: out of range goes to the nearer end, 2.7 to 2."""
    if isinstance(step, int):
        step = min(max(step, 0), LAST_STEP)  # no dtype may be wide enough for it
    dtype = step.dtype if isinstance(step, jax.Array) else np.asarray(step).dtype
    if not (jnp.issubdtype(dtype, np.integer) or jnp.issubdtype(dtype, np.floating) or dtype == np.bool_):
        raise errors.ArgumentTypeError(
            "schedule(step)",
            expected="step must be a real number",
            got=f"{type(step).__name__} {errors.show(step)}",
            cause="a schedule is a function of the step alone",
            fix="write schedule(0)",
        )
    if not isinstance(step, jax.Array):  # without 64-bit mode JAX would wrap a large int64
        step = jnp.asarray(np.fmin(np.fmax(np.asarray(step, np.float64), 0), LAST_STEP).astype(np.int32))
    elif jnp.issubdtype(dtype, np.integer) and jnp.iinfo(dtype).max > LAST_STEP:
        step = jnp.clip(step, 0, LAST_STEP)
    return jnp.maximum(step.astype(jnp.int32), 0)


def as_value(value: Any) -> Any:
    """A number to compute with in float32: exact until then where it is known, an array where it is traced."""
    return value.astype(jnp.float32) if isinstance(value, jax.Array) else float(value)


def evaluate(schedule: Schedule, step: jax.Array) -> jax.Array:
    """The value of anyone's schedule, in float32 of the step's shape."""
    value = schedule(step)
    errors.check_returned(f"{errors.show(schedule)}(step)", value, step.shape)
    return jnp.broadcast_to(jax.lax.convert_element_type(value, jnp.float32), step.shape)


def progress(step: ArrayLike, steps: int | jax.Array, begin: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """How many of ``steps`` steps are done at ``step``, how many remain, and their sum, in float32.

    The sum is computed: by a constant XLA multiplies with the rounded inverse, and ``49 * (1 / 49)`` is not 1.
    """
    done = jnp.clip(as_step(step) - begin, 0, steps)
    done, remaining, total = (x.astype(jnp.float32) for x in (done, steps - done, jnp.maximum(done, steps)))
    return done, remaining, total


def check_countable(name: str, **counts: int) -> None:
    """Refuses numbers of steps that the counter of a state never reaches."""
    for key, count in counts.items():
        if count > LAST_STEP:
            raise errors.ArgumentRangeError(
                f"{name}({key}={count})",
                expected=f"{key} must be at most {LAST_STEP}",
                got=count,
                cause="steps are counted in 32 bits",
                fix=f"write {key}={LAST_STEP}",
            )


def check_finite(call: str, *values: Any) -> None:
    """Refuses values that are infinite in float32, where they are known; they come from arguments that are finite."""
    for value in values:
        if isinstance(value, float) and not math.fabs(value) <= LARGEST:
            raise errors.ArgumentRangeError(
                call,
                expected="values whose products and quotients are finite in float32",
                got=f"{value:g}",
                cause="a factor is far too large or too small",
                fix="give factors between 1e-6 and 1e6",
            )


def check_schedule(call: str, key: str, schedule: Any) -> None:
    """Refuses what is not a function of the step."""
    if callable(schedule) and not isinstance(schedule, type):
        return
    cause, fix = "a schedule is a function of the step", "write e.g. cosine_decay_schedule(0.1, 1000)"
    if isinstance(schedule, type):
        cause = "a class was given where its instance was meant"
    elif isinstance(schedule, int | float | np.number | np.ndarray | jax.Array):
        cause, fix = "a constant is not a schedule", f"write constant_schedule({errors.show(schedule)})"
    raise errors.ArgumentTypeError(
        call,
        expected=f"{key} must be a function of the step",
        got=f"{type(schedule).__name__} {errors.show(schedule)}",
        cause=cause,
        fix=fix,
    )

"""One schedule after the other."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.schedules.step import Schedule, as_step, check_countable, check_schedule, evaluate


@errors.checked
def join_schedules(schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """``f(t) = schedules[i](t - boundaries[i - 1])`` where ``boundaries[i - 1] <= t < boundaries[i]``.

    Each schedule counts from its own start, and is never asked for a step before it.

    Args:
        schedules: Functions of the step, in order; foreign ones may return any real number.
        boundaries: First step of every schedule but the first, increasing; one less than schedules.

    Raises:
        ArgumentTypeError: an entry is not a schedule or not a whole number, or a schedule returns no number.
        ArgumentRangeError: no schedule, another number of boundaries, or boundaries that do not increase.

    >>> from gradtx import schedules
    >>> rise, fall = schedules.linear_schedule(0.0, 1.0, 4), schedules.linear_schedule(1.0, 0.0, 2)
    >>> f = schedules.join_schedules([rise, fall], boundaries=[4])
    >>> [float(f(step)) for step in range(7)]
    [0.0, 0.25, 0.5, 0.75, 1.0, 0.5, 0.0]
    """
    call = f"join_schedules({errors.show(schedules)}, {errors.show(boundaries)})"
    schedules, boundaries = _entries(call, "schedules", schedules), _entries(call, "boundaries", boundaries)
    for index, schedule in enumerate(schedules):
        check_schedule(call, f"schedules[{index}]", schedule)
    for index, boundary in enumerate(boundaries):
        if isinstance(boundary, bool) or not isinstance(boundary, int | np.integer):
            raise errors.ArgumentTypeError(
                call,
                expected=f"boundaries[{index}] must be a whole number",
                got=f"{type(boundary).__name__} {errors.show(boundary)}",
                cause="a boundary is the first step of the next schedule",
                fix="write boundaries=[int(step) for step in ...]",
            )
        check_countable("join_schedules", **{f"boundaries[{index}]": int(boundary)})
    if len(boundaries) != len(schedules) - 1:
        raise errors.ArgumentRangeError(
            call,
            expected="one boundary less than schedules",
            got=f"{len(schedules)} schedules and {len(boundaries)} boundaries",
            cause="the first schedule begins at step 0",
            fix=f"give {max(len(schedules), 1) - 1} boundaries for {max(len(schedules), 1)} schedules",
        )
    if any(later <= earlier for earlier, later in zip((-1, *boundaries), boundaries, strict=False)):
        raise errors.ArgumentRangeError(
            call,
            expected="boundaries must not be negative and must increase",
            got=errors.show(boundaries),
            cause="lengths were given where steps from the very beginning are meant",
            fix=f"write boundaries={np.cumsum(np.abs(boundaries)).tolist()}",
        )
    return _joined(schedules, tuple(map(int, boundaries)))


@functools.lru_cache(maxsize=4096)
def _joined(schedules: tuple[Schedule, ...], boundaries: tuple[int, ...]) -> Schedule:
    """The same object for equal entries, in a list or a tuple."""

    def joined(step):
        step = as_step(step)
        value = evaluate(schedules[0], step)
        for boundary, schedule in zip(boundaries, schedules[1:], strict=True):
            value = jnp.where(step < boundary, value, evaluate(schedule, jnp.maximum(step - boundary, 0)))
        return value

    return joined


def _entries(call: str, key: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple | np.ndarray):
        raise errors.ArgumentTypeError(
            call,
            expected=f"{key} must be a list",
            got=f"{type(values).__name__} {errors.show(values)}",
            cause="even one entry comes in a list",
            fix="write join_schedules([first, second], [1000])",
        )
    return tuple(values)

"""Values at given steps: kept until the next one, or joined by lines or half cosines."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from gradtx import errors
from gradtx.schedules.cosine import on_cosine
from gradtx.schedules.linear import on_line
from gradtx.schedules.step import LARGEST, Schedule, Value, as_step, as_value, check_countable, check_finite

_CURVES = {"linear": on_line, "cosine": on_cosine}


@errors.checked
def piecewise_constant_schedule(
    init_value: Value, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """``f(t) = init_value * product of s_i over all b_i <= t``, for ``boundaries_and_scales = {b_i: s_i}``.

    Args:
        init_value: Value before the first boundary.
        boundaries_and_scales: ``{step: scale}`` in any order. From its step on a scale multiplies all before it: it is
            a factor, not a value.

    Raises:
        ArgumentTypeError: no dictionary from whole numbers to numbers.
        ArgumentRangeError: a step or a scale is negative, or a value or a product of them is not finite.

    >>> from gradtx import schedules
    >>> f = schedules.piecewise_constant_schedule(1.0, {100: 0.5, 200: 0.5})
    >>> [float(f(step)) for step in (0, 99, 100, 200, 1000)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """
    call = f"piecewise_constant_schedule({errors.show(init_value)}, {errors.show(boundaries_and_scales)})"
    boundaries, scales = _sorted_entries(call, boundaries_and_scales)
    values = _multiplied(call, init_value, scales)
    return lambda step: _stacked(values)[piece_of(as_step(step), boundaries)]


@errors.checked
def piecewise_interpolate_schedule(
    interpolate_type: Literal["linear", "cosine"],
    init_value: Value,
    boundaries_and_scales: Mapping[int, float] | None = None,
) -> Schedule:
    """The values of :func:`piecewise_constant_schedule` at its boundaries, joined by lines or by half cosines.

    The first piece leads from ``init_value`` at step 0; behind the last boundary the value stays. Every boundary is met
    exactly.

    Args:
        interpolate_type: ``"linear"``, or ``"cosine"`` for pieces that begin and end level.
        init_value: Value at step 0.
        boundaries_and_scales: ``{step: scale}`` in any order; at its step a scale has multiplied all before it.

    Raises:
        ArgumentTypeError: no dictionary from whole numbers to numbers.
        ArgumentRangeError: another type, a negative step or scale, or a value or a product that is not finite.

    >>> from gradtx import schedules
    >>> f = schedules.piecewise_interpolate_schedule("linear", 1.0, {4: 0.5, 8: 0.5})
    >>> [float(f(step)) for step in (0, 2, 4, 6, 8, 100)]
    [1.0, 0.75, 0.5, 0.375, 0.25, 0.25]
    """
    call = f"piecewise_interpolate_schedule({interpolate_type!r}, {errors.show(init_value)}, ...)"
    boundaries, scales = _sorted_entries(call, boundaries_and_scales)
    values = _multiplied(call, init_value, scales)
    return lambda step: on_pieces(step, boundaries, values, interpolate_type)


def on_pieces(step: ArrayLike, boundaries: Sequence[int], values: Sequence[Any], kind: str) -> jax.Array:
    """The value at ``step`` of curves from one of ``values`` to the next, which end at ``boundaries``.

    Of equal boundaries all but the last are passed over.
    """
    step = as_step(step)
    begins, ends = np.array([0, *boundaries], np.int32), np.array([*boundaries, 0], np.int32)
    index, numbers = piece_of(step, boundaries), _stacked([*values, values[-1]])
    lengths = np.maximum(ends - begins, 1)
    return _CURVES[kind](
        step - jnp.asarray(begins)[index], numbers[index], numbers[index + 1], jnp.asarray(lengths)[index]
    )


def piece_of(step: jax.Array, boundaries: Sequence[int]) -> jax.Array:
    """How many of the increasing ``boundaries`` have been reached at ``step``."""
    return jnp.sum(step[..., None] >= jnp.array(boundaries, jnp.int32), axis=-1)


def _multiplied(call: str, init_value: Any, scales: Sequence[Any]) -> list[Any]:
    """``init_value`` and its products with the first scale, the first two, ..."""
    values = [as_value(init_value)]
    for scale in scales:
        values.append(values[-1] * as_value(scale))
    check_finite(call, *values)
    return values


def _stacked(values: Sequence[Any]) -> jax.Array:
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])


def _sorted_entries(call: str, entries: Any) -> tuple[list[int], list[Any]]:
    """The boundaries in order and their scales."""
    if entries is not None and not isinstance(entries, Mapping):
        raise errors.ArgumentTypeError(
            call,
            expected="boundaries_and_scales must be a dictionary {step: scale}",
            got=f"{type(entries).__name__} {errors.show(entries)}",
            cause="steps and scales were given apart",
            fix="write boundaries_and_scales=dict(zip(steps, scales))",
        )
    for boundary, scale in (entries or {}).items():
        number = errors.as_float(scale)
        whole = isinstance(boundary, int | np.integer) and not isinstance(boundary, bool)
        if not whole or (number is None and not isinstance(scale, Tracer)):
            raise errors.ArgumentTypeError(
                call,
                expected="boundaries_and_scales must map whole numbers to numbers",
                got=f"{errors.show(boundary)}: {errors.show(scale)}",
                cause="a boundary counts steps, and a scale is a factor",
                fix="write {1000: 0.1}",
            )
        if boundary < 0 or (number is not None and not 0 <= number <= LARGEST):
            raise errors.ArgumentRangeError(
                call,
                expected="boundaries and scales must be finite and not negative",
                got=f"{errors.show(boundary)}: {errors.show(scale)}",
                cause="a scale is a factor, not a difference",
                fix="write {1000: 0.1}",
            )
        check_countable(call.partition("(")[0], boundary=int(boundary))
    ordered = sorted((int(boundary), scale) for boundary, scale in (entries or {}).items())
    return [boundary for boundary, _ in ordered], [scale for _, scale in ordered]

"""What every loss asks of its arguments: real numbers in float32 or wider, equal shapes, and which of them count."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import ArgumentRangeError, ArgumentTypeError, Call, DtypeError, ShapeError, show
from gradtx.tree import widen

Shape = tuple[int, ...]


def written(name: str, *arguments: Any, **options: Any) -> Call:
    """The call for an error message, which becomes text only in one; options that are None were not given."""
    return Call(name, arguments, {key: value for key, value in options.items() if value is not None}, {}, {})


def pair(
    call: Call,
    names: tuple[str, str],
    predictions: Any,
    targets: Any,
    where: Any = None,
    axes: tuple[int, ...] = (),
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """Predictions and targets in the wide dtype of the predictions, both 0 in what does not count, and what counts.

    The 0 is put in before anything is computed: a NaN that does not count has no way into loss or gradient.

    Raises:
        DtypeError: Predictions that are not floating, complex targets, a ``where`` that is not bool.
        ShapeError: Two shapes; a ``where`` that fits neither them nor the examples, see :func:`counted`.
    """
    x, y = floating(call, names, predictions), jnp.asarray(targets)
    if jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise DtypeError(
            call,
            expected=f"{names[1]} must be real",
            got=y.dtype,
            cause="a loss compares real numbers",
            fix=f"write {names[1]}.real",
        )
    if x.shape != y.shape:
        raise misfit(
            call,
            names[1],
            y,
            {x.shape: f"that of {names[0]}"},
            cause=f"{names[1]} do not broadcast: one example would be counted against another's",
            fix=f"pass the {names[1]} of these very examples",
        )
    x, y = widen(x), y.astype(widen(x).dtype)
    kept = counted(call, where, x.shape, axes)
    return (x, y, None) if kept is None else (jnp.where(kept, x, 0), jnp.where(kept, y, 0), kept)


def floating(call: Call, names: tuple[str, str], x: Any) -> jax.Array:
    """``x``, the first of the two arguments named, as an array; raises unless it is floating."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise DtypeError(
            call,
            expected=f"{names[0]} must be floating",
            got=x.dtype,
            cause=f"{names[0]} come before {names[1]}, and are not yet rounded to a class",
            fix=f"write {call.name}({', '.join(names)})",
        )
    return x


def class_numbers(call: Call, labels: jax.Array, shapes: Mapping[Shape, str]) -> jax.Array:
    """Labels as the widest integers; raises unless they are integers of the first of ``shapes``."""
    if labels.shape != next(iter(shapes)):
        raise misfit(
            call,
            "labels",
            labels,
            shapes,
            cause="labels do not broadcast: one example would be counted against another's label",
            fix="pass the labels of these very examples",
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise DtypeError(
            call,
            expected="class numbers must be integers",
            got=labels.dtype,
            cause="the labels were read or converted as another dtype",
            fix="write labels.astype(jnp.int32)",
        )
    return labels.astype(jax.dtypes.canonicalize_dtype(np.int64))


def scores_and_classes(
    call: Call, scores: Any, labels: Any, where: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """Scores ``[..., classes]``, -inf where a class does not count; which is the label's; whether there is one; and
    what counts. Raises unless labels are class numbers without the last axis.
    """
    s = widen(floating(call, ("scores", "labels"), scores))
    if s.ndim == 0 or s.shape[-1] == 0:
        raise ShapeError(
            call,
            expected="at least one class",
            got=f"scores of shape {s.shape}",
            cause="the scores need a last axis of classes",
            fix="write scores[..., None]",
        )
    y = jnp.expand_dims(class_numbers(call, jnp.asarray(labels), {s.shape[:-1]: "class numbers"}), -1)
    kept = counted(call, where, s.shape, (s.ndim - 1,))
    s = s if kept is None else jnp.where(kept, s, -jnp.inf)
    is_label = jax.lax.broadcasted_iota(y.dtype, s.shape, s.ndim - 1) == y
    return s, is_label, ((y >= 0) & (y < s.shape[-1]))[..., 0], kept


def counted(call: Call, where: Any, shape: Shape, axes: tuple[int, ...] = ()) -> jax.Array | None:
    """``where`` broadcast to ``shape``, or None for None.

    ``where`` has one bool per number (the rank of ``shape``; an axis of length 1 stands for all), one per example
    (``shape`` without ``axes``), or one per group of examples (the first axes of those).
    """
    if where is None:
        return None
    where = jnp.asarray(where)
    if where.dtype != jnp.bool_:
        raise DtypeError(
            call,
            expected="where must be bool",
            got=where.dtype,
            cause="where chooses; weights multiply the loss instead",
            fix="write where=mask > 0",
        )
    spread_out = spread(where, shape, axes)
    if spread_out is None:
        raise misfit(
            call,
            "where",
            where,
            {without(shape, axes): "one bool per example", **({shape: "one per number"} if axes else {})},
            cause="the mask belongs to another array",
            fix="write where=labels >= 0",
        )
    return spread_out


def spread(x: jax.Array, shape: Shape, axes: tuple[int, ...] = ()) -> jax.Array | None:
    """``x`` broadcast to ``shape``, or None where :func:`counted` does not say how."""
    first = shape[: min(axes, default=len(shape))]
    if x.shape == without(shape, axes):
        x = jnp.expand_dims(x, axes)
    elif 0 < x.ndim < len(shape) and x.shape == first[: x.ndim]:
        x = jnp.expand_dims(x, tuple(range(x.ndim, len(shape))))
    elif x.ndim != len(shape) or any(n not in (1, size) for n, size in zip(x.shape, shape, strict=True)):
        return None
    return jnp.broadcast_to(x, shape)


def without(shape: Shape, axes: tuple[int, ...]) -> Shape:
    return tuple(size for axis, size in enumerate(shape) if axis not in axes)


def misfit(call: Call, what: str, x: jax.Array, shapes: Mapping[Shape, str], *, cause: str, fix: str) -> ShapeError:
    """The error for an array that has none of ``shapes``, each with what it means; ``fix`` if no reshape will do.

    A reshape may add and drop axes of length 1: another one would mix the examples.
    """
    long = [size for size in x.shape if size != 1]
    right = next((shape for shape in shapes if [size for size in shape if size != 1] == long), None)
    return ShapeError(
        call,
        expected=f"{what} of shape {' or '.join(f'{shape} ({meaning})' for shape, meaning in shapes.items())}",
        got=x.shape,
        cause=cause,
        fix=fix if right is None else f"write {what}.reshape{right}",
    )


def own_axes(call: Call, axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes that ``axis`` (one, several, or None for all) means, counted from the front."""
    axes = range(ndim) if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
    if any(isinstance(one, bool) or not isinstance(one, int | np.integer) for one in axes):
        raise ArgumentTypeError(
            call,
            expected="axis must be whole numbers",
            got=show(axis),
            cause="an axis is counted, and not named",
            fix="write axis=-1",
        )
    found = tuple(int(one) % ndim for one in axes if -ndim <= one < ndim)
    if len(set(found)) < len(axes) or not axes:
        raise ArgumentRangeError(
            call,
            expected=f"axis must name different ones of the {ndim} axes",
            got=show(axis),
            cause="one example without a batch axis, or an array without its last axis",
            fix="write axis=-1",
        )
    return found


def times(weights: jax.Array, costs: jax.Array) -> jax.Array:
    """``w c``, and 0 where weight 0 meets an infinite cost: what cannot happen costs nothing."""
    return weights * jnp.where((weights == 0) & jnp.isinf(costs), 0, costs)


def left_out(loss: jax.Array, kept: jax.Array | None, axes: tuple[int, ...] = ()) -> jax.Array:
    """The loss, 0 for examples of which nothing counts; ``axes`` are those that the loss has lost."""
    return loss if kept is None else jnp.where(jnp.any(kept, axes) if axes else kept, loss, 0)

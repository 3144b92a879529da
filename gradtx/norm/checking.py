"""What the normalizations check of their arguments."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.norm.statistics import devices
from gradtx.tree import in_words

# A smaller one makes the gradient at a channel of equal values overflow: it holds eps**-1.5.
SafeEpsilon = Annotated[float, errors.Interval(1e-24, schedule=False)]


def checked_shape(call: Any, shape: Any) -> tuple[int, ...]:
    """The shape of x as ints; raises for anything else."""
    whole = isinstance(shape, Sequence) and all(
        isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in shape
    )
    if not whole:
        raise errors.ArgumentTypeError(
            call,
            expected="init takes the whole shape of x, a tuple of whole numbers",
            got=errors.show(shape),
            cause="init needs neither x itself nor a key",
            fix="write params, state = init(x.shape)",
        )
    return tuple(int(n) for n in shape)


def as_axes(axis: Any, name: str = "axis") -> tuple[int, ...]:
    """One axis or several, as a tuple; raises unless they are whole numbers."""
    axis = axis if isinstance(axis, tuple) else (axis,)
    if not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in axis):
        raise errors.ArgumentTypeError(
            errors.UNNAMED,
            expected=f"{name} must be a whole number or a tuple of them",
            got=errors.show(axis[0] if len(axis) == 1 else axis),
            cause="it is a place in the shape of x",
            fix=f"write {name}={0 if name == 'batch_axis' else -1}",
        )
    return tuple(int(i) for i in axis)


def check_axis_name(axis_name: Any) -> None:
    """Raises unless it is a name, several or none."""
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if axis_name is not None and not all(isinstance(name, str) for name in names):
        raise errors.ArgumentTypeError(
            errors.UNNAMED,
            expected="axis_name must be the name of an axis, a tuple of names or None",
            got=errors.show(axis_name),
            cause="the channel axis, a number, is the argument axis",
            fix='write axis_name="batch"',
        )


def check_train(call: Any, train: Any) -> None:
    """Raises unless ``train`` is known when the program is traced."""
    if not isinstance(train, bool | np.bool_):
        raise errors.ArgumentTypeError(
            call,
            expected="train must be True or False when the program is traced",
            got=errors.show(train),
            cause="training and evaluation are two programs",
            fix='write jax.jit(f, static_argnames="train"), or one function for each',
        )


def check_forms(call: Any, params: Any, state: Any, names: Sequence[str], kind: type) -> None:
    """Raises unless the parameters have these names, and the state is of this kind."""
    if not isinstance(params, Mapping) or set(params) != set(names):
        form = ", ".join(f'"{name}": ...' for name in names)
        raise errors.StructureError(
            call,
            expected=f"params must be {{{form}}}",
            got=in_words(params) + (f" with {', '.join(map(repr, params))}" if isinstance(params, Mapping) else ""),
            cause="apply takes params, state, x, train in this order",
            fix="write params, state = init(x.shape)",
        )
    if not isinstance(state, kind) or (kind is tuple and state):
        form = f"{kind.__name__}({', '.join(getattr(kind, '_fields', ()))})"
        raise errors.StructureError(
            call,
            expected=f"state must be {'()' if kind is tuple else f'a {kind.__name__}'}",
            got=in_words(state),
            cause="apply takes params, state, x, train in this order, and a restored state may have lost its type",
            fix="write params, state = init(x.shape)" + ("" if kind is tuple else f", or {form}"),
        )


def check_channels(call: Any, leaves: tuple[Any, ...], x: Any, own: tuple[int, ...]) -> None:
    """Raises unless all leaves have the shape of the channels of x, on these axes."""
    channels = tuple(x.shape[i] for i in own)
    known = next((jnp.shape(leaf) for leaf in leaves if jnp.shape(leaf) != channels), channels)
    if known != channels:
        raise errors.ShapeError(
            call,
            expected=f"x must have the channels of init, {known} on axis {own[0] if len(own) == 1 else own}",
            got=f"{channels} in x of shape {x.shape}",
            cause="the channel axis is another one, or init saw another shape",
            fix="write axis=1 for channels that come before rows and columns, and init(x.shape)",
        )


def check_synchronized(call: Any, axis_name: Any) -> None:
    """Raises where each device would silently keep statistics of its own."""
    split = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    if axis_name is None and split:
        raise errors.ArgumentTypeError(
            call,
            expected=f"axis_name must say over which of the axes {split} the batch is split",
            got="None",
            cause="each device would use and keep statistics of its own part of the batch",
            fix=f"write axis_name={split[0]!r}, with that name given to pmap; axis_name=() if that is meant",
        )


def values_of_each(call: Any, x: Any, axes: tuple[int, ...], axis_name: Any) -> int:
    """How many values the axes of x have together, counted over devices; raises where a named axis is unknown."""
    named = (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())
    try:
        over = devices(named)
    except NameError:
        raise errors.ArgumentRangeError(
            call,
            expected="axis_name must name axes of the shard_map, pmap or vmap around",
            got=errors.show(axis_name),
            cause="there is no such axis here",
            fix="leave axis_name out in a program that is not split by name",
        ) from None
    return math.prod(x.shape[i] for i in axes) * over


def check_enough(call: Any, x: Any, axes: tuple[int, ...], axis_name: Any, expected: str, fix: str) -> None:
    """Raises where a mean would be of one value."""
    count = values_of_each(call, x, axes, axis_name)
    if count < 2:
        own = math.prod(x.shape[i] for i in axes)
        raise errors.ShapeError(
            call,
            expected=expected,
            got=f"{count} in x of shape {x.shape}" + (f" on {count // own} devices" if axis_name and own else ""),
            cause="one value normalized by itself is zero whatever it is",
            fix=fix,
        )

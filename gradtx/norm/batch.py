"""Batch normalization."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.norm.normalization import Normalization
from gradtx.norm.statistics import AxisName, check_floating, check_where, deviations, devices, own_axes
from gradtx.tree import in_words, widen

# A smaller one makes the gradient at a channel of equal values overflow: it holds eps**-1.5.
SafeEpsilon = Annotated[float, errors.Interval(1e-24, schedule=False)]


class BatchNormState(NamedTuple):
    """Running statistics, one float32 number per channel each."""

    mean: jax.Array
    variance: jax.Array


@errors.checked
def batch_norm(
    *,
    axis: int | tuple[int, ...] = -1,
    decay: errors.Fraction = 0.9,
    eps: SafeEpsilon = 1e-5,
    axis_name: AxisName = None,
    unbiased: bool = False,
) -> Normalization:
    """Normalizes each channel over the batch, then scales and shifts it by what is learned::

        m = mean(x), v = mean((x - m)^2)             over all axes but the channel's; in evaluation the running ones
        y = scale * (x - m) / sqrt(v + eps) + bias
        mean     <- decay * mean     + (1 - decay) * m
        variance <- decay * variance + (1 - decay) * v          (v * n / (n - 1) if unbiased)

    Args:
        axis: The channel axis, or several.
        decay: Weight of the old running statistics: 1 minus PyTorch's ``momentum``, and Flax's ``momentum``.
        eps: Keeps the root away from zero.
        axis_name: Named axes of ``shard_map``, ``pmap`` or ``vmap`` over which the batch is split; ``()`` is for
            statistics of each device alone. Under automatic sharding it is not needed.
        unbiased: Let the running variance estimate the variance of the whole data set, as PyTorch's does and Flax's
            does not. (The batch itself is always normalized by its biased one.)

    Returns:
        ``init(shape) -> (params, state)`` with the whole shape of x: ``params`` is ``{"scale": ones, "bias": zeros}``,
        ``state`` a :class:`BatchNormState` of mean 0 and variance 1, all float32 in the shape of the channel axes.

        ``apply(params, state, x, train, *, where=None) -> (y, state)``. With ``train=True`` by the statistics of the
        batch, which go into the new state; with False by those of the state, which is returned as it is. ``where`` says
        which values count (bool, broadcast to x): pass ``mask[:, None]`` for examples that only fill up a batch. y has
        the dtype of x; what is narrower than float32 is computed in float32.

    See :func:`mean_and_variance` for how the statistics are found. y and all gradients are within 3e-6 of exact, over
    the largest of the channel (measured, at worst; usually 3e-7), while the mean of x is up to a million deviations
    from zero and its deviation up to 1e12. The running mean is one float32 number, so in evaluation the *statistics*
    are known to about 3e-7 of the mean. A channel of equal values gives ``bias``, and finite gradients.

    Raises:
        ShapeError: x has other channels than ``init`` saw, or ``where`` another shape; or, in training, there is one
            value per channel, counted over devices: it would be normalized to zero whatever it is.
        ArgumentTypeError: ``train`` is traced; or ``axis_name`` is not given inside ``shard_map`` or ``pmap``, where
            each device would silently use statistics of its own.
        DtypeError: x is not floating, or ``where`` not bool.
        StructureError: ``params`` or ``state`` are not of the form that ``init`` returns.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, algorithms 1 and 2.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> init, apply = norm.batch_norm(decay=0.5)
    >>> params, state = init((2, 1))
    >>> y, state = apply(params, state, jnp.array([[10.0], [14.0]]), True)
    >>> y.round(4).tolist(), state.mean.tolist(), state.variance.tolist()
    ([[-1.0], [1.0]], [6.0], [2.5])
    """
    axis = axis if isinstance(axis, tuple) else (axis,)
    _check_axis(axis)
    _check_axis_name(axis_name)

    def call() -> Any:
        return getattr(init, "__gradtx_call__", "batch_norm(...)")

    def init(shape):
        shape = _checked_shape(call(), shape)
        channels = tuple(shape[i] for i in own_axes(call(), "axis", axis, len(shape)))
        params = {"scale": jnp.ones(channels, jnp.float32), "bias": jnp.zeros(channels, jnp.float32)}
        return params, BatchNormState(jnp.zeros(channels, jnp.float32), jnp.ones(channels, jnp.float32))

    def apply(params, state, x, train, *, where=None):
        check_floating(call(), x)
        _check_train(call(), train)
        x = jnp.asarray(x)
        own = own_axes(call(), "axis", axis, x.ndim)
        _check_forms(call(), params, state)
        check_where(call(), where, x)
        _check_channels(call(), (params["scale"], params["bias"], *state), x, own)
        along_x = [length if i in own else 1 for i, length in enumerate(x.shape)]
        scale, bias, mean, variance = (
            widen(leaf).reshape(along_x) for leaf in (params["scale"], params["bias"], *state)
        )
        if not train:
            return _normalized(widen(x) - mean, 0.0, variance, scale, bias, eps).astype(x.dtype), state

        axes = tuple(i for i in range(x.ndim) if i not in own)
        _check_synchronized(call(), axis_name)
        _check_enough(call(), x, axes, axis_name)
        batch = deviations(x, axes, axis_name=axis_name, where=where)
        y = _normalized(batch.deviation, batch.mean, batch.variance, scale, bias, eps)
        spread = batch.variance * (batch.count / jnp.maximum(batch.count - 1, 1)) if unbiased else batch.variance
        weight = (1 - decay) * (batch.count > 0)
        new = (
            _running_average(mean, batch.pivot + batch.mean, weight),
            _running_average(variance, spread, weight),
        )
        kept = (n.reshape(old.shape).astype(old.dtype) for n, old in zip(new, state, strict=True))
        return y.astype(x.dtype), BatchNormState(*kept)

    return Normalization(init, apply)


def _normalized(deviation: Any, mean: Any, variance: Any, scale: Any, bias: Any, eps: float) -> jax.Array:
    """``scale * (d - mean) / sqrt(v + eps) + bias`` as ``a*d + b``: then the gradient of a needs one sum, of g*d."""
    a = scale * jax.lax.rsqrt(variance + eps)
    return a * deviation + (bias - a * mean)


def _running_average(old: Any, new: Any, weight: Any) -> Any:
    """``(1 - weight) * old + weight * new``, exact where both are equal."""
    return old + weight * (new - old)


def _checked_shape(call: Any, shape: Any) -> tuple[int, ...]:
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


def _check_axis(axis: tuple[Any, ...]) -> None:
    if not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in axis):
        raise errors.ArgumentTypeError(
            errors.UNNAMED,
            expected="axis must be a whole number or a tuple of them",
            got=errors.show(axis[0] if len(axis) == 1 else axis),
            cause="it is the place of the channels in the shape of x",
            fix="write axis=-1",
        )


def _check_axis_name(axis_name: Any) -> None:
    names = axis_name if isinstance(axis_name, tuple) else (axis_name,)
    if axis_name is not None and not all(isinstance(name, str) for name in names):
        raise errors.ArgumentTypeError(
            errors.UNNAMED,
            expected="axis_name must be the name of an axis, a tuple of names or None",
            got=errors.show(axis_name),
            cause="the channel axis, a number, is the argument axis",
            fix='write axis_name="batch"',
        )


def _check_train(call: Any, train: Any) -> None:
    if not isinstance(train, bool | np.bool_):
        raise errors.ArgumentTypeError(
            call,
            expected="train must be True or False when the program is traced",
            got=errors.show(train),
            cause="training and evaluation are two programs",
            fix='write jax.jit(f, static_argnames="train"), or one function for each',
        )


def _check_forms(call: Any, params: Any, state: Any) -> None:
    if not isinstance(params, Mapping) or set(params) != {"scale", "bias"}:
        raise errors.StructureError(
            call,
            expected='params must be {"scale": ..., "bias": ...}',
            got=in_words(params) + (f" with {', '.join(map(repr, params))}" if isinstance(params, Mapping) else ""),
            cause="apply takes params, state, x, train in this order",
            fix="write params, state = init(x.shape)",
        )
    if not isinstance(state, BatchNormState):
        raise errors.StructureError(
            call,
            expected="state must be a BatchNormState",
            got=in_words(state),
            cause="apply takes params, state, x, train in this order, and a restored state may have lost its type",
            fix="write params, state = init(x.shape), or BatchNormState(mean, variance)",
        )


def _check_channels(call: Any, leaves: tuple[Any, ...], x: Any, own: tuple[int, ...]) -> None:
    channels = tuple(x.shape[i] for i in own)
    known = next((jnp.shape(leaf) for leaf in leaves if jnp.shape(leaf) != channels), channels)
    if known != channels:
        raise errors.ShapeError(
            call,
            expected=f"x must have the channels of init, {known} on axis {own[0] if len(own) == 1 else own}",
            got=f"{channels} in x of shape {x.shape}",
            cause="the channel axis is another one, or init saw another shape",
            fix="write batch_norm(axis=1) for channels that come before rows and columns, and init(x.shape)",
        )


def _check_synchronized(call: Any, axis_name: Any) -> None:
    split = tuple(jax.sharding.get_abstract_mesh().manual_axes)
    if axis_name is None and split:
        raise errors.ArgumentTypeError(
            call,
            expected=f"axis_name must say over which of the axes {split} the batch is split",
            got="None",
            cause="each device would use and keep statistics of its own part of the batch",
            fix=f"write axis_name={split[0]!r}, with that name given to pmap; axis_name=() if that is meant",
        )


def _check_enough(call: Any, x: Any, axes: tuple[int, ...], axis_name: Any) -> None:
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
    count = int(np.prod([x.shape[i] for i in axes])) * over
    if count < 2:
        raise errors.ShapeError(
            call,
            expected="training needs at least two values per channel",
            got=f"{count} in x of shape {x.shape}" + (f" on {over} devices" if named else ""),
            cause="one value normalized by itself is zero whatever it is",
            fix="give a larger batch (drop a last one of a single example), or write train=False",
        )

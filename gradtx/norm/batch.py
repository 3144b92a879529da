"""Batch normalization."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.norm.channels import along, batch_deviations, initial_params
from gradtx.norm.checking import (
    SafeEpsilon,
    as_axes,
    check_axis_name,
    check_channels,
    check_forms,
    check_train,
    checked_shape,
)
from gradtx.norm.normalization import Normalization
from gradtx.norm.running import kept, next_batch, running_average, weight_of_batch
from gradtx.norm.statistics import AxisName, check_floating, check_where, own_axes
from gradtx.tree import widen


class BatchNormState(NamedTuple):
    """Running statistics, one float32 number per channel each, and how many batches are in them (int32)."""

    mean: Any
    variance: Any
    step: Any = np.int32(0)


@errors.checked
def batch_norm(
    *,
    axis: int | tuple[int, ...] = -1,
    decay: errors.Fraction | None = 0.9,
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
        decay: Weight of the old running statistics: 1 minus PyTorch's ``momentum``, and Flax's ``momentum``. With None
            they are the mean over all batches so far: ``1 - 1 / t`` in batch t, from 1 (PyTorch's ``momentum=None``).
        eps: Keeps the root away from zero.
        axis_name: Named axes of ``shard_map``, ``pmap`` or ``vmap`` over which the batch is split; ``()`` is for
            statistics of each device alone. Under automatic sharding it is not needed.
        unbiased: Let the running variance estimate the variance of the whole data set, as PyTorch's does and Flax's
            does not. (The batch itself is always normalized by its biased one.)

    Returns:
        ``init(shape) -> (params, state)`` with the whole shape of x: ``params`` is ``{"scale": ones, "bias": zeros}``,
        ``state`` a :class:`BatchNormState` of mean 0 and variance 1, all float32 in the shape of the channel axes, and
        step 0.

        ``apply(params, state, x, train, *, where=None) -> (y, state)``. With ``train=True`` by the statistics of the
        batch, which go into the new state; with False by those of the state, which is returned as it is. ``where`` says
        which values count (bool, broadcast to x): pass ``mask[:, None]`` for examples that only fill up a batch, and
        ``jnp.isfinite(x).all(-1, keepdims=True)`` so that an example with NaN spoils neither the running statistics nor
        a gradient: what does not count and is not finite is taken for the mean. y has the dtype of x; what is narrower
        than float32 is computed in float32.

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
    channel_axes = as_axes(axis)
    check_axis_name(axis_name)

    def call() -> Any:
        return getattr(init, "__gradtx_call__", "batch_norm(...)")

    def init(shape):
        shape = checked_shape(call(), shape)
        channels = tuple(shape[i] for i in own_axes(call(), "axis", channel_axes, len(shape)))
        mean, variance = jnp.zeros(channels, jnp.float32), jnp.ones(channels, jnp.float32)
        return initial_params(channels), BatchNormState(mean, variance, jnp.zeros((), jnp.int32))

    def apply(params, state, x, train, *, where=None):
        check_floating(call(), x)
        check_train(call(), train)
        x = jnp.asarray(x)
        own = own_axes(call(), "axis", channel_axes, x.ndim)
        check_forms(call(), params, state, ("scale", "bias"), BatchNormState)
        check_where(call(), where, x)
        leaves = (params["scale"], params["bias"], state.mean, state.variance)
        check_channels(call(), leaves, x, own)
        scale, bias, mean, variance = along(x.shape, own, leaves)
        if not train:
            a = scale * jax.lax.rsqrt(variance + eps)
            return (a * (widen(x) - mean) + bias).astype(x.dtype), state

        batch = batch_deviations(call(), x, own, axis_name, where)
        a = scale * jax.lax.rsqrt(batch.variance + eps)
        y = a * batch.deviation + (bias - a * batch.mean)  # then the gradient of a needs one sum, of g * deviation
        spread = batch.variance * (batch.count / jnp.maximum(batch.count - 1, 1)) if unbiased else batch.variance
        weight = weight_of_batch(decay, state.step, batch.count)
        new = BatchNormState(
            running_average(mean, batch.pivot + batch.mean, weight),
            running_average(variance, spread, weight),
            next_batch(state.step, batch.count),
        )
        return y.astype(x.dtype), kept(new, state)

    return Normalization(init, apply)

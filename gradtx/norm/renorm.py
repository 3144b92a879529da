"""Batch renormalization: in training, too, by numbers that evaluation will use."""

from typing import Annotated, Any, NamedTuple

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
from gradtx.schedules import linear_schedule
from gradtx.tree import widen

AtLeastOne = Annotated[errors.Scalar, errors.Interval(1.0)]

# Section 4: batch normalization for 5,000 steps, then r_max grows to 3 at step 40,000 and d_max to 5 at step 25,000.
_R_MAX = linear_schedule(1.0, 3.0, 35_000, 5_000)
_D_MAX = linear_schedule(0.0, 5.0, 20_000, 5_000)


class BatchRenormState(NamedTuple):
    """Running mean and deviation, one float32 number per channel each, and how many batches are in them (int32)."""

    mean: Any
    deviation: Any
    step: Any = np.int32(0)


@errors.checked
def batch_renorm(
    *,
    axis: int | tuple[int, ...] = -1,
    decay: errors.Fraction | None = 0.99,
    eps: SafeEpsilon = 1e-5,
    r_max: AtLeastOne = _R_MAX,
    d_max: errors.NonNegative = _D_MAX,
    axis_name: AxisName = None,
) -> Normalization:
    """Normalizes each channel over the batch, corrected towards the running statistics::

        m = mean(x), s = sqrt(mean((x - m)^2) + eps)              over all axes but the channel's
        r = clip(s / deviation, 1 / r_max, r_max)                 no gradient goes through r and d
        d = clip((m - mean) / deviation, -d_max, d_max)
        y = scale * ((x - m) / s * r + d) + bias                  in evaluation scale * (x - mean) / deviation + bias
        mean      <- decay * mean      + (1 - decay) * m
        deviation <- decay * deviation + (1 - decay) * s

    Where nothing is clipped, y in training is y in evaluation: what an example becomes does not depend on the others in
    its batch, so that small batches and ones of a single class do. With ``r_max=1, d_max=0`` it is
    :func:`batch_norm`.

    Args:
        axis: The channel axis, or several.
        decay: Weight of the old running statistics; None for the mean over all batches so far.
        eps: Keeps the root away from zero.
        r_max: Limit of r, at least 1; a number or a schedule of the step. By default the paper's: 1 until step 5,000,
            3 from step 40,000 on, a line between.
        d_max: Limit of d; a number or a schedule. By default 0 until step 5,000, 5 from step 25,000 on.
        axis_name: As in :func:`batch_norm`.

    Returns:
        ``(init, apply)`` as those of :func:`batch_norm`. The state is a :class:`BatchRenormState` of mean 0, deviation
        1, and the step that schedules see: the batches with at least one value that counts.

    Accuracy, masks and dtypes are those of :func:`batch_norm`. d is found from the running mean, one float32 number, so
    it is known to about 3e-7 of the mean over the deviation, in training as in evaluation.

    Source: Ioffe 2017, arXiv:1702.03275, algorithm 1; schedules and the decay from section 4. (There
    ``alpha = 1 - decay``.)

    Raises:
        Error: What :func:`batch_norm` raises.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> layer = norm.batch_renorm(decay=0.5, r_max=10.0, d_max=10.0)
    >>> params, state = layer.init((2, 1))
    >>> y, state = layer.apply(params, state, jnp.array([[3.0], [7.0]]), True)
    >>> y.round(4).tolist(), state.mean.tolist(), state.deviation.round(4).tolist()    # by mean 0 and deviation 1
    ([[3.0], [7.0]], [2.5], [1.5])
    """
    channel_axes = as_axes(axis)
    check_axis_name(axis_name)

    def call() -> Any:
        return getattr(init, "__gradtx_call__", "batch_renorm(...)")

    def init(shape):
        shape = checked_shape(call(), shape)
        channels = tuple(shape[i] for i in own_axes(call(), "axis", channel_axes, len(shape)))
        mean, deviation = jnp.zeros(channels, jnp.float32), jnp.ones(channels, jnp.float32)
        return initial_params(channels), BatchRenormState(mean, deviation, jnp.zeros((), jnp.int32))

    def apply(params, state, x, train, *, where=None):
        check_floating(call(), x)
        check_train(call(), train)
        x = jnp.asarray(x)
        own = own_axes(call(), "axis", channel_axes, x.ndim)
        check_forms(call(), params, state, ("scale", "bias"), BatchRenormState)
        check_where(call(), where, x)
        leaves = (params["scale"], params["bias"], state.mean, state.deviation)
        check_channels(call(), leaves, x, own)
        scale, bias, mean, deviation = along(x.shape, own, leaves)
        if not train:
            a = scale * jax.lax.rsqrt(jnp.square(deviation))  # on CPUs a quotient is taken for every number
            return (a * (widen(x) - mean) + bias).astype(x.dtype), state

        batch = batch_deviations(call(), x, own, axis_name, where)
        r_limit, d_limit = (_at(call(), limit, state.step) for limit in (r_max, d_max))
        s = jnp.sqrt(batch.variance + eps)
        r = jax.lax.stop_gradient(jnp.clip(s / deviation, 1 / r_limit, r_limit))
        d = jax.lax.stop_gradient(jnp.clip(((batch.pivot - mean) + batch.mean) / deviation, -d_limit, d_limit))
        a = scale * r / s
        y = a * batch.deviation + (bias + scale * d - a * batch.mean)
        weight = weight_of_batch(decay, state.step, batch.count)
        new = BatchRenormState(
            running_average(mean, batch.pivot + batch.mean, weight),
            running_average(deviation, s, weight),
            next_batch(state.step, batch.count),
        )
        return y.astype(x.dtype), kept(new, state)

    return Normalization(init, apply)


def _at(call: Any, limit: Any, step: Any) -> Any:
    if not callable(limit):
        return limit
    value = limit(jnp.asarray(step))
    errors.check_returned(call, value)
    return value

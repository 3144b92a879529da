"""Normalization of each example by itself: over its features, its places, or groups of its channels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.norm.channels import along, initial_params
from gradtx.norm.checking import (
    SafeEpsilon,
    as_axes,
    check_axis_name,
    check_channels,
    check_enough,
    check_forms,
    checked_shape,
    values_of_each,
)
from gradtx.norm.normalization import Normalization
from gradtx.norm.statistics import AxisName, check_floating, check_where, deviations, mean_square, own_axes

Axes = tuple[int, ...]


@errors.checked
def layer_norm(
    *, axis: int | tuple[int, ...] = -1, eps: SafeEpsilon = 1e-6, axis_name: AxisName = None
) -> Normalization:
    """Normalizes the features of each example, then scales and shifts each::

        m = mean(x), v = mean((x - m)^2)             over ``axis``
        y = scale * (x - m) / sqrt(v + eps) + bias

    Args:
        axis: The feature axes: averaged over, and each with a scale and bias of its own (PyTorch's
            ``normalized_shape`` is their lengths).
        eps: Keeps the root away from zero. (Flax's default; PyTorch's is 1e-5.)
        axis_name: Named axes of ``shard_map``, ``pmap`` or ``vmap`` over which the features are split; ``params`` then
            hold each device's part.

    Returns:
        ``(init, apply)`` as those of :func:`batch_norm`, with a state ``()``, and ``train`` may be left out: training
        and evaluation are the same. ``params`` is ``{"scale": ones, "bias": zeros}`` in the shape of the feature axes.
        ``where`` (bool, broadcast to x) says which features count in the mean; those that do not are normalized by the
        others, and taken for the mean where they are not finite.

    y and all gradients are within 3e-6 of exact, over the largest, while the mean is up to a million deviations from
    zero. Equal features give ``bias``, and finite gradients.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450, equations 3 and 4.

    Raises:
        ShapeError: x has other features than ``init`` saw, or ``where`` another shape; or one feature alone, which
            would become zero whatever it is.
        DtypeError: x is not floating, or ``where`` not bool.
        StructureError: ``params`` or ``state`` are not of the form that ``init`` returns.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> init, apply = norm.layer_norm()
    >>> params, state = init((1, 2))
    >>> apply(params, state, jnp.array([[1e6, 1e6 + 4]]))[0].round(4).tolist()
    [[-1.0, 1.0]]
    """
    features = as_axes(axis)

    def own(call: Any, rank: int) -> Axes:
        return own_axes(call, "axis", features, rank)

    def normalized(call: Any, params: Any, x: jax.Array, where: Any) -> jax.Array:
        axes = own(call, x.ndim)
        return _centred(call, params, x, axes, axes, axis_name, where, eps)

    return _stateless("layer_norm", axis_name, own, normalized)


@errors.checked
def rms_norm(*, axis: int | tuple[int, ...] = -1, eps: SafeEpsilon = 1e-6, axis_name: AxisName = None) -> Normalization:
    """Divides the features of each example by their root mean square, then scales each::

        y = scale * x / sqrt(mean(x^2) + eps)        over ``axis``

    Arguments and results are those of :func:`layer_norm`, but ``params`` is ``{"scale": ones}``, and one feature alone
    is allowed: its sign is left. Nothing is subtracted, so an offset of all features stays. PyTorch's default for eps
    is 1.2e-7. x is limited to where its squares have a sum (1e17 for a thousand features). Zeros give zeros, and finite
    gradients.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, equation 4.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> init, apply = norm.rms_norm()
    >>> params, state = init((1, 2))
    >>> apply(params, state, jnp.array([[2.0, -2.0]]))[0].round(4).tolist()
    [[1.0, -1.0]]
    """
    features = as_axes(axis)

    def own(call: Any, rank: int) -> Axes:
        return own_axes(call, "axis", features, rank)

    def normalized(call: Any, params: Any, x: jax.Array, where: Any) -> jax.Array:
        axes = own(call, x.ndim)
        values_of_each(call, x, axes, axis_name)
        limited, of_squares = mean_square(x, axes, axis_name=axis_name, where=where)
        (scale,) = along(x.shape, axes, (params["scale"],))
        return scale * (limited * jax.lax.rsqrt(of_squares + eps))

    return _stateless("rms_norm", axis_name, own, normalized, ("scale",))


@errors.checked
def instance_norm(
    *,
    axis: int | tuple[int, ...] = -1,
    batch_axis: int | tuple[int, ...] = 0,
    eps: SafeEpsilon = 1e-6,
    axis_name: AxisName = None,
) -> Normalization:
    """Normalizes each channel of each example over its places, then scales and shifts each channel::

        m = mean(x), v = mean((x - m)^2)             over all axes but ``axis`` and ``batch_axis``
        y = scale * (x - m) / sqrt(v + eps) + bias

    Args:
        axis: The channel axis, or several.
        batch_axis: The axes of examples; ``()`` for a single one.
        eps: Keeps the root away from zero. (Flax's default; PyTorch's is 1e-5.)
        axis_name: Named axes over which the places are split.

    Results, accuracy and errors are those of :func:`layer_norm`, with ``params`` in the shape of the channel axes;
    ``where`` says which places count: images or sequences may be padded to one size.

    Source: Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022, equation 4.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> init, apply = norm.instance_norm()
    >>> params, state = init((1, 2, 1))
    >>> apply(params, state, jnp.array([[[3.0], [5.0]]]))[0].round(4).tolist()
    [[[-1.0], [1.0]]]
    """
    channels, examples = as_axes(axis), as_axes(batch_axis, "batch_axis")

    def own(call: Any, rank: int) -> Axes:
        return _apart(call, channels, examples, rank)[0]

    def normalized(call: Any, params: Any, x: jax.Array, where: Any) -> jax.Array:
        learned, alone = _apart(call, channels, examples, x.ndim)
        axes = tuple(i for i in range(x.ndim) if i not in (*learned, *alone))
        return _centred(call, params, x, learned, axes, axis_name, where, eps)

    return _stateless("instance_norm", axis_name, own, normalized)


@errors.checked
def group_norm(
    num_groups: errors.Count = 32,
    *,
    axis: int = -1,
    batch_axis: int | tuple[int, ...] = 0,
    eps: SafeEpsilon = 1e-6,
    axis_name: AxisName = None,
) -> Normalization:
    """Normalizes groups of neighbouring channels of each example together, then scales and shifts each channel::

        m = mean(x), v = mean((x - m)^2)             over the channels of a group, and all axes but ``batch_axis``
        y = scale * (x - m) / sqrt(v + eps) + bias

    Args:
        num_groups: Into how many groups the channels are cut; with 1, layer normalization over channels and places.
        axis: The channel axis.
        batch_axis: The axes of examples; ``()`` for a single one.
        eps: Keeps the root away from zero. (Flax's default; PyTorch's is 1e-5.)
        axis_name: Named axes over which the places are split.

    Results, accuracy and errors are those of :func:`layer_norm`, with a scale and bias per channel.

    Source: Wu and He 2018, arXiv:1803.08494, equations 1, 2 and 7.

    Raises:
        ShapeError: The channels cannot be cut into groups of one size; or what :func:`layer_norm` raises.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> init, apply = norm.group_norm(2)
    >>> params, state = init((1, 4))
    >>> apply(params, state, jnp.array([[1.0, 3.0, 50.0, 70.0]]))[0].round(4).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    channels, examples = as_axes(axis), as_axes(batch_axis, "batch_axis")

    def own(call: Any, rank: int) -> Axes:
        return _apart(call, channels, examples, rank)[0]

    def normalized(call: Any, params: Any, x: jax.Array, where: Any) -> jax.Array:
        (c,), alone = _apart(call, channels, examples, x.ndim)
        size, rest = divmod(x.shape[c], num_groups)
        if rest or not size:
            raise errors.ShapeError(
                call,
                expected=f"channels that can be cut into {num_groups} groups of one size",
                got=f"{x.shape[c]} in x of shape {x.shape}",
                cause="the channels are on another axis, or fewer than the default of 32",
                fix="write group_norm(num_groups), with a divisor of the channels",
            )
        cut = (*x.shape[:c], num_groups, size, *x.shape[c + 1 :])
        where = None if where is None else jnp.broadcast_to(where, x.shape).reshape(cut)
        kept = {i + (i > c) for i in alone} | {c}
        axes = tuple(i for i in range(len(cut)) if i not in kept)
        each = {name: jnp.reshape(leaf, (num_groups, size)) for name, leaf in params.items()}
        return _centred(call, each, x.reshape(cut), (c, c + 1), axes, axis_name, where, eps).reshape(x.shape)

    return _stateless("group_norm", axis_name, own, normalized)


def _stateless(
    name: str,
    axis_name: AxisName,
    own: Callable[[Any, int], Axes],
    normalized: Callable[..., jax.Array],
    names: tuple[str, ...] = ("scale", "bias"),
) -> Normalization:
    """The pair of a layer that remembers nothing; ``own`` are the axes along which it learns."""
    check_axis_name(axis_name)

    def call() -> Any:
        return getattr(init, "__gradtx_call__", f"{name}(...)")

    def init(shape):
        shape = checked_shape(call(), shape)
        params = initial_params(tuple(shape[i] for i in own(call(), len(shape))))
        return {key: params[key] for key in names}, ()

    def apply(params, state, x, train=False, *, where=None):
        del train  # the same program
        check_floating(call(), x)
        x = jnp.asarray(x)
        learned = own(call(), x.ndim)
        check_forms(call(), params, state, names, tuple)
        check_where(call(), where, x)
        check_channels(call(), tuple(params.values()), x, learned)
        return normalized(call(), params, x, where).astype(x.dtype), ()

    return Normalization(init, apply)


def _centred(
    call: Any, params: Any, x: jax.Array, own: Axes, axes: Axes, axis_name: AxisName, where: Any, eps: float
) -> jax.Array:
    fix = "give more places or channels, or leave the normalization out"
    check_enough(call, x, axes, axis_name, "each mean needs at least two values", fix)
    scale, bias = along(x.shape, own, (params["scale"], params["bias"]))
    found = deviations(x, axes, axis_name=axis_name, where=where, of_batch=False)
    a = jax.lax.rsqrt(found.variance + eps)
    if own == axes:  # a * scale would be as large as x
        return (a * found.deviation - a * found.mean) * scale + bias
    a = a * scale
    return a * found.deviation + (bias - a * found.mean)


def _apart(call: Any, channels: Axes, examples: Axes, rank: int) -> tuple[Axes, Axes]:
    """Channel axes and axes of examples; raises where one is both."""
    own, alone = own_axes(call, "axis", channels, rank), own_axes(call, "batch_axis", examples, rank)
    if {*own} & {*alone}:
        raise errors.ArgumentRangeError(
            call,
            expected="axis and batch_axis must be different axes",
            got=f"{own} and {alone} in {rank} axes",
            cause="x has no batch axis",
            fix="write x[None] for one example, or batch_axis=()",
        )
    return own, alone

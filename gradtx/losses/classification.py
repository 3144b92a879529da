"""Losses for one class out of several."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import ArgumentRangeError, ArgumentTypeError, Call, DtypeError, ShapeError, show
from gradtx.losses.operands import class_numbers, counted, floating, left_out, without, written
from gradtx.tree import widen


def softmax_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Cross entropy between ``softmax(logits)`` and the labels, one number per example::

        p = exp(z) / sum_c exp(z_c)        integer labels y:  loss = -log p_y
                                           dense labels l:    loss = -sum_c l_c log p_c

    Args:
        logits: Unnormalized log probabilities z, floating, shape ``[..., classes]`` (``axis`` is the class axis).
        labels: Class numbers y (integers, the shape of ``logits`` without ``axis``), or a weight per class l
            (probabilities, one-hot or smoothed; the shape of ``logits``). The shape decides which.
        axis: The class axis.
        where: What counts: one bool per class (the shape of ``logits``) or per example (without ``axis``). A class left
            out has probability zero. An example left out has loss and gradient zero, whatever stands in it, so
            ``where=labels >= 0`` ignores labels of -1.

    Returns:
        The loss of each example in nats: the shape of ``logits`` without ``axis``, float32 or wider.

    With m the class of the largest logit, both forms are sums of terms that do not cancel::

        -log p_c = log1p(sum_{k != m} exp(z_k - z_m)) + (z_m - z_c)

    so loss and gradient keep their relative precision where ``p_y`` is within 1e-30 of 0 or of 1, and are finite for
    every finite logit (except a loss above the largest float, which is inf). A logit of -inf is a class of probability
    zero: it adds nothing where its label weight is zero, and makes the loss inf where it is not.

    An integer label outside ``[0, classes)`` gives NaN for its example: it is neither clipped nor counted from the end.
    ``jnp.where(valid, loss, 0)`` afterwards still has the right gradient. Labels are data, so no error can be raised.

    Raises:
        DtypeError: Logits that are not floating, labels or ``where`` of a dtype that fits neither form.
        ShapeError: Labels or ``where`` that have neither shape, or no class at all.

    >>> import jax.numpy as jnp
    >>> from gradtx.losses import softmax_cross_entropy
    >>> softmax_cross_entropy(jnp.array([[0.0, 0.0], [200.0, 0.0]]), jnp.array([1, 1])).tolist()
    [0.6931471824645996, 200.0]
    """
    call = written("softmax_cross_entropy", logits, labels, where=where)
    z, labels = widen(floating(call, ("logits", "labels"), logits)), jnp.asarray(labels)
    axis = _class_axis(call, z, axis)
    is_dense = labels.shape == z.shape
    if is_dense and jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise DtypeError(
            call,
            expected="labels must be real weights",
            got=labels.dtype,
            cause="a weight per class has no imaginary part",
            fix="write labels.real",
        )
    if not is_dense:
        shapes = {without(z.shape, (axis,)): "class numbers", z.shape: "a weight per class"}
        labels = class_numbers(call, labels, shapes)
    counts = counted(call, where, z.shape, (axis,))
    if counts is not None:
        z = jnp.where(counts, z, -jnp.inf)

    peak = jax.lax.stop_gradient(jnp.max(z, axis, keepdims=True))
    z = z - jnp.where(jnp.isneginf(peak), 0, peak)
    if is_dense:
        weights = labels.astype(z.dtype) if counts is None else jnp.where(counts, labels.astype(z.dtype), 0)
        impossible = jnp.isneginf(z) & (weights == 0)  # 0 * log 0 is 0
        return jnp.sum(weights, axis) * _log_sum_exp(z, axis) - jnp.sum(weights * jnp.where(impossible, 0, z), axis)
    is_class = (labels >= 0) & (labels < z.shape[axis])
    loss = jnp.where(is_class, _surprise(z, labels, axis), jnp.nan)
    return left_out(loss, counts, (axis,))


def _classes(z: jax.Array, axis: int) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, z.shape, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log_sum_exp(z: jax.Array, axis: int) -> jax.Array:
    """``log sum_c exp(z_c)`` for z whose largest entry is 0: that entry's 1 is left to ``log1p``."""
    classes = _classes(z, axis)
    # The first of the largest, by min and not by argmax: 5 ms instead of 19 for 128 rows of 50,257 classes.
    first = jnp.min(jnp.where(z == 0, classes, z.shape[axis]), axis, keepdims=True)
    return jnp.log1p(jnp.sum(jnp.where(classes == first, 0, jnp.exp(z)), axis))


@_log_sum_exp.defjvp
def _(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    log_sum = _log_sum_exp(z, axis)
    return log_sum, jnp.sum(jnp.exp(z - jnp.expand_dims(log_sum, axis)) * dz, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _surprise(z: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """``-log p_y`` for z whose largest entry is 0."""
    is_label = _classes(z, axis) == jnp.expand_dims(labels, axis)
    return _log_sum_exp(z, axis) - jnp.sum(jnp.where(is_label, z, 0), axis)


@_surprise.defjvp
def _(axis: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, Any]) -> tuple[jax.Array, jax.Array]:
    """``d loss/dz_c = p_c``, and ``p_y - 1 = expm1(-loss)`` for the label: the difference is 0 below a loss of 6e-8."""
    (z, labels), (dz, _) = primals, tangents
    loss = _surprise(z, labels, axis)
    p = jnp.exp(z - jnp.expand_dims(_log_sum_exp(z, axis), axis))
    is_label = _classes(z, axis) == jnp.expand_dims(labels, axis)
    return loss, jnp.sum(jnp.where(is_label, jnp.expm1(-jnp.expand_dims(loss, axis)), p) * dz, axis)


def _class_axis(call: Call, logits: jax.Array, axis: Any) -> int:
    """The class axis counted from the front."""
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise ArgumentTypeError(
            call,
            expected="axis must be one whole number",
            got=show(axis),
            cause="there is one class axis",
            fix="write axis=-1",
        )
    if not -logits.ndim <= axis < logits.ndim:
        raise ArgumentRangeError(
            call,
            expected=f"axis must be one of the {logits.ndim} axes of the logits",
            got=axis,
            cause="the logits need a class axis",
            fix="write axis=-1",
        )
    if logits.shape[axis] == 0:
        raise ShapeError(
            call,
            expected="at least one class",
            got=f"none on axis {axis}",
            cause="the class axis is another one",
            fix="write axis=-1",
        )
    return int(axis) % logits.ndim

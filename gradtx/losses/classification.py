"""Losses for one class out of several."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx.errors import (
    ArgumentRangeError,
    ArgumentTypeError,
    Call,
    DtypeError,
    Number,
    ShapeError,
    checked_call,
    show,
)
from gradtx.losses.log_probabilities import below_peak, class_axis_iota, log_sum_exp
from gradtx.losses.operands import class_numbers, counted, floating, left_out, without, written
from gradtx.tree import widen


def softmax_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
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
    z, labels, axis, counts = _prepared(call, logits, labels, axis, where)
    if labels.shape != z.shape:
        return _of_class_numbers(z, labels, axis, counts)
    weights = _weights(z, labels, counts)
    return _of_weights(z, weights, axis)


@checked_call
def poly_loss_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    epsilon: Number = 2.0,
    axis: int = -1,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Cross entropy with another weight of the first term of its series in ``1 - p``::

        loss = sum_c l_c (-log p_c + epsilon (1 - p_c)),    p = softmax(logits)

    Args:
        logits, labels, axis, where: As of :func:`softmax_cross_entropy`, and so are result and errors; labels are class
            numbers or weights l, too.
        epsilon: What is added to the weight 1 of ``1 - p``. 2 is the paper's for classification, -1 for detection; 0
            leaves plain cross entropy.

    ``1 - p`` is computed from the logarithm of p: it keeps its precision where p is within 1e-30 of 1.

    Source: Leng et al. 2022, arXiv:2204.12511 (Poly-1).

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> [round(loss, 4) for loss in losses.poly_loss_cross_entropy(jnp.zeros((2, 4)), jnp.array([1, 2])).tolist()]
    [2.8863, 2.8863]
    """
    call = written("poly_loss_cross_entropy", logits, labels, epsilon=epsilon, where=where)
    z, labels, axis, counts = _prepared(call, logits, labels, axis, where)
    if labels.shape != z.shape:
        loss = _of_class_numbers(z, labels, axis, counts)
        return loss - epsilon * jnp.expm1(-loss)
    weights = _weights(z, labels, counts)
    missing = -jnp.expm1(z - jnp.expand_dims(log_sum_exp(z, axis), axis))
    return _of_weights(z, weights, axis) + epsilon * jnp.sum(weights * missing, axis)


def _prepared(
    call: Call, logits: Any, labels: Any, axis: Any, where: Any
) -> tuple[jax.Array, jax.Array, int, jax.Array | None]:
    """Logits less the largest one, labels, the class axis from the front, and what counts; raises as promised above."""
    z, labels = widen(floating(call, ("logits", "labels"), logits)), jnp.asarray(labels)
    axis = _class_axis(call, z, axis)
    if labels.shape != z.shape:
        shapes = {without(z.shape, (axis,)): "class numbers", z.shape: "a weight per class"}
        labels = class_numbers(call, labels, shapes)
    elif jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise DtypeError(
            call,
            expected="labels must be real weights",
            got=labels.dtype,
            cause="a weight per class has no imaginary part",
            fix="write labels.real",
        )
    counts = counted(call, where, z.shape, (axis,))
    if counts is not None:
        z = jnp.where(counts, z, -jnp.inf)
    return below_peak(z, axis), labels, axis, counts


def _weights(z: jax.Array, labels: jax.Array, counts: jax.Array | None) -> jax.Array:
    return labels.astype(z.dtype) if counts is None else jnp.where(counts, labels.astype(z.dtype), 0)


def _of_weights(z: jax.Array, weights: jax.Array, axis: int) -> jax.Array:
    impossible = jnp.isneginf(z) & (weights == 0)  # 0 * log 0 is 0
    return jnp.sum(weights, axis) * log_sum_exp(z, axis) - jnp.sum(weights * jnp.where(impossible, 0, z), axis)


def _of_class_numbers(z: jax.Array, labels: jax.Array, axis: int, counts: jax.Array | None) -> jax.Array:
    is_class = (labels >= 0) & (labels < z.shape[axis])
    loss = jnp.where(is_class, _surprise(z, labels, axis), jnp.nan)
    return left_out(loss, counts, (axis,))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _surprise(z: jax.Array, labels: jax.Array, axis: int) -> jax.Array:
    """``-log p_y`` for z whose largest entry is 0."""
    is_label = class_axis_iota(z, axis) == jnp.expand_dims(labels, axis)
    return log_sum_exp(z, axis) - jnp.sum(jnp.where(is_label, z, 0), axis)


@_surprise.defjvp
def _(axis: int, primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, Any]) -> tuple[jax.Array, jax.Array]:
    """``d loss/dz_c = p_c``, and ``p_y - 1 = expm1(-loss)`` for the label: the difference is 0 below a loss of 6e-8."""
    (z, labels), (dz, _) = primals, tangents
    loss = _surprise(z, labels, axis)
    p = jnp.exp(z - jnp.expand_dims(log_sum_exp(z, axis), axis))
    is_label = class_axis_iota(z, axis) == jnp.expand_dims(labels, axis)
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

"""Losses of how much a predicted region overlaps the true one, for segmentation."""

from typing import Literal

import jax
import jax.numpy as jnp

from gradtx.errors import Call, DtypeError, NonNegativeNumber, ShapeError, checked_call
from gradtx.losses.log_probabilities import below_peak, log_sum_exp
from gradtx.losses.operands import own_axes, pair, written

Axes = int | tuple[int, ...] | None
_NAMES = ("predictions", "targets")


@checked_call
def dice_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    class_weights: jax.typing.ArrayLike | None = None,
    smooth: NonNegativeNumber = 1.0,
    alpha: NonNegativeNumber = 0.5,
    beta: NonNegativeNumber = 0.5,
    apply_softmax: bool = True,
    reduction: Literal["mean", "sum", "none"] = "mean",
    ignore_background: bool = False,
    axis: Axes = None,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """1 minus the Dice coefficient of each class, or Tversky's where ``alpha`` and ``beta`` are not a half::

        hits = sum_i p_i t_i,   wrong = sum_i p_i (1 - t_i),   missed = sum_i (1 - p_i) t_i
        loss = (alpha wrong + beta missed) / (hits + alpha wrong + beta missed + smooth)

    Args:
        predictions: Logits, floating, ``[batch, ..., classes]``; p is their softmax over the last axis, or their
            sigmoid where that axis has length 1. With ``apply_softmax=False`` p itself, which is not
            checked.
        targets: One-hot classes or other probabilities t, real, the shape of ``predictions``. An array without the last
            axis goes with one class.
        class_weights: What the loss of each class is multiplied by, ``[classes]``; the mean stays a plain one.
        smooth: Keeps the loss of a small region near 0. With 0, a class that is neither there nor predicted has loss
            and gradient 0 (Optax: NaN).
        alpha, beta: The weights of what is predicted and not there, and of what is there and not predicted.
        apply_softmax: Whether predictions are logits.
        reduction: ``"mean"`` or ``"sum"`` over the classes, or ``"none"``: one loss per class.
        ignore_background: Leaves out class 0, where there are several.
        axis: The axes that the sums run over: all but the first and the last where None.
        where: Which pixels count, bool: the shape of ``targets``, or without the last axis. What is left out has no
            part in any sum, and gradient zero.

    Returns:
        A loss for each example, float32 or wider. The differences ``1 - p`` come from the logits and nothing is
        subtracted from 1: losses near 0 keep their relative precision.

    Source: Milletari, Navab and Ahmadi 2016, arXiv:1606.04797, section 3 (with p instead of its square below the line);
    Salehi, Erdogmus and Gholipour 2017, arXiv:1706.05721, eq. 3.

    Raises:
        DtypeError: Predictions that are not floating, complex targets or weights, ``where`` that is not bool.
        ShapeError: Targets, ``class_weights`` or ``where`` of another shape.
        ArgumentRangeError, ArgumentTypeError: Numbers, ``reduction`` or ``axis`` out of range.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> predictions, targets = jnp.zeros((1, 4, 2)), jnp.eye(2)[jnp.array([[0, 0, 0, 1]])]
    >>> losses.dice_loss(predictions, targets, smooth=3.0, alpha=0.0, beta=1.0, reduction="none").tolist()
    [[0.25, 0.125]]
    """
    call = written("dice_loss", predictions, targets, where=where)
    x, t = _with_classes(predictions, targets)
    hits, wrong, missed = _regions(call, x, t, apply_softmax, axis, where)
    loss = _share(alpha * wrong + beta * missed, hits + smooth)
    if class_weights is not None:
        loss = loss * _class_weights(call, class_weights, loss)
    if ignore_background and loss.shape[-1] > 1:
        loss = loss[..., 1:]
    return {"mean": jnp.mean, "sum": jnp.sum}[reduction](loss, -1) if reduction != "none" else loss


@checked_call
def binary_dice_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    smooth: NonNegativeNumber = 1.0,
    apply_sigmoid: bool = True,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """:func:`dice_loss` of one class: predictions and targets ``[batch, ...]``, or with a last axis of length 1.

    Predictions are logits z with ``p = 1 / (1 + exp(-z))``, or p itself with ``apply_sigmoid=False`` (with which Optax
    raises). ``where`` has the shape of ``targets`` or of its first axes. Errors are those of :func:`dice_loss`.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.binary_dice_loss(jnp.array([[0.0, 0.0, 99.0]]), jnp.array([[0, 1, 1]]), smooth=0.0).round(4).tolist()
    [0.25]
    """
    call = written("binary_dice_loss", predictions, targets, smooth=smooth, where=where)
    x, t = jnp.asarray(predictions), jnp.asarray(targets)
    if x.ndim == t.ndim and x.shape[-1:] != (1,):
        x, t = x[..., None], t[..., None]
    x, t = _with_classes(x, t)
    hits, wrong, missed = _regions(call, x, t, apply_sigmoid, None, where)
    return _share(0.5 * (wrong + missed), hits + smooth)[..., 0]


@checked_call
def multiclass_generalized_dice_loss(
    predictions: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    smooth: NonNegativeNumber = 1.0,
    apply_softmax: bool = True,
    ignore_background: bool = False,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The generalized Dice loss, in which a class weighs by the inverse square of its size: small ones count as much::

        v_c = 1 / (sum of t_c over the batch)^2,   the largest of the others for a class that is not there;
        w = v / mean(v)
        loss = mean_batch(sum_c w_c (wrong_c + missed_c) / sum_c w_c (2 hits_c + wrong_c + missed_c + 2 smooth))

    Regions, arguments and errors are those of :func:`dice_loss`. As in the paper, weights stand above and below the
    line. Optax weights each class's own quotient instead, and
    gives 1e7 to a class that is not in the batch, so that all others are forgotten.

    Returns:
        A scalar, float32 or wider.

    Source: Sudre, Li, Vercauteren, Ourselin and Cardoso 2017, arXiv:1707.03237, section 2.1, GDL.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> predictions, targets = jnp.zeros((1, 4, 2)), jnp.eye(2)[jnp.array([[0, 0, 0, 1]])]
    >>> round(float(losses.multiclass_generalized_dice_loss(predictions, targets, smooth=0.0)), 4)
    0.625
    """
    call = written("multiclass_generalized_dice_loss", predictions, targets, smooth=smooth, where=where)
    x, t = jnp.asarray(predictions), jnp.asarray(targets)
    hits, wrong, missed = _regions(call, x, t, apply_softmax, None, where)
    first = 1 if ignore_background and x.shape[-1] > 1 else 0
    hits, wrong, missed = hits[..., first:], wrong[..., first:], missed[..., first:]
    size = jnp.sum(hits + missed, tuple(range(hits.ndim - 1)))
    smallest = jnp.min(jnp.where(size > 0, size, jnp.inf))
    # In units of the smallest class: its weight is 1, and no square overflows.
    w = jnp.where(size > 0, jnp.square(smallest / jnp.where(size > 0, size, 1)), 1)
    w = w / jnp.mean(w)
    return jnp.mean(_share(jnp.sum(0.5 * w * (wrong + missed), -1), jnp.sum(w * (hits + smooth), -1)))


def _with_classes(predictions: jax.typing.ArrayLike, targets: jax.typing.ArrayLike) -> tuple[jax.Array, jax.Array]:
    x, t = jnp.asarray(predictions), jnp.asarray(targets)
    if x.ndim == t.ndim - 1:
        x = x[..., None]
    elif t.ndim == x.ndim - 1:
        t = t[..., None]
    return x, t


def _regions(
    call: Call, predictions: jax.Array, targets: jax.Array, are_logits: bool, axis: Axes, where: object
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What was hit, wrong and missed, summed for each class."""
    if predictions.ndim == 0:
        raise ShapeError(
            call,
            expected="predictions with a last axis of classes",
            got=predictions.shape,
            cause="one number is no region",
            fix="write predictions[None]",
        )
    last = predictions.ndim - 1
    x, t, kept = pair(call, _NAMES, predictions, targets, where, (last,))
    p, absent = _probabilities(x) if are_logits else (x, 1 - x)
    p, absent = (p, absent) if kept is None else (jnp.where(kept, p, 0), jnp.where(kept, absent, 0))
    axes = tuple(range(1, last)) if axis is None else own_axes(call, axis, x.ndim)
    return jnp.sum(p * t, axes), jnp.sum(p * (1 - t), axes), jnp.sum(absent * t, axes)


def _probabilities(z: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Probabilities of the classes and of their absence, each with its own relative precision."""
    if z.shape[-1] == 1:
        return jax.nn.sigmoid(z), jax.nn.sigmoid(-z)
    z = below_peak(z, z.ndim - 1)
    log_p = z - log_sum_exp(z, z.ndim - 1)[..., None]
    return jnp.exp(log_p), -jnp.expm1(log_p)


def _share(part: jax.Array, rest: jax.Array) -> jax.Array:
    """``part / (part + rest)``, and 0 for 0 / 0."""
    total = part + rest
    return jnp.where(total == 0, 0, part / jnp.where(total == 0, 1, total))


def _class_weights(call: Call, weights: jax.typing.ArrayLike, loss: jax.Array) -> jax.Array:
    w = jnp.asarray(weights)
    if jnp.issubdtype(w.dtype, jnp.complexfloating) or w.dtype == jnp.bool_:
        raise DtypeError(
            call,
            expected="class_weights must be real numbers",
            got=w.dtype,
            cause="a loss is multiplied by them",
            fix="write class_weights.astype(float)",
        )
    if w.shape != loss.shape[-1:]:
        raise ShapeError(
            call,
            expected=f"class_weights of shape {loss.shape[-1:]}, one per class",
            got=w.shape,
            cause="ignored background needs a weight, too",
            fix="give one weight for each class of the last axis",
        )
    return w.astype(loss.dtype)

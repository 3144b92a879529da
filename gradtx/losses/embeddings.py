"""Losses of embeddings: what belongs together should be near, and the rest far."""

from typing import Annotated

import jax
import jax.numpy as jnp

from gradtx.errors import Interval, NonNegativeNumber, Number, PositiveNumber, ShapeError, checked_call
from gradtx.losses.operands import class_numbers, counted, floating, left_out, own_axes, pair, written
from gradtx.losses.similarity import direction
from gradtx.tree import widen

Degree = Annotated[float, Interval(1.0, schedule=False)]


@checked_call
def ntxent(
    embeddings: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    temperature: PositiveNumber = 0.07,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The normalized, temperature-scaled cross entropy of contrastive learning (NT-Xent), a mean over positive pairs::

        s_ij = cos(x_i, x_j) / temperature
        loss_ij = -log(exp(s_ij) / (exp(s_ij) + sum_k exp(s_ik)))     i != j of one label, k of the other labels

    With two examples of each label this is the paper's. With more, other positives are no rivals, as in Optax.

    Args:
        embeddings: The vectors x, floating, ``[batch, size]``; their length does not matter.
        labels: Which belong together, integers, ``[batch]``.
        temperature: Smaller ones punish near rivals more.
        where: Which examples count, bool, ``[batch]``. The others are in no pair and are no rival, and have gradient
            zero, whatever stands in them.

    Returns:
        The mean over all ordered pairs (i, j) of one label, a scalar in float32 or wider; 0 without a pair (Optax:
        NaN). A vector of any finite length has its direction (Optax shortens those below 3e-4); zeros have similarity 0
        with all, and gradient 0.

    Source: Chen, Kornblith, Norouzi and Hinton 2020, arXiv:2002.05709, eq. 1.

    Raises:
        DtypeError: Embeddings that are not floating, labels that are not integers, ``where`` that is not bool.
        ShapeError: Embeddings that are no matrix, labels or ``where`` of another shape.
        ArgumentRangeError, ArgumentTypeError: ``temperature`` is not above 0, or no number.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> x = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    >>> round(float(losses.ntxent(x, jnp.array([0, 0, 1, 1]), temperature=1.0)), 4)
    0.5514
    """
    call = written("ntxent", embeddings, labels, temperature=temperature, where=where)
    x = widen(floating(call, ("embeddings", "labels"), embeddings))
    if x.ndim != 2:
        raise ShapeError(
            call,
            expected="embeddings of shape [batch, size]",
            got=x.shape,
            cause="each example is compared with all others of the batch",
            fix="write embeddings.reshape(batch, -1)",
        )
    y = class_numbers(call, jnp.asarray(labels), {x.shape[:1]: "one per embedding"})
    kept = counted(call, where, x.shape[:1])
    x = x if kept is None else jnp.where(kept[:, None], x, 0)
    counts = jnp.ones(y.shape, bool) if kept is None else kept
    both = counts[:, None] & counts[None]
    same = y[:, None] == y[None]
    is_pair, is_rival = both & same & ~jnp.eye(y.size, dtype=bool), both & ~same
    units, _ = direction(x, 0.0, (1,))
    s = jnp.matmul(units, units.T, precision=jax.lax.Precision.HIGHEST) / temperature
    rivals = jax.nn.logsumexp(s, axis=1, where=is_rival, keepdims=True)  # -inf without one
    # 0 outside the pairs: an infinity there would have a NaN for its slope.
    behind = jnp.where(is_pair & (rivals > -jnp.inf), rivals - s, -jnp.inf)
    costs = jnp.where(behind > -jnp.inf, jax.nn.softplus(jnp.where(behind > -jnp.inf, behind, 0)), 0)
    return jnp.sum(costs) / jnp.maximum(jnp.sum(is_pair), 1)


@checked_call
def triplet_margin_loss(
    anchors: jax.typing.ArrayLike,
    positives: jax.typing.ArrayLike,
    negatives: jax.typing.ArrayLike,
    axis: int = -1,
    norm_degree: Degree = 2,
    margin: Number = 1.0,
    eps: NonNegativeNumber = 1e-6,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """How much a positive lacks to be nearer to its anchor than a negative by a margin, one number per triplet::

        d(a, b) = (sum_i |a_i - b_i|^q + eps)^(1/q)        q = norm_degree
        loss = max(0, d(anchor, positive) - d(anchor, negative) + margin)

    Args:
        anchors, positives, negatives: Vectors of one shape, floating, ``[..., size]``.
        axis: The axis of the vectors.
        norm_degree: The degree q of the distance, at least 1. Magnitudes are taken (Optax does not: with an odd degree
            its terms of both signs cancel).
        margin: The distance that is asked for.
        eps: Keeps the slope of the distance of equal points finite; with 0 it is 0 there.
        where: What counts: one bool per component (the shape of the anchors) or per triplet (without ``axis``).

    Returns:
        The loss of each triplet, the shape without ``axis``, float32 or wider. Differences are scaled before they are
        raised to a power: those of any finite size have a distance.

    Source: Balntas, Riba, Ponsa and Mikolajczyk 2016, BMVC, "Learning local feature descriptors with triplets and
    shallow convolutional neural networks", the ranking loss with a margin.

    Raises:
        DtypeError: Vectors that are not floating, ``where`` that is not bool.
        ShapeError: Vectors of several shapes, ``where`` of another one.
        ArgumentRangeError, ArgumentTypeError: ``axis`` names no axis, ``norm_degree`` is below 1, ``eps`` is negative.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> a, p, n = jnp.zeros(2), jnp.array([3.0, 4.0]), jnp.array([0.0, 5.5])
    >>> float(losses.triplet_margin_loss(a, p, n))
    0.5
    """
    call = written("triplet_margin_loss", anchors, positives, negatives, where=where)
    axes = own_axes(call, axis, jnp.ndim(anchors))
    floating(call, ("positives", "negatives"), positives)
    floating(call, ("negatives", "where"), negatives)
    a, p, kept = pair(call, ("anchors", "positives"), anchors, positives, where, axes)
    _, n, _ = pair(call, ("anchors", "negatives"), anchors, negatives, where, axes)
    near, far = (_distance(a - b, norm_degree, eps, axes) for b in (p, n))
    return left_out(jnp.maximum(near - far + margin, 0), kept, axes)


def _distance(r: jax.Array, degree: float, eps: float, axes: tuple[int, ...]) -> jax.Array:
    """``(sum |r|^q + eps)^(1/q)``, in units of the largest ``|r|`` or of ``eps^(1/q)``."""
    r = jnp.sign(r) * r  # with slope 0 at 0: that of jnp.abs is 1
    least = jnp.asarray(eps, r.dtype) ** (1 / degree)
    unit = jnp.maximum(jax.lax.stop_gradient(jnp.max(r, axes, keepdims=True, initial=0)), least)
    unit = jnp.where(unit == 0, 1, unit)
    half = jnp.where(unit > 1, 0.25, 1).astype(r.dtype)  # XLA multiplies by an inverse, and flushes that of 3e38
    total = jnp.sum(((r * half) / (unit * half)) ** degree, axes) + jnp.squeeze(least / unit, axes) ** degree
    return jnp.squeeze(unit, axes) * jnp.where(total == 0, 0, jnp.where(total == 0, 1, total) ** (1 / degree))

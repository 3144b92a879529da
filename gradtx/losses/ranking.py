"""Losses of a list of scored items."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import DtypeError
from gradtx.losses.averaging import mean
from gradtx.losses.classification import softmax_cross_entropy
from gradtx.losses.operands import counted, floating, misfit, pair, spread, written
from gradtx.tree import widen


def ranking_softmax_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
    weights: jax.typing.ArrayLike | None = None,
    reduce_fn: Callable[..., Any] | None = jnp.mean,
) -> jax.Array:
    """Cross entropy between the items' scores and their relevance, a list at a time::

        loss = -sum_i w_i y_i log p_i,    p = softmax(z) over the items that count

    Args:
        logits: The scores z, floating, ``[..., items]``.
        labels: The relevance y, real, the shape of ``logits``; it need not add up to 1.
        where: Which items count, bool: one per item (the shape of ``logits``) or per list. The others are as if they
            were not in the list. A list of which nothing counts has loss and gradient zero, and is no part of the mean.
        weights: The weights w of the items, real, the shape of ``logits`` (an axis of length 1 stands for all) or one
            per list; 1 where None.
        reduce_fn: ``jnp.mean``, the default, is the mean over the lists that count, and 0 without one. Another function
            is called as ``reduce_fn(loss, where=which_lists_count)``. None gives a loss per list.

    Returns:
        A scalar, or what ``reduce_fn`` makes of the losses; float32 or wider.

    Source: Cao, Qin, Liu, Tsai and Li 2007, ICML, "Learning to rank: from pairwise approach to listwise approach",
    section 4.3, with relevance in place of its probabilities.

    Raises:
        DtypeError: Logits that are not floating, complex labels, bool or complex weights, a ``where`` that is not bool.
        ShapeError: Labels, weights or ``where`` of another shape.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> logits, labels = jnp.array([[2.0, 1.0, 9.0], [0.0, 0.0, 0.0]]), jnp.array([[1, 0, 1], [0, 0, 1]])
    >>> where = jnp.array([[True, True, False], [True, True, True]])
    >>> round(float(losses.ranking_softmax_loss(logits, labels, where=where)), 4)
    0.7059
    """
    call = written("ranking_softmax_loss", logits, labels, where=where, weights=weights)
    z = widen(floating(call, ("logits", "labels"), logits))
    axes = (max(z.ndim - 1, 0),)
    kept = counted(call, where, z.shape, axes)
    y = pair(call, ("logits", "labels"), z, labels, where, axes)[1]
    if weights is not None:
        w = jnp.asarray(weights)
        if w.dtype == jnp.bool_ or jnp.issubdtype(w.dtype, jnp.complexfloating):
            raise DtypeError(
                call,
                expected="weights must be real numbers",
                got=w.dtype,
                cause="a bool chooses, and a weight multiplies",
                fix="write where=mask",
            )
        spread_out = spread(w.astype(z.dtype), z.shape, axes)
        if spread_out is None:
            raise misfit(
                call,
                "weights",
                w,
                {z.shape: "one per item", z.shape[:-1]: "one per list"},
                cause="the weights belong to another array",
                fix="pass the weights of these very items",
            )
        y = y * (spread_out if kept is None else jnp.where(kept, spread_out, 0))
    loss = softmax_cross_entropy(z, y, where=kept)
    lists = None if kept is None else jnp.any(kept, -1)
    if reduce_fn is None:
        return loss
    return mean(loss, where=lists) if reduce_fn is jnp.mean else reduce_fn(loss, where=lists)

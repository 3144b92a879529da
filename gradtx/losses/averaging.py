"""One number out of the losses of many examples."""

import jax
import jax.numpy as jnp

from gradtx.errors import Call, DtypeError
from gradtx.losses.operands import counted, floating, misfit, spread, written
from gradtx.tree import widen


def mean(
    loss: jax.typing.ArrayLike,
    *,
    weights: jax.typing.ArrayLike | None = None,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The weighted mean of losses l over the examples that count::

        mean = sum_i w_i l_i / sum_i w_i        0 where sum_i w_i = 0

    so a batch of which nothing counts has loss and gradient zero, and the mean of losses near the largest float is
    finite.

    Args:
        loss: The losses l, floating, any shape.
        weights: The weights w, real: the shape of ``loss`` (an axis of length 1 stands for all), or of its first axes
            (one per example). 1 where None.
        where: What counts, bool, of such a shape too. All where None.

    What is left out has no part in the mean or its gradient, also where its loss or weight is NaN. Where an argument
    *of the loss* may be NaN (a missing target), give that loss the same ``where``: its slope, times zero, is NaN::

        mean(squared_error(predictions, targets, where=is_known), where=is_known)

    Returns:
        A scalar, float32 or wider.

    Raises:
        DtypeError: A loss that is not floating, weights that are bool or complex, a ``where`` that is not bool.
        ShapeError: Weights or ``where`` of another shape. Nothing is broadcast from the right: ``(n,)`` beside
            ``(m, n)`` is an error.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> loss = jnp.array([1.0, 5.0, jnp.nan])
    >>> float(losses.mean(loss, weights=jnp.array([3, 1, 1]), where=jnp.array([True, True, False])))
    2.0
    """
    call = written("mean", loss, weights=weights, where=where)
    x = widen(floating(call, ("loss", "weights"), loss))
    w = jnp.ones_like(x) if weights is None else _per_example(call, jnp.asarray(weights), x)
    kept = counted(call, where, x.shape)
    if kept is not None:
        x, w = jnp.where(kept, x, 0), jnp.where(kept, w, 0)
    total = jnp.sum(w)
    # A share of at most 1 times a loss: the sum of the losses would overflow.
    return jnp.sum(jnp.where(total == 0, 0, w / jnp.where(total == 0, 1, total)) * x)


def _per_example(call: Call, weights: jax.Array, x: jax.Array) -> jax.Array:
    """The weights with the shape of the losses."""
    if weights.dtype == jnp.bool_ or jnp.issubdtype(weights.dtype, jnp.complexfloating):
        raise DtypeError(
            call,
            expected="weights must be real numbers",
            got=weights.dtype,
            cause="a bool chooses, and a weight multiplies",
            fix="write where=mask",
        )
    spread_out = spread(weights.astype(x.dtype), x.shape)
    if spread_out is None:
        raise misfit(
            call,
            "weights",
            weights,
            {x.shape[:1]: "one weight per example", x.shape: "one per loss"},
            cause="the weights belong to another array",
            fix="pass the weights of these very examples",
        )
    return spread_out

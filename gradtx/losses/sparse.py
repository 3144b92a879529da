"""Losses whose predictions may be exactly 0 and 1: half the squared distance to a simplex in place of an entropy."""

import jax
import jax.numpy as jnp

from gradtx.losses.operands import left_out, pair, scores_and_classes, written
from gradtx.projections import projection_simplex


def sparsemax_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The loss of two classes whose prediction p is a ramp, one number per logit::

        p = min(max((z + 1) / 2, 0), 1)        loss = (p - y) (z + 1 - p - y)

    so ``(p - y)^2`` on the ramp, ``|z|`` beyond it on the wrong side, 0 on the right one; its gradient is ``p - y``.

    Args:
        logits: The scores z, floating, any shape.
        labels: 0 or 1, or a probability y between (of which Optax takes any but 0 for 1); real (also bool), the shape
            of ``logits``.
        where: Which logits count, bool, of that shape or of its first axes (one per example). What is left out has
            loss and gradient zero, whatever stands in it.

    Returns:
        The loss of each logit, the shape of ``logits``, float32 or wider. :func:`mean` averages it.

    Source: Blondel, Martins and Niculae 2020, arXiv:1901.02324, section 4.4, table 1.

    Raises:
        DtypeError: Logits that are not floating, complex labels, ``where`` that is not bool.
        ShapeError: Labels or ``where`` of another shape: ``(n,)`` beside ``(n, 1)`` is an error.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.sparsemax_loss(jnp.array([0.0, 2.0, 2.0]), jnp.array([1, 1, 0])).tolist()
    [0.25, 0.0, 2.0]
    """
    call = written("sparsemax_loss", logits, labels, where=where)
    z, y, kept = pair(call, ("logits", "labels"), logits, labels, where)
    missed = jnp.clip(0.5 * z + (0.5 - y), -y, 1 - y)  # p - y without its cancellation
    return left_out(missed * missed + missed * (z - jnp.clip(z, -1, 1)), kept)


def multiclass_sparsemax_loss(
    scores: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The loss of which p, the projection of the scores onto distributions, has the smallest, 0 for ``p = e_y``::

        p = argmin_q |q - s|^2 / 2 over distributions q, e_y = one-hot label
        loss = |p - e_y|^2 / 2 + <p - e_y, s - p>;  its gradient is p - e_y

    Args:
        scores: The scores s, floating, ``[..., classes]``.
        labels: Class numbers y, integers, the shape of ``scores`` without its last axis.
        where: What counts: one bool per class (the shape of ``scores``) or per example (without the last axis). A class
            left out has probability zero. An example left out has loss and gradient zero, whatever stands in it.

    Returns:
        The loss of each example, float32 or wider. :func:`mean` averages it. It is computed from two terms that are not
        negative, ``|p - e_y|^2 / 2 + max(0, tau - s_y)`` with the threshold tau of the projection. A label outside
        ``[0, classes)`` gives NaN for its example.

    Source: Martins and Astudillo 2016, arXiv:1602.02068, eq. 16.

    Raises:
        DtypeError: Scores that are not floating, labels that are not integers, ``where`` that is not bool.
        ShapeError: Labels or ``where`` of another shape, or no class at all.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.multiclass_sparsemax_loss(jnp.array([[0.0, 0.0], [0.0, 3.0]]), jnp.array([0, 0])).tolist()
    [0.25, 3.0]
    """
    call = written("multiclass_sparsemax_loss", scores, labels, where=where)
    s, is_label, is_class, kept = scores_and_classes(call, scores, labels, where)
    if kept is not None:  # of an example that does not count, all scores are 0: those of -inf have no projection
        s = jnp.where(jnp.any(kept, -1, keepdims=True), s, 0)
    loss = jnp.where(is_class, _loss(s, is_label.astype(s.dtype)), jnp.nan)
    return left_out(loss, kept, (s.ndim - 1,))


@jax.custom_jvp
def _loss(s: jax.Array, e: jax.Array) -> jax.Array:
    p = _projected(s)
    # tau - s_y for a label that has no part in p: s_m - p_m for the class m of the largest score, less s_y.
    top = jnp.max(s, -1, keepdims=True)
    behind = jnp.sum(jnp.where(e == 1, top - s, 0), -1) - jnp.max(p, -1)
    return 0.5 * jnp.sum(jnp.square(p - e), -1) + jnp.maximum(behind, 0) * (jnp.sum(p * e, -1) == 0)


@_loss.defjvp
def _(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, object]) -> tuple[jax.Array, jax.Array]:
    (s, e), (ds, _) = primals, tangents
    return _loss(s, e), jnp.sum((_projected(s) - e) * ds, -1)


def _projected(s: jax.Array) -> jax.Array:
    rows = s.reshape(-1, s.shape[-1])
    return jax.vmap(projection_simplex)(rows).reshape(s.shape)

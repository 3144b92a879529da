"""Losses for classes that are present or absent, each by itself."""

import jax
import jax.numpy as jnp

from gradtx.errors import Fraction, NonNegativeNumber, checked_call
from gradtx.losses.operands import left_out, pair, times, written

_NAMES = ("logits", "labels")


def sigmoid_binary_cross_entropy(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Cross entropy between ``sigmoid(logits)`` and the labels, one number per logit::

        p = 1 / (1 + exp(-z))        loss = -y log p - (1 - y) log(1 - p)

    Args:
        logits: Unnormalized log odds z, floating, any shape.
        labels: 0 or 1, or a probability y between; real (also bool), the shape of ``logits``.
        where: Which logits count, bool, of that shape or of its first axes (one per example). What is left out has
            loss and gradient zero, whatever stands in it.

    Returns:
        The loss of each logit in nats, the shape of ``logits``, float32 or wider. :func:`mean` averages it.

    No two terms cancel, ``-log p = max(-z, 0) + log1p(exp(-|z|))``: loss and gradient keep their relative precision
    where p is within 1e-30 of 0 or of 1, and are finite for every finite logit. An infinite logit costs nothing where
    the label agrees and is infinite where it does not, with a gradient of 0 and of 1.

    Raises:
        DtypeError: Logits that are not floating, complex labels, ``where`` that is not bool.
        ShapeError: Labels or ``where`` of another shape: ``(n,)`` beside ``(n, 1)`` is an error.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.sigmoid_binary_cross_entropy(jnp.array([0.0, 200.0, 200.0]), jnp.array([1, 1, 0])).tolist()
    [0.6931471824645996, 0.0, 200.0]
    """
    call = written("sigmoid_binary_cross_entropy", logits, labels, where=where)
    z, y, kept = pair(call, _NAMES, logits, labels, where)
    return left_out(_cross_entropy(z, y), kept)


@checked_call
def sigmoid_focal_loss(
    logits: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    *,
    alpha: Fraction | None = None,
    gamma: NonNegativeNumber = 2.0,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Cross entropy of which easy examples, those with a probability near their label, weigh less::

        p = 1 / (1 + exp(-z))        q = y (1 - p) + (1 - y) p        (1 - p_t in the paper: what is missing)
        loss = a q^gamma (-y log p - (1 - y) log(1 - p))              a = alpha y + (1 - alpha) (1 - y)

    Args:
        logits, labels, where: As of :func:`sigmoid_binary_cross_entropy`, and so are result and errors.
        alpha: The weight of label 1 in [0, 1], beside ``1 - alpha`` of label 0; both weigh 1 where None. (The paper's
            detector has 0.25.)
        gamma: How fast easy examples lose weight; 0 leaves plain cross entropy.

    ``log q`` is computed and not q, so that the gradient is finite for every finite logit also with ``gamma < 1``.

    Source: Lin, Goyal, Girshick, He and Dollar 2017, arXiv:1708.02002, eq. 5.

    Raises:
        ArgumentTypeError, ArgumentRangeError: ``alpha`` or ``gamma`` out of range.

    >>> import jax.numpy as jnp
    >>> from gradtx import losses
    >>> losses.sigmoid_focal_loss(jnp.array([0.0, -200.0]), jnp.array([1, 1])).tolist()
    [0.1732867956161499, 200.0]
    """
    call = written("sigmoid_focal_loss", logits, labels, alpha=alpha, gamma=gamma, where=where)
    z, y, kept = pair(call, _NAMES, logits, labels, where)
    # Beyond 1000 the slope of log q is zero, or the cross entropy is: their product at 3e38 would be 0 * inf.
    near = jnp.where(jnp.abs(z) > 1000, 1000 * jnp.sign(z), z)
    log_q = jax.nn.logsumexp(jnp.stack([-_softplus(near), -_softplus(-near)]), axis=0, b=jnp.stack([y, 1 - y]))
    loss = jnp.exp(gamma * log_q) * _cross_entropy(z, y)
    if alpha is not None:
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return left_out(loss, kept)


def _cross_entropy(z: jax.Array, y: jax.Array) -> jax.Array:
    return times(y, _softplus(-z)) + times(1 - y, _softplus(z))


@jax.custom_jvp
def _softplus(z: jax.Array) -> jax.Array:
    """``log(1 + exp(z))``, the cost of label 0."""
    return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@_softplus.defjvp
def _(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    return _softplus(z), jax.nn.sigmoid(z) * dz

"""Steps of one size in every parameter: the sign of the gradient, or of an average of it."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import add_decayed_weights, ema, scale_by_learning_rate, scale_by_lion, scale_by_sign


@transformation
def sign_sgd(learning_rate: errors.NonNegative) -> GradientTransformation:
    """``u = -learning_rate * sign(g)``. State: nothing.

    Source: Bernstein et al. 2018, arXiv:1802.04434, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.sign_sgd(0.5)
    >>> tx.update(jnp.array([1e-9, -7.0]), tx.init(jnp.zeros(2)))[0].tolist()
    [-0.5, 0.5]
    """
    return chain(scale_by_sign(), scale_by_learning_rate(learning_rate))


@transformation
def signum(learning_rate: errors.NonNegative, beta: errors.Decay = 0.9) -> GradientTransformation:
    """``u = -learning_rate * sign(m)``, ``m <- beta * m + (1 - beta) * g``. State: one float32 number per parameter.

    Source: Bernstein et al. 2018, arXiv:1802.04434, algorithm 2.
    """
    return chain(ema(beta), scale_by_sign(), scale_by_learning_rate(learning_rate))


@transformation
def tiger(
    learning_rate: errors.NonNegative,
    beta: errors.Decay = 0.965,
    *,
    weight_decay: errors.Strength = 0.01,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * (sign(m) + weight_decay * p)``, ``m <- beta * m + (1 - beta) * g``: signum with decay.

    :func:`lion` with one decay for both. ``weight_decay`` may be one for each layer, as in
    :func:`gradtx.add_decayed_weights`; ``mask`` selects the leaves that decay. State: one float32 number per parameter.

    Source: Su 2023, Tiger: a tight-fisted optimizer (kexue.fm/archives/9512), equation 1.
    """
    return chain(
        ema(beta), scale_by_sign(), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
    )


@transformation
def lion(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.99,
    *,
    weight_decay: errors.Strength = 1e-3,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * (sign(b1 * m + (1 - b1) * g) + weight_decay * p)``, then ``m <- b2 * m + (1 - b2) * g``.

    Every element moves by the learning rate, so it wants one three to ten times smaller than AdamW's, and a decay as
    much larger (section 5). ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`;
    ``mask`` selects the leaves that decay, all without one. State: one float32 number per parameter.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.
    """
    return chain(scale_by_lion(b1, b2), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))

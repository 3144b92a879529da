"""Adam and its nearest kin: corrected first moment over the root of the corrected second."""

from gradtx import errors
from gradtx.combinators import chain, ratio
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_decayed_weights,
    bias_correction,
    ema,
    mean_square,
    running_max,
    scale_by_adam,
    scale_by_learning_rate,
    square_root,
)


@transformation
def adam(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
) -> GradientTransformation:
    """``u = -learning_rate * m^ / (sqrt(v^ + eps_root) + eps)``, ``m^ = m / (1 - b1^t)``, ``v^ = v / (1 - b2^t)``.

    ``m`` and ``v`` are the moving averages of ``g`` and ``g^2`` with decays ``b1`` and ``b2``. State: two float32
    numbers per parameter.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.adam(0.5)
    >>> tx.update(jnp.array([3.0, -1e-3]), tx.init(jnp.zeros(2)))[0].round(4).tolist()
    [-0.5, 0.5]
    """
    return chain(scale_by_adam(b1, b2, eps, eps_root), scale_by_learning_rate(learning_rate))


@transformation
def adamw(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    *,
    weight_decay: errors.NonNegative = 1e-4,
    mask: Where | None = None,
) -> GradientTransformation:
    """Adam with decoupled decay, ``u = -learning_rate * (m^ / (sqrt(v^ + eps_root) + eps) + weight_decay * p)``.

    ``mask`` selects the leaves that decay, all without one. State: two float32 numbers per parameter.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def amsgrad(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
) -> GradientTransformation:
    """Adam whose second moment never falls: ``v_max <- max(v_max, v)`` over the raw ``v``, then corrected.

    The maximum is taken before the correction, as in the paper and in PyTorch; Optax takes it after, which remembers
    the overestimates of the first steps. State: three float32 numbers per parameter.

    Source: Reddi, Kale and Kumar 2018, arXiv:1904.09237, algorithm 2.
    """
    return chain(
        ratio(
            chain(ema(b1), bias_correction(b1)),
            chain(mean_square(b2), running_max(), bias_correction(b2), square_root(eps=eps_root)),
            eps=eps,
        ),
        scale_by_learning_rate(learning_rate),
    )

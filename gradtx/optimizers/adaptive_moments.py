"""Adam and its nearest kin: the first moment over the root of the second, or over the largest gradient."""

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
    scale_by_adamax,
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
    *,
    nesterov: bool = False,
    bias_correction: bool = True,
) -> GradientTransformation:
    """``u = -learning_rate * m^ / (sqrt(v^ + eps_root) + eps)``, ``m^ = m / (1 - b1^t)``, ``v^ = v / (1 - b2^t)``.

    ``m`` and ``v`` are the moving averages of ``g`` and ``g^2`` with decays ``b1`` and ``b2``. ``nesterov`` makes it
    :func:`nadam`. Without ``bias_correction``, ``m^ = m`` and ``v^ = v``: momentum with RMSProp, whose first steps are
    ``(1 - b1) / sqrt(1 - b2)`` times as long. State: two float32 numbers per parameter.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.adam(0.5)
    >>> tx.update(jnp.array([3.0, -1e-3]), tx.init(jnp.zeros(2)))[0].round(4).tolist()
    [-0.5, 0.5]
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov, bias_correction=bias_correction),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamw(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    *,
    weight_decay: errors.Strength = 1e-4,
    mask: Where | None = None,
    nesterov: bool = False,
    bias_correction: bool = True,
) -> GradientTransformation:
    """Adam with decoupled decay, ``u = -learning_rate * (m^ / (sqrt(v^ + eps_root) + eps) + weight_decay * p)``.

    ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`; ``mask`` selects the leaves
    that decay, all without one; ``nesterov`` and ``bias_correction`` as in :func:`adam`. State: two float32 numbers
    per parameter.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov, bias_correction=bias_correction),
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


@transformation
def nadam(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
) -> GradientTransformation:
    """Adam that looks one step ahead, ``m^ = b1 * m / (1 - b1^(t+1)) + (1 - b1) * g / (1 - b1^t)``.

    Otherwise ``u = -learning_rate * m^ / (sqrt(v^ + eps_root) + eps)`` as in :func:`adam`. State: two float32 numbers
    per parameter.

    Source: Dozat 2016, Incorporating Nesterov momentum into Adam (ICLR workshop), algorithm 2.
    """
    return chain(scale_by_adam(b1, b2, eps, eps_root, nesterov=True), scale_by_learning_rate(learning_rate))


@transformation
def nadamw(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    *,
    weight_decay: errors.Strength = 1e-4,
    mask: Where | None = None,
) -> GradientTransformation:
    """:func:`nadam` with decoupled decay: ``weight_decay * p`` is added before the learning rate.

    ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`; ``mask`` selects the leaves
    that decay, all without one. State: two float32 numbers per parameter.

    Source: Dozat 2016, algorithm 2; Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root, nesterov=True),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def adamax(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
) -> GradientTransformation:
    """``u = -learning_rate * m / ((1 - b1^t) * v)``, ``v <- max(b2 * v, |g| + eps)``.

    ``v`` is the largest gradient, slowly forgotten, in place of Adam's root mean square; it needs no correction.
    ``m`` is the moving average of ``g`` with decay ``b1``. The paper has no ``eps``; it stands where Optax and PyTorch
    have it. State: two float32 numbers per parameter.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 2.
    """
    return chain(scale_by_adamax(b1, b2, eps), scale_by_learning_rate(learning_rate))


@transformation
def adamaxw(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    weight_decay: errors.Strength = 1e-4,
    mask: Where | None = None,
) -> GradientTransformation:
    """:func:`adamax` with decoupled decay: ``weight_decay * p`` is added before the learning rate.

    ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`; ``mask`` selects the leaves
    that decay, all without one. State: two float32 numbers per parameter.

    Source: Kingma and Ba 2015, algorithm 2; Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    return chain(
        scale_by_adamax(b1, b2, eps), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate)
    )

"""Gradients divided by the root of their sum or mean of squares, or of their variance."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    scale_by_learning_rate,
    scale_by_momentum,
    scale_by_rms,
    scale_by_rss,
    scale_by_stddev,
)


@transformation
def adagrad(
    learning_rate: errors.NonNegative,
    initial_accumulator_value: errors.NonNegativeNumber = 0.1,
    eps: errors.Epsilon = 1e-7,
    *,
    eps_in_sqrt: bool = True,
) -> GradientTransformation:
    """``u = -learning_rate * g / sqrt(s + eps)``, ``s <- s + g^2`` from ``initial_accumulator_value``.

    ``eps_in_sqrt=False`` adds ``eps`` to the root instead, as PyTorch does. For the root of the mean instead of the sum
    of all squares, write ``rmsprop(learning_rate, decay=None)``. State: one float32 number per parameter.

    Source: Duchi, Hazan and Singer 2011, Journal of Machine Learning Research 12, section 1.1.
    """
    return chain(
        scale_by_rss(initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt), scale_by_learning_rate(learning_rate)
    )


@transformation
def rmsprop(
    learning_rate: errors.NonNegative,
    decay: errors.Decay | None = 0.9,
    eps: errors.Epsilon = 1e-8,
    initial_scale: errors.NonNegativeNumber = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: errors.Decay | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """``u = -learning_rate * g / sqrt(v + eps)``, ``v <- decay * v + (1 - decay) * g^2`` from ``initial_scale``.

    ``decay=None`` is the root mean square over all steps: ``v`` is the plain mean of ``g^2``, and with a learning rate
    that falls like ``1 / sqrt(t)`` the method is AdaGrad. ``centered`` subtracts the squared mean gradient from ``v``
    (without its cancellation). ``eps_in_sqrt=False`` adds ``eps`` to the root instead, as PyTorch does; ``momentum``
    accumulates the scaled and multiplied steps; ``bias_correction`` divides the averages by ``1 - decay^t``. State: one
    float32 number per parameter, one more with ``centered``, one more with ``momentum``.

    Source: Tieleman and Hinton 2012, lecture 6.5; centered and with momentum, Graves 2013, arXiv:1308.0850, equations
    38 to 41.
    """
    scaled = scale_by_stddev if centered else scale_by_rms
    accumulate = [] if momentum is None else [scale_by_momentum(momentum, nesterov)]
    return chain(
        scaled(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        *accumulate,
    )

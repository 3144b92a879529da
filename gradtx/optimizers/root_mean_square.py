"""Gradients divided by the root of their sum or mean of squares."""

from gradtx import errors
from gradtx.combinators import chain, ratio
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    identity,
    scale_by_learning_rate,
    scale_by_momentum,
    scale_by_rms,
    square_root,
    sum_of_squares,
)


@transformation
def adagrad(
    learning_rate: errors.NonNegative,
    initial_accumulator_value: errors.NonNegativeNumber = 0.1,
    eps: errors.Epsilon = 1e-7,
) -> GradientTransformation:
    """``u = -learning_rate * g / sqrt(s + eps)``, ``s <- s + g^2`` from ``initial_accumulator_value``.

    State: one float32 number per parameter.

    Source: Duchi, Hazan and Singer 2011, Journal of Machine Learning Research 12, section 1.1.
    """
    return chain(
        ratio(
            identity(),
            chain(sum_of_squares(initial_value=initial_accumulator_value), square_root(eps=eps)),
            eps=0.0,
        ),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def rmsprop(
    learning_rate: errors.NonNegative,
    decay: errors.Decay = 0.9,
    eps: errors.Epsilon = 1e-8,
    initial_scale: errors.NonNegativeNumber = 0.0,
    eps_in_sqrt: bool = True,
    *,
    momentum: errors.Decay | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> GradientTransformation:
    """``u = -learning_rate * g / sqrt(v + eps)``, ``v <- decay * v + (1 - decay) * g^2`` from ``initial_scale``.

    ``eps_in_sqrt=False`` adds ``eps`` to the root instead; ``momentum`` accumulates the scaled and multiplied steps;
    ``bias_correction`` divides ``v`` by ``1 - decay^t``. State: one or two float32 numbers per parameter.

    Source: Tieleman and Hinton 2012, lecture 6.5; with momentum as in Graves 2013, arXiv:1308.0850, section 4.2.
    """
    accumulate = [] if momentum is None else [scale_by_momentum(momentum, nesterov)]
    return chain(
        scale_by_rms(decay, eps, initial_scale, eps_in_sqrt, bias_correction),
        scale_by_learning_rate(learning_rate),
        *accumulate,
    )

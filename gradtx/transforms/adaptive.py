"""Scaling by running statistics, as ratios of moments."""

from gradtx import errors
from gradtx.combinators import chain, ratio
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import moments
from gradtx.transforms.scaling import identity


@transformation
def scale_by_rms(
    decay: errors.Decay = 0.9,
    eps: errors.Epsilon = 1e-8,
    initial_scale: errors.NonNegativeNumber = 0.0,
    eps_in_sqrt: bool = True,
    bias_correction: bool = False,
) -> GradientTransformation:
    """``u = g / sqrt(v + eps)`` with ``v <- decay * v + (1 - decay) * g^2`` from ``initial_scale``.

    ``eps_in_sqrt=False`` gives ``g / (sqrt(v) + eps)``; ``bias_correction`` divides ``v`` by ``1 - decay^t``.

    Source: Tieleman and Hinton 2012, lecture 6.5.
    """
    correction = [moments.bias_correction(decay)] if bias_correction else []
    return ratio(
        identity(),
        chain(
            moments.mean_square(decay, initial_value=initial_scale),
            *correction,
            moments.square_root(eps=eps if eps_in_sqrt else 0.0),
        ),
        eps=0.0 if eps_in_sqrt else eps,
    )


@transformation
def scale_by_adam(
    b1: errors.Decay = 0.9, b2: errors.Decay = 0.999, eps: errors.Epsilon = 1e-8, eps_root: errors.Epsilon = 0.0
) -> GradientTransformation:
    """``u = m^ / (sqrt(v^ + eps_root) + eps)``, ``m^`` and ``v^`` the corrected moving averages of ``g`` and ``g^2``.

    Source: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    return ratio(
        chain(moments.ema(b1), moments.bias_correction(b1)),
        chain(moments.mean_square(b2), moments.bias_correction(b2), moments.square_root(eps=eps_root)),
        eps=eps,
    )

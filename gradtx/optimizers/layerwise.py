"""Steps as long as the layer is large: the trust ratio of parameters and updates, for large batches."""

from gradtx import errors
from gradtx.combinators import chain, masked
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_decayed_weights,
    scale_by_adam,
    scale_by_learning_rate,
    scale_by_momentum,
    scale_by_trust_ratio,
    step_and_shrink,
)


@transformation
def lars(
    learning_rate: errors.NonNegative,
    weight_decay: errors.Strength = 0.0,
    weight_decay_mask: Where | None = None,
    trust_coefficient: errors.NonNegative = 0.001,
    eps: errors.Epsilon = 0.0,
    trust_ratio_mask: Where | None = None,
    momentum: errors.Decay = 0.9,
    nesterov: bool = False,
) -> GradientTransformation:
    """``u = m <- momentum * m - learning_rate * trust_coefficient * ||p|| / (||r|| + eps) * r``, ``r = g + decay * p``.

    The norms are those of each leaf, ``decay`` is ``weight_decay``. The paper's denominator is
    ``||g|| + decay * ||p||``, which is never smaller than this one (Optax's too) and the same without decay.
    ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`. The masks select the leaves
    that decay and those whose step is scaled, all without one; biases and the parameters of normalizations are
    commonly left out of both. State: one float32 number per parameter.

    Source: You, Gitman and Ginsburg 2017, arXiv:1708.03888, equation 6 and algorithm 1.
    """
    ratio = scale_by_trust_ratio(trust_coefficient=trust_coefficient, eps=eps)
    return chain(
        add_decayed_weights(weight_decay, weight_decay_mask),
        ratio if trust_ratio_mask is None else masked(ratio, trust_ratio_mask),
        scale_by_learning_rate(learning_rate),
        scale_by_momentum(momentum, nesterov),
    )


@transformation
def lamb(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-6,
    eps_root: errors.Epsilon = 0.0,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * ||p|| / ||r|| * r`` for each leaf, with the step ``r`` of AdamW.

    ``r = m^ / (sqrt(v^ + eps_root) + eps) + weight_decay * p`` with Adam's corrected moments. The ratio is 1 where a
    norm is 0. ``weight_decay`` may be one for each layer, as in :func:`gradtx.add_decayed_weights`; ``mask`` selects
    the leaves that decay, all without one. State: two float32 numbers per parameter.

    Source: You et al. 2020, arXiv:1904.00962, algorithm 2, with the identity for its function phi.
    """
    return chain(
        scale_by_adam(b1, b2, eps, eps_root),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def fromage(learning_rate: errors.NonNegative, min_norm: errors.NonNegative = 1e-6) -> GradientTransformation:
    """``u = (p - learning_rate * ||p|| / ||g|| * g) / sqrt(1 + learning_rate^2) - p`` for each leaf.

    Steps of a share of the parameters, which do not make them grow. Norms below ``min_norm`` count as ``min_norm``;
    where one is 0 the ratio is 1. State: nothing.

    Source: Bernstein et al. 2020, arXiv:2002.03432, algorithm 1.
    """
    return chain(scale_by_trust_ratio(min_norm), step_and_shrink(learning_rate))

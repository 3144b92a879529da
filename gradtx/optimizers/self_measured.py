"""Step sizes that the steps themselves set: in the units of the parameters, by signs, and from the start."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_decayed_weights,
    scale,
    scale_by_adadelta,
    scale_by_learning_rate,
    scale_by_madgrad,
    scale_by_rprop,
)


@transformation
def adadelta(
    learning_rate: errors.NonNegative = 1.0,
    rho: errors.Decay = 0.9,
    eps: errors.Epsilon = 1e-6,
    weight_decay: errors.Strength = 0.0,
    weight_decay_mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * sqrt(d + eps) / sqrt(v + eps) * g``, ``v`` and ``d`` averages of ``g^2`` and ``u^2``.

    Both with decay ``rho``; ``d`` is that of the steps so far, before the learning rate, which the paper has not (1).
    ``weight_decay * p`` is added to ``g``, coupled; it may be one for each layer, ``weight_decay_mask`` selects the
    leaves that decay. State: two float32 numbers per parameter.

    Source: Zeiler 2012, arXiv:1212.5701, algorithm 1.
    """
    return chain(
        *_decay(weight_decay, weight_decay_mask), scale_by_adadelta(rho, eps), scale_by_learning_rate(learning_rate)
    )


@transformation
def rprop(
    learning_rate: errors.NonNegative,
    eta_minus: errors.Positive = 0.5,
    eta_plus: errors.Positive = 1.2,
    min_step_size: errors.NonNegative = 1e-6,
    max_step_size: errors.NonNegative = 50.0,
) -> GradientTransformation:
    """``u = -d * sign(g)``, with a step size ``d`` per parameter from ``learning_rate``, for whole batches.

    ``d`` grows by ``eta_plus`` while the sign stays and shrinks by ``eta_minus`` where it changes, where there is no
    step, see :func:`gradtx.scale_by_rprop`. The first update is a step, as in PyTorch; Optax begins with zero. State:
    two float32 numbers per parameter.

    Source: Riedmiller and Braun 1993, IEEE International Conference on Neural Networks, equations 4 to 7; Igel and
    Huesken 2000, Improving the Rprop learning algorithm (iRprop-).
    """
    return chain(scale_by_rprop(learning_rate, eta_minus, eta_plus, min_step_size, max_step_size), scale(-1.0))


@transformation
def madgrad(
    learning_rate: errors.NonNegative,
    momentum: errors.Decay = 0.9,
    weight_decay: errors.Strength = 0.0,
    eps: errors.Epsilon = 1e-6,
) -> GradientTransformation:
    """``u = (1 - momentum) * (z - p)``, ``z = p_0 - s / (cbrt(v) + eps)``: dual averaging with adaptive rates.

    ``s`` and ``v`` are the sums of ``g`` and ``g^2``, weighted by ``learning_rate * sqrt(t)``, see
    :func:`gradtx.scale_by_madgrad`. ``weight_decay * p`` is added to ``g``, coupled; it may be one for each layer.
    State: three float32 numbers per parameter.

    Source: Defazio and Jelassi 2022, arXiv:2101.11075, algorithm 1.
    """
    return chain(*_decay(weight_decay, None), scale_by_madgrad(learning_rate, momentum, eps))


def _decay(weight_decay: errors.Strength, mask: Where | None) -> list[GradientTransformation]:
    """No part that needs the parameters where there is no decay."""
    none = isinstance(weight_decay, float | int) and weight_decay == 0
    return [] if none else [add_decayed_weights(weight_decay, mask)]

"""Optimizers whose average is the result, so that the learning rate needs no schedule but a warm-up."""

from gradtx import errors
from gradtx.combinators import chain, schedule_free
from gradtx.combinators.averaging_ahead import Between
from gradtx.core import GradientTransformation, transformation
from gradtx.schedules import warmup_constant_schedule
from gradtx.transforms import add_decayed_weights, scale_by_learning_rate, scale_by_rms


@transformation
def schedule_free_sgd(
    learning_rate: errors.NonNegative = 1.0,
    warmup_steps: errors.Count | None = None,
    b1: Between = 0.9,
    weight_decay: errors.NonNegative = 0.0,
    weight_lr_power: errors.NonNegative = 2.0,
) -> GradientTransformation:
    """:func:`gradtx.schedule_free` around ``u = -learning_rate * (g + weight_decay * y)``.

    ``learning_rate`` is reached after ``warmup_steps`` from 0 and stays. (There Optax weighs a step by the rate of the
    next one.) Evaluate with ``averaged_params(state, params)``. State: one float32 number per parameter.

    Source: Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5 and 23.
    """
    rate = _warmed(learning_rate, warmup_steps)
    return schedule_free(chain(*_decay(weight_decay), scale_by_learning_rate(rate)), rate, b1, weight_lr_power)


@transformation
def schedule_free_adamw(
    learning_rate: errors.NonNegative = 0.0025,
    warmup_steps: errors.Count | None = None,
    b1: Between = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    weight_decay: errors.NonNegative = 0.0,
    weight_lr_power: errors.NonNegative = 2.0,
) -> GradientTransformation:
    """:func:`gradtx.schedule_free` around ``u = -learning_rate * (g / (sqrt(v^) + eps) + weight_decay * y)``.

    ``v^`` is the corrected moving average of ``g^2`` with decay ``b2``; ``b1`` is in place of a momentum.
    ``learning_rate`` is reached after ``warmup_steps`` from 0 and stays. (There Optax weighs a step by the rate of the
    next one. The paper multiplies the rate by ``sqrt(1 - b2^t)`` instead of correcting ``v``, with that also early
    decay and the weights of the average; here they are not smaller, as in Optax.) Evaluate with
    ``averaged_params(state, params)``. State: two float32 numbers per parameter.

    Source: Defazio et al. 2024, arXiv:2405.15682, algorithm 1, with Adam's correction of ``v``.
    """
    rate = _warmed(learning_rate, warmup_steps)
    scaled = scale_by_rms(b2, eps, eps_in_sqrt=False, bias_correction=True)
    return schedule_free(chain(scaled, *_decay(weight_decay), scale_by_learning_rate(rate)), rate, b1, weight_lr_power)


def _decay(weight_decay: errors.NonNegative) -> list[GradientTransformation]:
    """No part that needs the parameters where there is no decay."""
    none = isinstance(weight_decay, float | int) and weight_decay == 0
    return [] if none else [add_decayed_weights(weight_decay)]


def _warmed(learning_rate: errors.NonNegative, warmup_steps: int | None) -> errors.NonNegative:
    return learning_rate if warmup_steps is None else warmup_constant_schedule(0.0, learning_rate, warmup_steps)

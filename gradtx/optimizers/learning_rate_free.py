"""Optimizers that find their learning rate, or their distance to the solution, in the run."""

from typing import Literal

from gradtx import errors
from gradtx.combinators import chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_decayed_weights,
    identity,
    scale_by_cocob,
    scale_by_dadapt_adam,
    scale_by_dog,
    scale_by_dowg,
    scale_by_learning_rate,
    scale_by_momo,
    scale_by_polyak,
    scale_by_prodigy,
)
from gradtx.transforms.distances import InitStep

Betas = tuple[errors.Decay, errors.Decay]


@transformation
def polyak_sgd(
    max_learning_rate: errors.NonNegative = 1.0,
    scaling: errors.NonNegative = 1.0,
    f_min: errors.Real = 0.0,
    eps: errors.Epsilon = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    """``u = -scaling * min((value - f_min) / (||g||^2 + eps), max_learning_rate) * g``, ``value`` the loss, a signal.

    See :func:`gradtx.scale_by_polyak`. (In Optax ``scaling`` multiplies the gradient before its norm is taken, so that
    a step that is not at ``max_learning_rate`` is divided by it.) State: nothing.

    Source: Loizou et al. 2021, arXiv:2002.10542 (SPS_max).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.polyak_sgd()
    >>> tx.update(jnp.array([6.0, 8.0]), tx.init(jnp.zeros(2)), value=25.0)[0].tolist()
    [-1.5, -2.0]
    """
    return chain(scale_by_polyak(f_min, max_learning_rate, eps, variant), scale_by_learning_rate(scaling))


@transformation
def dog(
    learning_rate: errors.NonNegative = 1.0,
    init_step: InitStep = ("heuristic", 1e-6),
    eps: errors.Epsilon = 1e-8,
    weight_decay: errors.Strength | None = None,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * r / sqrt(G + eps) * g``: distance over gradients; see :func:`gradtx.scale_by_dog`.

    ``weight_decay * p`` is added to the gradient first, for the leaves that ``mask`` selects (all without one). Average
    the parameters, as the authors do: :func:`gradtx.exponential_average`. State: one float32 number per parameter.

    Source: Ivgi, Hinder and Carmon 2023, arXiv:2302.12022 (DoG).
    """
    return chain(_decayed(weight_decay, mask), scale_by_dog(init_step, eps), scale_by_learning_rate(learning_rate))


@transformation
def dowg(
    learning_rate: errors.NonNegative = 1.0,
    init_estim_sq_dist: errors.Positive | None = None,
    eps: errors.Epsilon = 1e-4,
    weight_decay: errors.Strength | None = None,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * r^2 / (sqrt(V) + eps) * g``: distance over weighted gradients.

    See :func:`gradtx.scale_by_dowg`. ``weight_decay * p`` is added to the gradient first, for the leaves that ``mask``
    selects (all without one). State: one float32 number per parameter.

    Source: Khaled, Mishchenko and Jin 2023, arXiv:2305.16284, algorithm 1.
    """
    step = scale_by_dowg(init_estim_sq_dist, eps)
    return chain(_decayed(weight_decay, mask), step, scale_by_learning_rate(learning_rate))


@transformation
def cocob(
    learning_rate: errors.NonNegative = 1.0,
    alpha: errors.Positive = 100.0,
    eps: errors.Epsilon = 1e-8,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """Coin betting on ``learning_rate * (g + weight_decay * p)``; see :func:`gradtx.scale_by_cocob`.

    The bets do not depend on the scale of the gradients, so a constant learning rate changes nothing but what ``eps``
    means; as in Optax a schedule weighs the gradients. State: five float32 numbers per parameter.

    Source: Orabona and Tommasi 2017, arXiv:1705.07795, algorithm 2.
    """
    return chain(
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate, flip_sign=False),
        scale_by_cocob(alpha, eps),
    )


@transformation
def prodigy(
    learning_rate: errors.NonNegative = 1.0,
    betas: Betas = (0.9, 0.999),
    beta3: errors.Decay | None = None,
    eps: errors.Epsilon = 1e-8,
    estim_lr0: errors.Positive = 1e-6,
    estim_lr_coef: errors.Positive = 1.0,
    weight_decay: errors.NonNegative = 0.0,
    safeguard_warmup: bool = False,
    *,
    bias_correction: bool = True,
) -> GradientTransformation:
    """AdamW whose learning rate is ``learning_rate`` times an estimate of the distance to the solution.

    See :func:`gradtx.scale_by_prodigy` for the equations. Leave ``learning_rate`` at 1, or give a schedule that ends at
    0 from 1. ``bias_correction`` is that of Adam, as in Optax; the paper has none. State: four
    float32 numbers per parameter.

    Source: Mishchenko and Defazio 2023, arXiv:2306.06101, the Adam version of Prodigy.
    """
    b1, b2 = betas
    estimated = scale_by_prodigy(
        learning_rate, b1, b2, beta3, eps, estim_lr0, estim_lr_coef, weight_decay, safeguard_warmup, bias_correction
    )
    return chain(estimated, scale_by_learning_rate(1.0))


@transformation
def dadapt_adamw(
    learning_rate: errors.NonNegative = 1.0,
    betas: Betas = (0.9, 0.999),
    eps: errors.Epsilon = 1e-8,
    estim_lr0: errors.Positive = 1e-6,
    weight_decay: errors.NonNegative = 0.0,
    *,
    bias_correction: bool = True,
) -> GradientTransformation:
    """AdamW whose learning rate is ``learning_rate`` times D-Adaptation's estimate of the distance to the solution.

    See :func:`gradtx.scale_by_dadapt_adam` for the equations; the paper has no ``bias_correction``. Leave
    ``learning_rate`` at 1, or give a schedule that ends at 0 from 1. State: three float32 numbers per parameter.

    Source: Defazio and Mishchenko 2023, arXiv:2301.07733, algorithm 5.
    """
    b1, b2 = betas
    estimated = scale_by_dadapt_adam(learning_rate, b1, b2, eps, estim_lr0, weight_decay, bias_correction)
    return chain(estimated, scale_by_learning_rate(1.0))


@transformation
def momo(
    learning_rate: errors.NonNegative = 1.0,
    beta: errors.Decay = 0.9,
    lower_bound: errors.Real = 0.0,
    weight_decay: errors.NonNegative = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    """Momentum with a Polyak step of at most ``learning_rate``; the signal ``value`` is the loss.

    See :func:`gradtx.scale_by_momo` for the equations. State: one float32 number per parameter.

    Source: Schaipp et al. 2023, arXiv:2305.07583, algorithm 1.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx, params, loss = gradtx.momo(), jnp.array([1.0, 2.0, 3.0]), lambda p: jnp.sum(p**2)
    >>> value, grad = jax.value_and_grad(loss)(params)
    >>> [round(float(u), 4) for u in tx.update(grad, tx.init(params), params, value=value)[0]]
    [-0.5, -1.0, -1.5]
    """
    model = scale_by_momo(learning_rate, beta, lower_bound, weight_decay, adapt_lower_bound)
    return chain(model, scale_by_learning_rate(1.0))


@transformation
def momo_adam(
    learning_rate: errors.NonNegative = 1e-2,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    lower_bound: errors.Real = 0.0,
    weight_decay: errors.NonNegative = 0.0,
    adapt_lower_bound: bool = False,
) -> GradientTransformation:
    """Adam with a Polyak step of at most ``learning_rate``; the signal ``value`` is the loss.

    See :func:`gradtx.scale_by_momo` for the equations. State: two float32 numbers per parameter.

    Source: Schaipp et al. 2023, arXiv:2305.07583, algorithm 2.
    """
    model = scale_by_momo(learning_rate, b1, lower_bound, weight_decay, adapt_lower_bound, b2, eps)
    return chain(model, scale_by_learning_rate(1.0))


def _decayed(weight_decay: errors.Strength | None, mask: Where | None) -> GradientTransformation:
    return identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)

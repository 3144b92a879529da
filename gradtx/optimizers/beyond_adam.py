"""Variations on Adam: another second moment, a look ahead, a longer memory, steps that the past alone measures."""

from collections.abc import Callable
from typing import Any

from gradtx import errors
from gradtx.combinators import chain
from gradtx.combinators.selecting import Where
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import (
    add_decayed_weights,
    scale_by_acprop,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_belief,
    scale_by_learning_rate,
    scale_by_novograd,
    scale_by_radam,
    scale_by_simplified_ademamix,
    scale_by_yogi,
)
from gradtx.transforms.lagging import fourth_root


@transformation
def radam(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    threshold: errors.NonNegative = 5.0,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam with its own warm-up, ``u = -learning_rate * r_t * m^ / (sqrt(v^ + eps_root) + eps)``.

    While ``v^`` knows too few gradients, ``u = -learning_rate * m^``; then the variance of the early steps is taken out
    by ``r_t < 1``, which rises to 1. ``r_t`` and ``threshold`` as in :func:`gradtx.rectification`, ``nesterov`` as in
    :func:`adam`. State: two float32 numbers per parameter.

    Source: Liu et al. 2020, arXiv:1908.03265, algorithm 2.
    """
    return chain(
        scale_by_radam(b1, b2, eps, eps_root, threshold, nesterov=nesterov), scale_by_learning_rate(learning_rate)
    )


@transformation
def adabelief(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-16,
    eps_root: errors.Epsilon = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """Adam with the mean square of ``g - m``: ``u = -learning_rate * m^ / (sqrt(s^) + eps)``.

    ``s <- b2 * s + (1 - b2) * (g - m)^2 + eps_root`` with the new ``m``, see :func:`gradtx.scale_by_belief`. State: two
    float32 numbers per parameter.

    Source: Zhuang et al. 2020, arXiv:2010.07468, algorithm 2.
    """
    return chain(scale_by_belief(b1, b2, eps, eps_root, nesterov=nesterov), scale_by_learning_rate(learning_rate))


@transformation
def yogi(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-3,
) -> GradientTransformation:
    """Adam with ``v <- v - (1 - b2) * sign(v - g^2) * g^2`` from 1e-6: ``u = -learning_rate * m^ / (sqrt(v^) + eps)``.

    Both moments are corrected, as in TensorFlow and Optax; ``chain(scale_by_yogi(bias_correction=False), ...)`` is the
    paper's. ``m`` starts at 0, where Optax starts it at 1e-6. State: two float32 numbers per parameter.

    Source: Zaheer et al. 2018, NeurIPS 31, Adaptive methods for nonconvex optimization, algorithm 2.
    """
    return chain(scale_by_yogi(b1, b2, eps), scale_by_learning_rate(learning_rate))


@transformation
def adan(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.98,
    b2: errors.Decay = 0.92,
    b3: errors.Decay = 0.99,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 1e-8,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * ((m^ + b2 * d^) / (sqrt(n^ + eps_root) + eps) + decay * p)``: Adam that looks ahead.

    Nesterov's look-ahead: ``m``, ``d`` and ``n`` are the moving averages of ``g``, of its change ``c = g_t - g_{t-1}``
    and of ``(g + b2 * c)^2``, see :func:`gradtx.scale_by_adan`. (Optax has ``1 - b2`` for ``b2`` there.) ``decay`` is
    ``weight_decay``, decoupled as AdamW's; the paper divides the whole step by ``1 + learning_rate * decay``, which its
    code can do without. It may be one for each layer; ``mask`` selects the leaves that decay. State: four float32
    numbers per parameter.

    Source: Xie et al. 2022, arXiv:2208.06677, algorithm 1.
    """
    return chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        *_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def novograd(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.25,
    eps: errors.Epsilon = 1e-6,
    eps_root: errors.Epsilon = 0.0,
    weight_decay: errors.Strength = 0.0,
) -> GradientTransformation:
    """One second moment for each leaf: ``u = -learning_rate * m``, ``m <- b1 * m + g / (sqrt(v) + eps) + decay * p``.

    ``v <- b2 * v + (1 - b2) * ||g||^2`` from the first ``||g||^2``; ``eps_root`` is added to it, ``decay`` is
    ``weight_decay`` and may be one for each layer. State: one float32 number per parameter and one per leaf.

    Source: Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1.
    """
    return chain(scale_by_novograd(b1, b2, eps, eps_root, weight_decay), scale_by_learning_rate(learning_rate))


@transformation
def adopt(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.9999,
    eps: errors.Epsilon = 1e-6,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = fourth_root,
) -> GradientTransformation:
    """Adam that converges for every ``b2``: ``u = -learning_rate * m``, each ``g`` divided by what came before it.

    ``m <- b1 * m + (1 - b1) * clip(g / max(sqrt(v), eps), c)``, then ``v <- b2 * v + (1 - b2) * g^2``, see
    :func:`gradtx.scale_by_adopt`; ``c = clip_value_fn(step)``, the fourth root of 0, 1, 2, ... The first gradient
    starts ``v`` and gives no step. State: two float32 numbers per parameter.

    Source: Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2.
    """
    return chain(
        scale_by_adopt(b1, b2, eps, nesterov=nesterov, use_clipping=use_clipping, clip_value_fn=clip_value_fn),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def acprop(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-16,
    eps_root: errors.Epsilon = 1e-16,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * (g / (sqrt(s_{t-1}) + eps) + weight_decay * p)``, ``s`` the mean square of ``g - m``.

    Centred as AdaBelief, and measured by the past as ADOPT, see :func:`gradtx.scale_by_acprop`. (Optax subtracts the
    ``m`` of the step before.) The first step is ``-learning_rate * g``. ``weight_decay`` may be one for each layer;
    ``mask`` selects the leaves that decay. State: two float32 numbers per parameter.

    Source: Zhuang et al. 2021, arXiv:2110.05454 (ACProp).
    """
    return chain(
        scale_by_acprop(b1, b2, eps, eps_root), *_decay(weight_decay, mask), scale_by_learning_rate(learning_rate)
    )


@transformation
def ademamix(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    b3: errors.Decay = 0.9999,
    alpha: errors.NonNegative = 5.0,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    *,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """AdamW with a slow average beside the fast, ``u = -learning_rate * ((m^ + alpha * n) / sqrt(v^) + decay * p)``.

    ``n <- b3 * n + (1 - b3) * g`` is not corrected; ``eps_root`` and ``eps`` as in :func:`adam`; ``alpha`` and ``b3``
    may be schedules, as the paper has them. ``decay`` is ``weight_decay`` and may be one for each layer; ``mask``
    selects the leaves that decay. State: three float32 numbers per parameter.

    Source: Pagliardini, Ablin and Grangier 2024, arXiv:2409.03137, algorithm 1.
    """
    return chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root),
        *_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


@transformation
def simplified_ademamix(
    learning_rate: errors.NonNegative,
    b1: errors.Decay = 0.99,
    b2: errors.Decay = 0.95,
    alpha: errors.NonNegative = 0.0,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
    weight_decay: errors.Strength = 0.0,
    mask: Where | None = None,
) -> GradientTransformation:
    """``u = -learning_rate * ((m + alpha * g) / sqrt(v^) + weight_decay * p)`` with momentum ``m <- b1 * m + g``.

    The learning rate wants to be ``1 - b1`` times Adam's; ``eps_root`` and ``eps`` as in :func:`adam`. ``weight_decay``
    may be one for each layer; ``mask`` selects the leaves that decay. State: two float32 numbers per parameter.

    Source: Morwani et al. 2025, arXiv:2502.02431 (Simplified AdEMAMix).
    """
    return chain(
        scale_by_simplified_ademamix(b1, b2, alpha, eps, eps_root),
        *_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def _decay(weight_decay: errors.Strength, mask: Where | None) -> list[GradientTransformation]:
    """No part that needs the parameters where there is no decay."""
    none = isinstance(weight_decay, float | int) and weight_decay == 0
    return [] if none else [add_decayed_weights(weight_decay, mask)]

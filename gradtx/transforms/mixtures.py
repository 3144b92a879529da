"""Several memories of one gradient in one step: a slow one beside a fast one, and the trend beside the average."""

from collections.abc import Mapping
from typing import Any

import jax

from gradtx import errors
from gradtx.combinators import chain, ratio, total
from gradtx.core import GradientTransformation, Pair, compose, record_of, transformation
from gradtx.transforms.lagging import difference
from gradtx.transforms.magnitudes import bounded_for_squares, over_root
from gradtx.transforms.moments import bias_correction, ema, mean_square, square_root
from gradtx.transforms.momentum import scale_by_momentum
from gradtx.transforms.scaling import scale


@transformation
def scale_by_ademamix(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    b3: errors.Decay = 0.9999,
    alpha: errors.NonNegative = 6.0,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
) -> GradientTransformation:
    """``u = (m^ + alpha * n) / (sqrt(v^ + eps_root) + eps)``: Adam with a second, slow average ``n`` of the gradients.

    ``n <- b3 * n + (1 - b3) * g`` from 0, not corrected, so that it comes in slowly. The paper raises ``alpha`` from 0
    and ``b3`` from ``b1`` over the run: both may be schedules. State: three float32 numbers per parameter.

    Source: Pagliardini, Ablin and Grangier 2024, arXiv:2409.03137, algorithm 1.
    """
    return ratio(
        total(chain(ema(b1), bias_correction(b1)), chain(ema(b3), scale(alpha))),
        chain(mean_square(b2), bias_correction(b2), square_root(eps=eps_root)),
        eps=eps,
    )


@transformation
def scale_by_simplified_ademamix(
    b1: errors.Decay = 0.99,
    b2: errors.Decay = 0.95,
    alpha: errors.NonNegative = 0.0,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
) -> GradientTransformation:
    """``u = (m + alpha * g) / (sqrt(v^ + eps_root) + eps)`` with momentum ``m <- b1 * m + g``, which is not an average.

    Steps end ``1 / (1 - b1)`` times as long as Adam's: the learning rate wants to be as much smaller. State: two
    float32 numbers per parameter.

    Source: Morwani et al. 2025, arXiv:2502.02431 (Simplified AdEMAMix).
    """
    return ratio(
        total(scale_by_momentum(b1), scale(alpha)),
        chain(mean_square(b2), bias_correction(b2), square_root(eps=eps_root)),
        eps=eps,
    )


@transformation
def scale_by_adan(
    b1: errors.Decay = 0.98,
    b2: errors.Decay = 0.92,
    b3: errors.Decay = 0.99,
    eps: errors.Epsilon = 1e-8,
    eps_root: errors.Epsilon = 0.0,
) -> GradientTransformation:
    """``u = (m^ + b2 * d^) / (sqrt(n^ + eps_root) + eps)``: Adam that looks ahead, by the trend ``d``.

    With ``c = g_t - g_{t-1}``, 0 at first, ``m``, ``d`` and ``n`` are the corrected moving averages of ``g``, ``c`` and
    ``(g + b2 * c)^2`` with the decays ``b1``, ``b2`` and ``b3``. The paper's ``beta`` are one minus these decays: its
    ``1 - beta_2`` is ``b2``. (Optax weighs ``c`` and ``d`` by ``1 - b2``, 0.08 in place of 0.92, and so looks hardly
    ahead.) State: a dictionary, with four float32 numbers per parameter.

    Source: Xie et al. 2022, arXiv:2208.06677, algorithm 1; the corrections as in its authors' code.
    """
    parts = {
        "difference": difference(),
        "average": chain(ema(b1), bias_correction(b1)),
        "trend": chain(ema(b2), bias_correction(b2)),
        "root": chain(mean_square(b3), bias_correction(b3), square_root(eps=eps_root)),
    }

    def body(parts: Mapping[str, Pair]) -> Pair:
        def init(params):
            return {name: part.init(params) for name, part in parts.items()}

        def update(updates, state, params, signals):
            new = {}

            def apply(name: str, x: jax.Array) -> Any:
                found, new[name] = parts[name].update(x, state[name], params, signals)
                return found

            g = bounded_for_squares(updates)
            change = bounded_for_squares(apply("difference", updates))  # kept as it is, not as ``g``: one copy less
            ahead = apply("average", g) + b2 * apply("trend", change)
            return over_root(ahead, apply("root", g + b2 * change), eps), new

        return Pair(init, update)

    return compose({name: record_of(part) for name, part in parts.items()}, body)

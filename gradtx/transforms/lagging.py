"""What was known before this gradient: differences to the last one, and steps measured by the past alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain, ratio, total
from gradtx.core import (
    Counter,
    Functions,
    GradientTransformation,
    NonNegativeTree,
    SignedScalar,
    SignedTree,
    first_step,
    next_step,
    stateless,
    transformation,
)
from gradtx.transforms.clipping import clip
from gradtx.transforms.magnitudes import saturating
from gradtx.transforms.moments import ema, finite_square, square_root, weight_seen
from gradtx.transforms.scaling import identity, scale


class DifferenceState(NamedTuple):
    step: Counter
    last: SignedTree


@transformation(locality="elementwise")
def difference() -> Functions:
    """``u = g_t - g_{t-1}``, the change since the last gradient; 0 at the first. It saturates.

    State: one float32 number per parameter.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.difference()
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (3.0, 5.0):
    ...     u, state = tx.update(jnp.array([g]), state)
    >>> u.tolist()
    [2.0]
    """

    def init(param):
        return DifferenceState(first_step(), jnp.zeros_like(param))

    def advance(state):
        return state._replace(step=next_step(state.step))

    def update(update, state):
        last = jnp.where(state.step == 1, update, state.last)
        return saturating(update - last, jnp.isfinite(update) & jnp.isfinite(last)), state._replace(last=update)

    return init, update, advance


@transformation
def scale_by_optimistic_gradient(alpha: errors.Real = 1.0, beta: errors.Real = 1.0) -> GradientTransformation:
    """``u = alpha * g_t + beta * (g_t - g_{t-1})``: the next gradient, as if it changed once more.

    ``alpha * g`` at first. State: one float32 number per parameter.

    Source: Daskalakis et al. 2018, arXiv:1711.00141 (optimistic mirror descent); with two weights, Mokhtari,
    Ozdaglar and Pattathil 2020, arXiv:1901.08511 (generalized OGDA).
    """
    return total(scale(alpha), chain(difference(), scale(beta)))


class PreviousMeanSquareState(NamedTuple):
    step: Counter
    weight: SignedScalar
    mean_square: NonNegativeTree


@transformation(locality="elementwise")
def previous_mean_square(decay: errors.Decay, *, corrected: bool = False) -> Functions:
    """``u = v_{t-1}``, the mean square before this gradient: dividing by its root, no gradient measures itself.

    ``v <- decay * v + (1 - decay) * |g|^2`` from the first square, before which ``u`` is infinite: what is divided by
    it waits. With ``corrected`` from 0, ``u = v_{t-1} / (1 - decay^(t-1))``, and 1 at first. (A decay that changes
    counts there as if it had always been the present one.) Squares saturate. State: one float32 number per parameter.

    Source: Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2; corrected, Zhuang et al. 2021, arXiv:2110.05454
    (ACProp).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.previous_mean_square(0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (3.0, 5.0):
    ...     v, state = tx.update(jnp.array([g]), state)
    >>> v.tolist()
    [9.0]
    """

    def init(param):
        return PreviousMeanSquareState(first_step(), jnp.zeros((), jnp.float32), jnp.zeros_like(param.real))

    def advance(state):
        weight = weight_seen(decay, state.step) if corrected else state.weight
        return state._replace(step=next_step(state.step), weight=weight)

    def update(update, state):
        first, v, squares = state.step == 1, state.mean_square, finite_square(update)
        mean_square = v + (1.0 - decay) * (squares - v)
        if corrected:
            seen = saturating(v / jnp.where(first, 1.0, state.weight), jnp.isfinite(v))
            before = jnp.where(first, 1.0, seen)
        else:
            before, mean_square = jnp.where(first, jnp.inf, v), jnp.where(first, squares, mean_square)
        return before, state._replace(mean_square=mean_square)

    return init, update, advance


@transformation(locality="elementwise", real=True)
def at_least(minimum: errors.NonNegative) -> GradientTransformation:
    """``u = max(x, minimum)``, elementwise."""
    return stateless(lambda update: jnp.maximum(update, minimum))


def fourth_root(step: Any) -> Any:
    """``step^(1/4)``, how far ADOPT lets a step go: 0, 1, 1.19, 1.32, ..., 10 after 10,000 steps."""
    return jnp.sqrt(jnp.sqrt(jnp.asarray(step, jnp.float32)))


@transformation
def scale_by_adopt(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.9999,
    eps: errors.Epsilon = 1e-6,
    *,
    nesterov: bool = False,
    use_clipping: bool = True,
    clip_value_fn: Callable[[Any], Any] = fourth_root,
) -> GradientTransformation:
    """``u = m``, ``m <- b1 * m + (1 - b1) * clip(g / max(sqrt(v), eps), c)``, then ``v <- b2 * v + (1 - b2) * g^2``.

    A gradient is divided by the mean square of those before it, so Adam converges for every ``b2``. The first gradient
    starts ``v`` and gives no step. ``c = clip_value_fn(step)``, ``step = 0, 1, ...``, bounds each element; without
    ``use_clipping`` it is infinite (algorithm 1, which a first gradient near zero can throw far). ``nesterov`` looks
    one step ahead, ``u = b1 * m + (1 - b1) * clip(...)`` with the new ``m``. State: two float32 numbers per parameter.

    Source: Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2.
    """
    return chain(
        ratio(identity(), chain(previous_mean_square(b2), square_root(), at_least(eps)), eps=0.0),
        *([clip(clip_value_fn)] if use_clipping else []),
        ema(b1, output_decay=b1 * b1 if nesterov else None),
    )


@transformation
def scale_by_acprop(
    b1: errors.Decay = 0.9, b2: errors.Decay = 0.999, eps: errors.Epsilon = 1e-16, eps_root: errors.Epsilon = 1e-16
) -> GradientTransformation:
    """``u = g / (sqrt(s_{t-1}) + eps)``, ``s`` the corrected mean square of ``g - m``; the first step is ``g``.

    ``m <- b1 * m + (1 - b1) * g`` already knows ``g``. ``eps_root`` is added to the sum behind ``s`` at every step,
    which is ``eps_root / (1 - b2)`` on the corrected mean. (Optax subtracts the ``m`` of the step before: its ``s`` is
    ``1 / b1^2`` times as large.) State: two float32 numbers per parameter.

    Source: Zhuang et al. 2021, arXiv:2110.05454 (ACProp); the first step as in its authors' code.
    """
    residual = total(identity(), chain(ema(b1), scale(-1.0)))
    root = chain(residual, previous_mean_square(b2, corrected=True), square_root(eps=eps_root / (1.0 - b2)))
    return ratio(identity(), root, eps=eps)

"""Gradients changed before an optimizer sees them: corrected by the last one, amplified where slow, made orthogonal."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import (
    Counter,
    EmptyState,
    Functions,
    GradientTransformation,
    SignedTree,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.clipping import clip_by_global_norm
from gradtx.transforms.magnitudes import root, scaled_norm
from gradtx.tree import square


class CorrectByLastState(NamedTuple):
    step: Counter
    last: SignedTree


@transformation(locality="elementwise")
def correct_by_last(gamma: errors.NonNegative = 0.025, beta: errors.Decay = 0.95) -> Functions:
    """``u = g + gamma * beta / (1 - beta) * (g - last)``, with the ``last`` gradient; ``u = g`` at the first step.

    The correction of :func:`gradtx.mars` in its approximate form, for which no gradient is taken twice. State: one
    float32 number per parameter.

    Source: Yuan et al. 2024, arXiv:2411.10438, equation 3.10 as remark 3.3 approximates it (MARS-approx).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.correct_by_last(gamma=1.0, beta=0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (3.0, 4.0):
    ...     u, state = tx.update(jnp.array([g]), state)
    >>> u.tolist()
    [5.0]
    """

    def init(param):
        return CorrectByLastState(first_step(), jnp.zeros_like(param))

    def advance(state):
        return state._replace(step=next_step(state.step))

    def update(update, state):
        change = jnp.where(state.step == 1, 0.0, update - state.last)
        return update + gamma * (beta / (1.0 - beta)) * change, state._replace(last=update)

    return init, update, advance


@transformation
def mars(
    base: GradientTransformation,
    gamma: errors.NonNegative = 0.025,
    beta: errors.Decay = 0.95,
    max_norm: errors.Positive | None = 1.0,
) -> GradientTransformation:
    """``base`` on ``c = g + gamma * beta / (1 - beta) * (g - last)``, scaled to the norm ``max_norm`` if it is longer.

    It reduces the variance of the gradients. ``beta`` is the decay of the first moment of ``base``: the paper's
    MARS-AdamW is ``mars(adamw(learning_rate, b1=0.95, b2=0.99))``. The norm is over all leaves, as in the paper; its
    code takes the one of each leaf, ``chain(correct_by_last(), clip_by_block_norm(1.0), adamw(...))``. With ``gamma=0``
    and ``max_norm=None`` it is ``base``. State: one float32 number per parameter.

    Source: Yuan et al. 2024, arXiv:2411.10438, algorithm 1 in the approximate form of remark 3.3 (MARS-approx).
    """
    bounded = [] if max_norm is None else [clip_by_global_norm(max_norm)]
    return chain(correct_by_last(gamma, beta), *bounded, base)


class AmplifySlowState(NamedTuple):
    step: Counter
    mean: SignedTree


@transformation(locality="elementwise")
def amplify_slow(alpha: errors.Decay = 0.98, lamb: errors.NonNegative = 2.0) -> Functions:
    """``u = g + lamb * m``, ``m <- alpha * m + (1 - alpha) * g`` from the first gradient: what changes slowly, louder.

    State: one float32 number per parameter.

    Source: Lee et al. 2024, arXiv:2405.20233, algorithm 2 (Grokfast-EMA); the start as in its authors' code.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.amplify_slow(alpha=0.5, lamb=2.0)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (2.0, 4.0):
    ...     u, state = tx.update(jnp.array([g]), state)
    >>> u.tolist()
    [10.0]
    """

    def init(param):
        return AmplifySlowState(first_step(), jnp.zeros_like(param))

    def advance(state):
        return state._replace(step=next_step(state.step))

    def update(update, state):
        mean = jnp.where(state.step == 1, update, state.mean + (1.0 - alpha) * (update - state.mean))
        return update + lamb * mean, state._replace(mean=mean)

    return init, update, advance


@transformation
def grokfast(
    base: GradientTransformation, alpha: errors.Decay = 0.98, lamb: errors.NonNegative = 2.0
) -> GradientTransformation:
    """``base`` on ``g + lamb * m`` with the moving average ``m`` of the gradients: ``chain(amplify_slow(...), base)``.

    It shortens the time from fitting to generalizing (grokking). ``m`` starts at the first gradient. State: one float32
    number per parameter.

    Source: Lee et al. 2024, arXiv:2405.20233, algorithm 2 (Grokfast-EMA); the start as in its authors' code.
    """
    return chain(amplify_slow(alpha, lamb), base)


@transformation(locality="leaf")
def orthogonal_gradient() -> GradientTransformation:
    """``u = h * ||g|| / ||h||`` with ``h = g - <p, g> / <p, p> * p``: no step along the weights of a leaf.

    Stand it before an optimizer, ``chain(orthogonal_gradient(), adamw(1e-3))``: it keeps logits from growing along the
    weights. A gradient that is parallel to its weights, as that of a scalar always is, gives 0: ``h`` is nothing but
    rounding below ``1e-6 ||g||``, and is not blown up to ``||g||``. Zero weights leave the gradient as it is. Complex
    numbers are pairs of real ones. It needs the parameters.

    Source: Prieto et al. 2025, arXiv:2501.04697, section 5.1 (OrthoGrad); the norm as in its code.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.orthogonal_gradient()
    >>> params = jnp.array([2.0, 0.0])
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(params), params)[0].tolist()
    [0.0, 5.0]
    """

    def init(param):
        del param
        return EmptyState()

    def update(update, state, param):
        g_half, g_length = scaled_norm(update)
        p_half, p_length = scaled_norm(param)
        g, p = update * (g_half * g_half), param * (p_half * p_half)
        unit = p / jnp.where(p_length == 0, 1.0, p_length)
        h = g - jnp.sum((unit * jnp.conj(g)).real) * unit
        length = root(jnp.sum(square(h)))
        parallel = length <= 1e-6 * g_length
        factor = jnp.where(parallel, 0.0, g_length / jnp.where(parallel, 1.0, length))
        return jnp.where(p_length == 0, update, (h * factor) / g_half / g_half), state

    return GradientTransformation(init, update)

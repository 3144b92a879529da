"""Parameters as bets: coin betting, which has no learning rate."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.core import AccumulatedTree, GradientTransformation, NonNegativeTree, PositionTree, transformation
from gradtx.tree import cut


class ScaleByCocobState(NamedTuple):
    start: PositionTree
    gradient_sum: AccumulatedTree
    largest: NonNegativeTree
    absolute_sum: AccumulatedTree
    reward: AccumulatedTree


@transformation(locality="elementwise", real=True)
def scale_by_cocob(alpha: errors.Positive = 100.0, eps: errors.Epsilon = 1e-8) -> GradientTransformation:
    """``u = p_0 - p + S / L * (L + R) / max(A + L, alpha L)``: the new parameter is a bet, from its start ``p_0``.

    With ``g`` the gradient, elementwise: ``S <- S - g``, ``L <- max(L, |g|)`` from ``eps``, ``A <- A + |g|``, and the
    reward ``R <- max(R - g (p - p_0), 0)``. ``u`` is the step itself, so the part stands at the end of a chain.
    ``alpha`` bounds the first bets. Gradients are cut at 2^100, above which their sums would overflow. State: five
    float32 numbers per parameter.

    Source: Orabona and Tommasi 2017, arXiv:1705.07795, algorithm 2.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_cocob(alpha=4.0)
    >>> params = jnp.array([1.0, 1.0])
    >>> tx.update(jnp.array([3.0, -1e20]), tx.init(params), params)[0].tolist()
    [-0.25, 0.25]
    """

    def init(param):
        zero = jnp.zeros_like(param)
        return ScaleByCocobState(
            jnp.array(param, copy=True), zero, jnp.full_like(param, eps), jnp.zeros_like(param), jnp.zeros_like(param)
        )

    def update(update, state, param):
        g = cut(update, 2.0**100)
        gradient_sum = state.gradient_sum - g
        largest = jnp.maximum(state.largest, jnp.abs(g))
        absolute_sum = state.absolute_sum + jnp.abs(g)
        # max(R - g (p - p_0), 0), with the sum last: XLA's CPU backend makes a last operation on one array again where
        # it is used, and would for that copy the old R
        reward = state.reward + jnp.maximum(-g * (param - state.start), -state.reward)
        above = jnp.maximum(largest, jnp.finfo(largest.dtype).tiny)  # eps may be 0
        bet = gradient_sum / above * ((above + reward) / above / jnp.maximum(absolute_sum / above + 1.0, alpha))
        step = (state.start - param) + bet
        return step, ScaleByCocobState(state.start, gradient_sum, largest, absolute_sum, reward)

    return GradientTransformation(init, update)

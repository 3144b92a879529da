"""Steps from the start: all gradients so far added up, and parameters that follow where the sum points."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    AccumulatedTree,
    Counter,
    Functions,
    PositionTree,
    SignedScalar,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.moments import finite_square
from gradtx.tree import cut


class ScaleByMadgradState(NamedTuple):
    step: Counter
    weight: SignedScalar
    sum: AccumulatedTree
    sum_of_squares: AccumulatedTree
    start: PositionTree


@transformation(locality="elementwise")
def scale_by_madgrad(
    learning_rate: errors.NonNegative, momentum: errors.Decay = 0.9, eps: errors.Epsilon = 1e-6
) -> Functions:
    """``u = (1 - momentum) * (z - p)``, ``z = p_0 - s / (cbrt(v) + eps)``, with weighted sums from the start ``p_0``.

    ``s <- s + w * g`` and ``v <- v + w * |g|^2`` with ``w = learning_rate * sqrt(t)``, ``t = 1, 2, ...``: later
    gradients weigh more, and the root is a cube root. The update is complete: no part that scales it may follow.
    ``eps`` is beside the root alone. (Optax, as the authors' code, adds it to the learning rate too.) ``init`` wants
    the parameters as they are. Gradients are cut at 2^61. State: three float32 numbers per parameter.

    Source: Defazio and Jelassi 2022, arXiv:2101.11075, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_madgrad(1.0, momentum=0.0, eps=0.0)
    >>> params = jnp.array([1.0])
    >>> tx.update(jnp.array([8.0]), tx.init(params), params)[0].round(4).tolist()
    [-2.0]
    """

    def init(param):
        return ScaleByMadgradState(
            step=first_step(),
            weight=jnp.zeros((), jnp.float32),
            sum=jnp.zeros_like(param),
            sum_of_squares=jnp.zeros_like(param.real),
            start=jnp.array(param, copy=True),
        )

    def advance(state):
        step = next_step(state.step)
        return state._replace(step=step, weight=learning_rate * jnp.sqrt(step.astype(jnp.float32)))

    def update(update, state, param):
        g = cut(update, 2.0 ** (jnp.finfo(update.dtype).maxexp // 2 - 3))
        largest = jnp.finfo(g.dtype).max
        s, weighted = state.sum + state.weight * g, state.weight * finite_square(g)
        v = jnp.where(jnp.isfinite(weighted), jnp.minimum(state.sum_of_squares + weighted, largest), weighted)
        below = jnp.maximum(jnp.cbrt(v) + eps, jnp.finfo(g.dtype).tiny)
        moved = state.start - param - s / below
        return (1.0 - momentum) * moved, state._replace(sum=s, sum_of_squares=v)

    return init, update, advance

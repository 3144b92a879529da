"""The limited-memory quasi-Newton direction: the inverse Hessian from the last differences of gradients."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    Counter,
    FactorTree,
    Functions,
    PositionTree,
    SignedScalar,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.whole_trees import scaled_tree_norm, wide_zero


class ScaleByLBFGSState(NamedTuple):
    step: Counter
    pairs: Counter  # pairs stored so far; the next one goes to the place `pairs % memory_size`
    params: PositionTree
    grad: PositionTree
    steps: FactorTree
    changes: FactorTree
    curvatures: SignedScalar  # 1 / <y, s> of each pair, 0 where there is none
    scale: SignedScalar  # gamma of the newest pair (XLA's CPU backend would copy all pairs to read that one again)


@transformation(locality="tree", real=True)
def scale_by_lbfgs(memory_size: errors.Count = 10, scale_init_precond: bool = True) -> Functions:
    """``u = H g`` with the inverse Hessian ``H`` of BFGS made from the last ``memory_size`` pairs ``s, y``::

        s = p - p_last,  y = g - g_last,  rho = 1 / <y, s>
        H <- (I - rho s y') H (I - rho y s') + rho s s',     from H = gamma I

    applied by the two loops of 4 ``memory_size`` products, never formed. ``gamma = <s, y> / <y, y>`` of the newest pair
    and ``min(1, 1 / |g|)`` before there is any; 1 without ``scale_init_precond``. A pair without positive curvature,
    ``<s, y> <= eps |s| |y|``, is left out, and with it the oldest of ``memory_size`` pairs, in whose place it would
    be: so ``-u`` always points downhill (section 7.2 asks a line search for the Wolfe conditions instead; Optax stores
    every pair). ``g`` must be the gradient: the part stands first in a chain, as in :func:`gradtx.lbfgs`. A gradient of
    any size gives a finite direction.

    State: ``2 memory_size + 2`` float32 numbers per parameter.

    Source: Nocedal and Wright 2006, Numerical Optimization, algorithm 7.4 and equation 7.20; Shanno and Phua 1978,
    Mathematical Programming 14, on the first scale.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_lbfgs()
    >>> curvature = jnp.array([1.0, 4.0])
    >>> state, params = tx.init(jnp.zeros(2)), jnp.array([1.0, 1.0])
    >>> for params in (jnp.array([1.0, 1.0]), jnp.array([0.0, 1.0]), jnp.array([0.0, 0.5])):
    ...     direction, state = tx.update(curvature * params, state, params)
    >>> direction.tolist()                                  # Newton's step, after a move along each axis
    [0.0, 0.5]
    """

    def init(params):
        def memory(param: jax.Array) -> jax.Array:
            return jnp.stack([jnp.zeros_like(param)] * memory_size)

        return ScaleByLBFGSState(
            step=first_step(),
            pairs=first_step(),
            params=jax.tree.map(jnp.zeros_like, params),
            grad=jax.tree.map(jnp.zeros_like, params),
            steps=jax.tree.map(memory, params),
            changes=jax.tree.map(memory, params),
            curvatures=jnp.zeros(memory_size, wide_zero(params).dtype),
            scale=wide_zero(params),
        )

    def remembering(state: Any, grad: Any, params: Any) -> Any:
        """The state with the newest pair, if its curvature is positive."""
        s, y = _minus(params, state.params), _minus(grad, state.grad)
        product, square = _dot(s, y), _dot(y, y)
        threshold = jnp.finfo(product.dtype).eps * jnp.sqrt(_dot(s, s)) * jnp.sqrt(square)
        usable = (state.step > 0) & (product > threshold) & jnp.isfinite(square) & jnp.isfinite(1.0 / product)
        place = state.pairs % memory_size

        def kept(memory: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_index_in_dim(memory, jnp.where(usable, new, 0), place, 0)

        curvature = 1.0 / jnp.where(usable, product, 1.0)  # which `kept` makes 0 otherwise
        never = usable & (product <= 0)  # XLA does not know: so it reads the old point before it writes the new one
        params, grad = jax.tree.map(lambda new: jnp.where(never, 0, new), (params, grad))
        return state._replace(
            pairs=state.pairs + usable,
            params=params,
            grad=grad,
            steps=jax.tree.map(kept, state.steps, s),
            changes=jax.tree.map(kept, state.changes, y),
            curvatures=kept(state.curvatures, curvature),
            scale=jnp.where(usable, product / jnp.where(square > 0, square, product), state.scale),
        )

    def update(grad, state, params):
        if not jax.tree.leaves(grad):
            return grad, state
        grad = jax.tree.map(lambda g, old: g.astype(old.dtype), grad, state.grad)
        state = remembering(state, grad, params)
        h, length = scaled_tree_norm(grad)
        direction = jax.tree.map(lambda g: g * (h * h), grad)

        def pair(index: Any) -> tuple[Any, Any, jax.Array]:
            place = (state.pairs - 1 - index) % memory_size
            s, y, rho = jax.tree.map(
                lambda memory: jax.lax.dynamic_index_in_dim(memory, place, keepdims=False),
                (state.steps, state.changes, state.curvatures),
            )
            return s, y, rho

        def newest_first(index: Any, carry: Any) -> Any:
            q, shares = carry
            s, y, rho = pair(index)
            share = rho * _dot(s, q)
            return _plus(q, -share, y), shares.at[index].set(share)

        def oldest_first(step: Any, r: Any) -> Any:
            index = memory_size - 1 - step
            s, y, rho = pair(index)
            return _plus(r, shares[index] - rho * _dot(y, r), s)

        direction, shares = jax.lax.fori_loop(
            0, memory_size, newest_first, (direction, jnp.zeros_like(state.curvatures))
        )
        if scale_init_precond:
            gamma = jnp.where(state.pairs > 0, state.scale, jnp.minimum(1.0, _inverse(h, length)))
            direction = jax.tree.map(lambda q: gamma.astype(q.dtype) * q, direction)
        direction = jax.lax.fori_loop(0, memory_size, oldest_first, direction)
        back = 1.0 / h
        direction = jax.tree.map(lambda r: (r * back) * back, direction)
        return direction, state._replace(step=next_step(state.step))

    return init, update


def _inverse(h: jax.Array, length: jax.Array) -> jax.Array:
    return h * h / jnp.where(length == 0, 1.0, length)


def _minus(x: Any, y: Any) -> Any:
    return jax.tree.map(jnp.subtract, x, y)


def _plus(x: Any, factor: jax.Array, y: Any) -> Any:
    return jax.tree.map(lambda a, b: a + factor.astype(a.dtype) * b, x, y)


def _dot(x: Any, y: Any) -> jax.Array:
    products = [jnp.sum(a * b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)]
    return functools.reduce(jnp.add, products)

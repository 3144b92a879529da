"""Bounding updates: each element, or the norm of all of them."""

import math

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import GradientTransformation, stateless, transformation
from gradtx.tree import cut, squared_norm

# The root of what overflows float32. (Scaling before squaring would avoid the overflow, but the compiler then keeps a
# broadcast scale in memory for each shape: 1.25 passes more over the gradients.)
LARGEST_NORM = 2.0**64


@transformation(locality="elementwise", real=True)
def clip(max_delta: errors.NonNegative) -> GradientTransformation:
    """``u = min(max(g, -max_delta), max_delta)``, elementwise.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.clip(1.0)
    >>> tx.update(jnp.array([-3.0, 0.5]), tx.init(jnp.zeros(2)))[0].tolist()
    [-1.0, 0.5]
    """
    return stateless(lambda update: jnp.clip(update, -max_delta, max_delta))


@transformation(locality="tree")
def clip_by_global_norm(max_norm: errors.Positive) -> GradientTransformation:
    """``u = g * min(1, max_norm / ||g||)`` with the Euclidean norm over all leaves.

    Gradients within the limit pass bit for bit, a zero gradient too. The norm takes one pass. Where it overflows
    float32, above ``2^64``, each of the ``n`` elements is cut at ``2^64 / sqrt(n)`` and the result, whose norm is then
    at most ``2^64``, scaled by ``max_norm / 2^64``: exact for equal elements, otherwise a shorter step of the same
    signs. Infinities and NaN stay visible.

    Source: Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.clip_by_global_norm(1.0)
    >>> updates, _ = tx.update({"w": jnp.array([3.0]), "b": jnp.array([4.0])}, tx.init(None))
    >>> print(updates["w"])
    [0.6]
    """

    def rescale(updates):
        norm = jnp.sqrt(squared_norm(updates))
        size = sum(leaf.size for leaf in jax.tree.leaves(updates))
        overflows = jnp.isinf(norm)
        factor = jnp.where(norm > max_norm, max_norm / jnp.where(overflows, LARGEST_NORM, norm), 1.0)
        bound = jnp.where(overflows, LARGEST_NORM / math.sqrt(max(size, 1)), jnp.inf)
        return jax.tree.map(lambda g: _cut_and_scale(g, bound, factor), updates)

    return stateless(rescale)


@jax.jit
def _cut_and_scale(g: jax.Array, bound: jax.Array, factor: jax.Array) -> jax.Array:
    return cut(g, bound) * factor

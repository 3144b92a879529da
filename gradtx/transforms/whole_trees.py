"""Norms over all leaves of a tree, right over the whole range of float32."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import SignedTree
from gradtx.transforms.magnitudes import halving, magnitude, root, saturating
from gradtx.tree import squared_norm


def wide_zero(tree: Any) -> jax.Array:
    """A zero in the dtype of a number that belongs to the whole tree: that of its widest leaf, at least float32."""
    dtypes = [leaf.real.dtype for leaf in jax.tree.leaves(tree)]
    return jnp.zeros((), functools.reduce(jnp.promote_types, dtypes, jnp.float32))


def scaled_tree_norm(tree: Any) -> tuple[jax.Array, jax.Array]:
    """``(h, length)`` with ``||x|| = length / h / h`` over all leaves, ``h`` a power of two, 1 for a usual ``x``.

    One pass over the leaves; two more where the sum of squares is not within 2^-60 and 2^100, with ``length`` then 0
    for ``x = 0`` and otherwise from 1 to four roots of the number of elements.
    """
    squares = squared_norm(tree)

    def usual() -> tuple[jax.Array, jax.Array]:
        return jnp.ones_like(squares), jnp.sqrt(squares)

    def rescaled() -> tuple[jax.Array, jax.Array]:
        leaves = jax.tree.leaves(tree)
        h = halving(functools.reduce(jnp.maximum, map(magnitude, leaves)).astype(squares.dtype))
        return h, root(squared_norm([leaf * (h * h).astype(leaf.real.dtype) for leaf in leaves])).astype(squares.dtype)

    if not jax.tree.leaves(tree):
        return usual()
    return jax.lax.cond((squares > 2.0**-60) & (squares < 2.0**100), usual, rescaled)


def tree_norm(tree: Any) -> jax.Array:
    """``||x||`` over all leaves, at most the largest finite number for a finite ``x``."""
    h, length = scaled_tree_norm(tree)
    return saturating(length / h / h, jnp.isfinite(length))


def divided_by(tree: Any, size: jax.Array, factor: Any) -> Any:
    """``factor * x / size`` where ``size`` is large or small as ``x`` is; 0 where ``size`` is 0."""
    h = halving(size)
    scaled = size * h * h
    share = factor / jnp.where(scaled == 0, 1.0, scaled) * h
    return jax.tree.map(lambda leaf: (leaf * h.astype(leaf.real.dtype)) * share.astype(leaf.real.dtype), tree)


def copied(tree: Any) -> SignedTree:
    """The same numbers in buffers of their own: the parameters' may be donated beside them."""
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), tree)


def minus(param: jax.Array, kept: jax.Array) -> jax.Array:
    """``param - kept``, never broadcast."""
    if param.shape != kept.shape:
        raise ValueError(f"{kept.shape} is kept for {param.shape}")  # at the edge, the error of a state of another tree
    return param - kept

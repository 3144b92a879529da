"""Products over a tree that do not overflow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.tree.leaves import cut

LIMIT = 2.0**50
"""Numbers are cut here where a product over a tree is not below it: the sum of 2^27 of them is finite."""


def limited_dot(x: Any, *trees: Any, by: Callable[..., jax.Array] = lambda y: y) -> jax.Array:
    """``sum x by(y, ...)`` over all leaves, wide real ones; infinities and NaN in them stay visible.

    Where the magnitude of the sum is not below 2^50 each ``x`` and ``by(y, ...)`` is cut at 2^50, in a second pass.
    (XLA's CPU backend adds in the same loop what arithmetic makes, but writes out what a limit makes, and what both
    branches read: so there is no limit within the usual sum, and each branch makes ``by(y, ...)`` for itself.)
    """
    leaves = [jax.tree.leaves(tree) for tree in (x, *trees)]

    def added(limit: Callable[[jax.Array], jax.Array]) -> jax.Array:
        products = [jnp.sum(limit(a) * limit(by(*of))) for a, *of in zip(*leaves, strict=True)]
        return sum(products, start=jnp.zeros((), jnp.float32))

    plain = added(lambda a: a)

    def usual() -> jax.Array:
        return plain

    def limited() -> jax.Array:
        return added(lambda a: cut(a, LIMIT))

    return jax.lax.cond(jnp.abs(plain) < LIMIT, usual, limited)

"""The Lanczos iteration inside a compiled program: a fixed number of products, and no number comes to the host.

    A V = V T + beta v_{m+1} e_m',    V = [v_1 .. v_m] orthonormal,    T = V' A V tridiagonal

It is that of :mod:`gradtx.curvature.lanczos` with its two passes of projecting out all earlier vectors; where that one
asks the numbers when to stop, this one takes all of its steps, and where the subspace is closed sooner the rest of
``V`` and ``T`` is zero. The steps are written out one after the other: on the CPU backend a convolution's gradient
inside a compiled loop is 10 to 18 times slower.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gradtx.curvature import vectors
from gradtx.curvature.differentiation import Vector, inner

_ROUNDING = 16  # times eps times |A|: below it, what is left of a product is rounding


class Subspace(NamedTuple):
    """``V``, and ``T`` by its eigenvalues ``theta``, ascending, and their vectors in the columns of ``S``."""

    basis: Vector
    """Leaves ``[m, ...]``."""
    values: jax.Array
    """``theta``, ``[m]``."""
    columns: jax.Array
    """``S``, ``[m, m]``."""

    @property
    def rounding(self) -> jax.Array:
        """What an eigenvalue may be off by rounding alone."""
        return _ROUNDING * jnp.finfo(self.values.dtype).eps * jnp.max(jnp.abs(self.values))


def krylov_subspace(product: Callable[[Vector], Vector], direction: Vector, steps: int) -> Subspace:
    """``steps`` products from a unit vector on, or from zero, which gives zeros; at most as many as there are entries.

    Memory: ``steps`` vectors of the parameters' size.
    """
    steps = min(steps, vectors.size(direction))
    # Written in place: a basis that grows would be kept at every length. The sum gives it the sharding of the leaf.
    basis = tuple(jnp.zeros((steps, *leaf.shape), leaf.dtype) + 0 * leaf for leaf in direction)
    basis = _with_row(basis, 0, direction)
    eps = jnp.finfo(jnp.result_type(*direction)).eps
    rest = product(direction)
    diagonal, off_diagonal = [inner(direction, rest)], []
    largest = jnp.abs(diagonal[0])
    for index in range(1, steps):
        for _ in range(2):
            along = coordinates(basis, rest)
            rest = tuple(leaf - part for leaf, part in zip(rest, combination(basis, along), strict=True))
        beta = jnp.sqrt(inner(rest, rest))
        beta = jnp.where(beta <= _ROUNDING * eps * largest, 0, beta)
        divisor = jnp.where(beta == 0, 1, beta)
        vector = tuple(jnp.where(beta == 0, 0, leaf / divisor).astype(leaf.dtype) for leaf in rest)
        basis = _with_row(basis, index, vector)
        rest = product(vector)
        alpha = inner(vector, rest)
        largest = jnp.maximum(largest, jnp.maximum(jnp.abs(alpha), beta))
        diagonal.append(alpha)
        off_diagonal.append(beta)
    off = jnp.stack(off_diagonal) if off_diagonal else jnp.zeros(0)
    values, columns = jnp.linalg.eigh(jnp.diag(jnp.stack(diagonal)) + jnp.diag(off, 1) + jnp.diag(off, -1))
    return Subspace(basis, values, columns)


def uniform_direction(key: jax.Array, x: Vector) -> Vector:
    """A unit vector, uniform on the sphere."""
    # Zero times the parameter adds its sharding alone, where types carry shardings.
    return unit(tuple(r + 0 * leaf for r, leaf in zip(vectors.random(key, x), x, strict=True)))[0]


# Products and sums instead of matrix products: these are in full precision on every device, and on the CPU backend they
# copy no basis (with jnp.tensordot ten vectors took the memory of fifty).


def coordinates(basis: Vector, vector: Vector) -> jax.Array:
    """``V' x``."""
    parts = [jnp.sum(kept * leaf, tuple(range(1, kept.ndim))) for kept, leaf in zip(basis, vector, strict=True)]
    return sum(parts[1:], start=parts[0])


def combination(basis: Vector, weights: jax.Array) -> Vector:
    """``V c``, with a finite ``c`` limited such that no sum overflows."""

    def of_leaf(kept: jax.Array) -> jax.Array:
        largest = float(jnp.finfo(kept.dtype).max) / (2 * len(weights))
        limited = jnp.clip(weights, -largest, largest).astype(kept.dtype)
        return jnp.sum(limited.reshape(-1, *[1] * (kept.ndim - 1)) * kept, 0)

    return tuple(map(of_leaf, basis))


def unit(vector: Vector) -> tuple[Vector, jax.Array]:
    """``x / |x|``, or zero, and ``|x|``; also where squares overflow or vanish. A finite ``x`` has a finite norm."""
    largest = jnp.zeros(())
    for leaf in vector:
        largest = jnp.maximum(largest, jnp.max(jnp.abs(leaf), initial=0))
    # A division would become a product with 1 / largest, which is subnormal above 8.5e37, and so zero.
    root = jax.lax.rsqrt(jnp.where(largest > 0, largest, 1))
    scaled = tuple(leaf * root * root for leaf in vector)
    rest = jnp.sqrt(inner(scaled, scaled))
    divisor = jnp.where(rest > 0, rest, 1)
    most = jnp.finfo(largest.dtype).max
    norm = jnp.where(jnp.isfinite(largest), jnp.minimum(largest, most / jnp.maximum(rest, 1)) * rest, largest)
    return tuple((part / divisor).astype(leaf.dtype) for part, leaf in zip(scaled, vector, strict=True)), norm


def _with_row(basis: Vector, index: int, vector: Vector) -> Vector:
    return tuple(
        jax.lax.dynamic_update_index_in_dim(kept, leaf, index, 0) for kept, leaf in zip(basis, vector, strict=True)
    )

"""The Lanczos iteration with full re-orthogonalization: a large symmetric matrix as a small tridiagonal one.

    A Q = Q T + r e_k',    Q = [q_1 .. q_k] orthonormal,    T = tridiagonal(beta, alpha, beta)

``alpha_j = q_j' A q_j``, and ``beta_j q_{j+1}`` is what is left of ``A q_j`` after two passes of projecting out all of
``q_1 .. q_j``. Source: Lanczos 1950; Parlett 1998, "The Symmetric Eigenvalue Problem", chapter 13.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.curvature import vectors
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.operators import Operator, multiply
from gradtx.tree import leaf_paths

_ROUNDING = 16  # times eps times |T|: below it, what is left of a product is rounding


class Krylov(NamedTuple):
    """Where an iteration stands, after ``len(diagonal)`` products; the lists grow from step to step."""

    basis: list[Vector]
    """``q_1, q_2, ...``: as many vectors of the parameters' size are held in memory."""
    diagonal: list[float]
    """``alpha_1 .. alpha_k``."""
    off_diagonal: list[float]
    """``beta_1 .. beta_k``, the last one the norm of ``r``; 0 where an invariant subspace was closed."""
    asymmetry: list[float]
    """``|q_{j-1}' A q_j - beta_{j-1}|``: zero but for rounding where ``A`` is symmetric."""

    @property
    def first(self) -> int:
        """The products up to the first closed subspace: those that come from the start vector alone."""
        return self.off_diagonal.index(0.0) + 1 if 0.0 in self.off_diagonal else len(self.off_diagonal)

    @property
    def closed(self) -> int:
        """How many invariant subspaces are closed."""
        return self.off_diagonal.count(0.0)


def krylov_steps(operator: Operator, start: Vector, key: jax.Array) -> Iterator[Krylov]:
    """One product a step, until the whole space is spanned; the caller stops sooner.

    Where nothing is left of ``A q_j`` the subspace is invariant. Eigenvectors orthogonal to the start, and second
    copies of an eigenvalue, are outside of it: the iteration goes on from a random direction orthogonal to all so far.
    """
    length = vectors.norm(start)
    vector = vectors.combine([1 / length], [start])
    found = Krylov([], [], [], [])
    dimension = operator.dimension
    eps = float(jnp.finfo(jnp.result_type(*start)).eps)
    while True:
        found.basis.append(vector)
        product = multiply(operator, vector)
        alpha = vectors.dot(vector, product)
        length = vectors.norm(product)
        check_finite(operator, product, length)
        if len(found.basis) > 1:
            found.asymmetry.append(abs(vectors.dot(found.basis[-2], product) - found.off_diagonal[-1]))
        found.diagonal.append(alpha)
        rest = vectors.project_out(product, found.basis)
        beta = vectors.norm(rest)
        largest = max(map(abs, [*found.diagonal, *found.off_diagonal, length]))
        complete = len(found.basis) == dimension
        if complete or beta <= _ROUNDING * eps * largest:
            found.off_diagonal.append(0.0)
            yield found
            if complete:
                return
            fresh = vectors.random(jax.random.fold_in(key, len(found.basis)), start)
            rest = vectors.project_out(fresh, found.basis)
            beta = vectors.norm(rest)
        else:
            found.off_diagonal.append(beta)
            yield found
        vector = vectors.combine([1 / beta], [rest])


def tridiagonal(found: Krylov) -> np.ndarray:
    """``T`` as a dense float64 array ``[k, k]``."""
    off = np.asarray(found.off_diagonal[:-1])
    return np.diag(found.diagonal) + np.diag(off, 1) + np.diag(off, -1)


def ritz(found: Krylov) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values, ascending, and the eigenvectors of ``T`` in columns: float64, on the host."""
    return np.linalg.eigh(tridiagonal(found))


def ritz_vector(found: Krylov, weights: np.ndarray) -> Vector:
    """``Q s``, of length 1."""
    vector = vectors.combine(list(weights), found.basis[: len(weights)])
    return vectors.combine([1 / vectors.norm(vector)], [vector])


def check_finite(operator: Operator, vector: Vector, length: float) -> None:
    """Raises where a product holds NaN or infinity."""
    if np.isfinite(length):
        return
    at = operator.point
    raise non_finite(at.call, "second derivatives", at.tree(vector))


def non_finite(call: str, what: str, tree: object) -> errors.ArgumentRangeError:
    """The error that names the first leaf with NaN or infinity."""
    bad = [
        path
        for path, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)
        if not bool(jnp.all(jnp.isfinite(leaf)))
    ]
    return errors.ArgumentRangeError(
        call,
        expected=f"finite {what} at this point",
        got="NaN or infinity",
        at=repr(bad[0]) if bad else None,
        cause="training has diverged, or a function has no derivative here (sqrt at 0, norm of 0)",
        fix="write jax.config.update('jax_debug_nans', True) to see where it comes from",
    )

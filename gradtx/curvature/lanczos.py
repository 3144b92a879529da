"""The Lanczos iteration: a large symmetric matrix as a small one, seen from a subspace that grows with each product.

    A V = V P + q rest',    V = [v_1 .. v_m] orthonormal,    P = V' A V,    q orthogonal to V

From a start vector on, ``P`` is tridiagonal: ``alpha_j = v_j' A v_j``, and ``beta_j v_{j+1}`` is what is left of
``A v_j`` after two passes of projecting out all of ``v_1 .. v_j``. Source: Lanczos 1950; Parlett 1998, "The Symmetric
Eigenvalue Problem", chapter 13.

Where memory is short there are two ways. A thick restart replaces the basis by the Ritz vectors at both ends and goes
on from them: ``P`` is then diagonal with a border (Wu and Simon 2000, section 2). Or only the last two vectors are
kept; orthogonality is lost as Ritz values converge, which makes copies of these but moves none (Paige 1980), and a
second pass with the same products sums up the vectors asked for.
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

LEAST_VECTORS = 7
"""The smallest memory for a restart: a basis of four, the next vector, and the two that stay."""

_ROUNDING = 16  # times eps times |A|: below it, what is left of a product is rounding


class Krylov(NamedTuple):
    """Where an iteration stands."""

    basis: list[Vector]
    """``v_1 .. v_m``, or the last two of them; one list, which changes from step to step."""
    projected: np.ndarray
    """``P``, float64 ``[m, m]``."""
    rest: np.ndarray
    """``[m]``, zero where an invariant subspace was closed."""
    diagonal: tuple[float, ...]
    """``alpha_1, alpha_2, ...`` of the run from the start vector to the first restart."""
    off_diagonal: tuple[float, ...]
    """``beta_1, beta_2, ...`` of that run; 0 where an invariant subspace was closed."""
    asymmetry: float
    """The largest ``|v_{j-1}' A v_j - beta_{j-1}|``: zero but for rounding where ``A`` is symmetric."""
    products: int
    closed: int
    """How many invariant subspaces are closed."""

    @property
    def first(self) -> int:
        """The products up to the first closed subspace: those that come from the start vector alone."""
        return self.off_diagonal.index(0.0) + 1 if 0.0 in self.off_diagonal else len(self.off_diagonal)


def krylov_steps(operator: Operator, start: Vector, key: jax.Array, max_vectors: int | None = None) -> Iterator[Krylov]:
    """One product a step, until the whole space is spanned; the caller stops sooner.

    Where nothing is left of ``A v_j`` the subspace is invariant. Eigenvectors orthogonal to the start, and second
    copies of an eigenvalue, are outside of it: the iteration goes on from a random direction orthogonal to all so far.

    With ``max_vectors`` so many vectors of the parameters' size are held at most, those while a restart forms new ones
    included; a third of them stays.
    """
    kept = 0 if max_vectors is None else 2 * ((max_vectors - 1) // 6)
    most = operator.dimension if max_vectors is None else max_vectors - 1 - kept
    found = Krylov([], np.zeros((0, 0)), np.zeros(0), (), (), 0.0, 0, 0)
    restarted = False
    vector = vectors.combine([1 / vectors.norm(start)], [start])
    while True:
        if len(found.basis) == most:
            found, restarted = _restarted(found, kept), True
        found, rest, beta = _extended(operator, found, vector, not restarted)
        complete = len(found.basis) == operator.dimension
        if complete or not beta:
            found = _closed(found, not restarted)
        yield found
        if complete:
            return
        if not beta:
            rest = vectors.random(jax.random.fold_in(key, found.products), operator.point.chosen)
            rest = vectors.project_out(rest, found.basis)
            beta = vectors.norm(rest)
        vector = vectors.combine([1 / beta], [rest])
        del rest


def short_steps(operator: Operator, start: Vector) -> Iterator[Krylov]:
    """One product a step and no basis but its last two vectors, until the subspace is invariant."""
    found = Krylov([], np.zeros((0, 0)), np.zeros(0), (), (), 0.0, 0, 0)
    vector = vectors.combine([1 / vectors.norm(start)], [start])
    while True:
        del found.basis[:-1]
        found, rest, beta = _extended(operator, found, vector, True)
        yield found if beta else _closed(found, True)
        if not beta:
            return
        vector = vectors.combine([1 / beta], [rest])
        del rest


def _extended(operator: Operator, found: Krylov, vector: Vector, from_start: bool) -> tuple[Krylov, Vector, float]:
    """One more vector; what is left of its product and the length of that, 0 where it is rounding."""
    found.basis.append(vector)
    product = multiply(operator, vector)
    alpha, length = vectors.dot(vector, product), vectors.norm(product)
    check_finite(operator, product, length)
    asymmetry = abs(vectors.dot(found.basis[-2], product) - found.rest[-1]) if found.products else 0.0
    m = len(found.projected)
    projected = np.zeros((m + 1, m + 1))
    projected[:m, :m] = found.projected
    projected[m, :m] = projected[:m, m] = found.rest
    projected[m, m] = alpha
    rest = vectors.project_out(product, found.basis)
    beta = vectors.norm(rest)
    eps = float(jnp.finfo(jnp.result_type(*vector)).eps)
    if beta <= _ROUNDING * eps * max(float(np.max(np.abs(projected))), length):
        beta = 0.0
    found = Krylov(
        found.basis,
        projected,
        np.append(np.zeros(m), beta),
        (*found.diagonal, alpha) if from_start else found.diagonal,
        (*found.off_diagonal, beta) if from_start else found.off_diagonal,
        max(found.asymmetry, asymmetry),
        found.products + 1,
        found.closed,
    )
    return found, rest, beta


def _closed(found: Krylov, from_start: bool) -> Krylov:
    off_diagonal = (*found.off_diagonal[:-1], 0.0) if from_start else found.off_diagonal
    return found._replace(rest=np.zeros_like(found.rest), off_diagonal=off_diagonal, closed=found.closed + 1)


def _restarted(found: Krylov, kept: int) -> Krylov:
    values, columns = ritz(found)
    ends = [*range(kept // 2), *range(len(values) - kept // 2, len(values))]
    found.basis[:] = [vectors.combine(list(columns[:, end]), found.basis) for end in ends]
    return found._replace(projected=np.diag(values[ends]), rest=found.rest @ columns[:, ends])


def tridiagonal(found: Krylov) -> np.ndarray:
    """``P`` of the run from the start vector to the first restart, float64."""
    off = np.asarray(found.off_diagonal[:-1])
    return np.diag(found.diagonal) + np.diag(off, 1) + np.diag(off, -1)


def ritz(found: Krylov) -> tuple[np.ndarray, np.ndarray]:
    """Ritz values, ascending, and the eigenvectors of ``P`` in columns: float64, on the host."""
    return np.linalg.eigh(found.projected)


def ritz_vectors(found: Krylov, columns: np.ndarray) -> list[Vector]:
    """``V s`` for each column, of length 1."""
    return [_unit(vectors.combine(list(column), found.basis)) for column in columns.T]


def ritz_vectors_again(operator: Operator, start: Vector, columns: np.ndarray) -> list[Vector]:
    """The same with the basis made once more: as many products as the columns are long."""
    sums: list[Vector] = []
    for weights, found in zip(columns, short_steps(operator, start), strict=False):
        vector = found.basis[-1]
        for index, weight in enumerate(weights):
            if len(sums) <= index:
                sums.append(vectors.combine([weight], [vector]))
            else:
                sums[index] = vectors.add_to(sums[index], weight, vector)
    return [_unit(vector) for vector in sums]


def _unit(vector: Vector) -> Vector:
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

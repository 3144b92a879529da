"""The smallest and the largest eigenvalue, from one Lanczos run, and what is known about their errors."""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from gradtx import errors
from gradtx.curvature import vectors
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.lanczos import (
    LEAST_VECTORS,
    Krylov,
    check_finite,
    krylov_steps,
    ritz,
    ritz_vectors,
    ritz_vectors_again,
    short_steps,
)
from gradtx.curvature.operators import Operator, multiply


class End(NamedTuple):
    """One end of a spectrum; host floats, and a direction like the parameters."""

    value: float
    """``u' A u`` of the unit vector ``u``: at least the smallest and at most the largest eigenvalue, whatever else."""
    residual: float
    """``|A u - (u' A u) u|``, recomputed: some eigenvalue is no further than this from ``value``."""
    bound: float
    """The eigenvalue itself is not beyond this, with the probability asked for; infinite where nothing can be said."""
    direction: Any
    """``u``, a tree like the parameters, zero where they do not vary."""


class Extremes(NamedTuple):
    """Both ends of a spectrum."""

    smallest: End
    largest: End
    products: int
    """Products with the matrix, all of them."""
    complete: bool
    """Whether the run spanned all eigenvectors that the start vector has a part of."""


@errors.checked_call
def extreme_eigenvalues(
    operator: Operator,
    *,
    key: Any,
    max_products: errors.Count = 100,
    tolerance: errors.NonNegativeNumber = 1e-6,
    delta: errors.Fraction = 1e-3,
    max_vectors: errors.Count | None = None,
    two_pass: bool = False,
) -> Extremes:
    """The smallest and the largest eigenvalue of a symmetric matrix known by its products.

    Lanczos from a Gaussian start, with full re-orthogonalization. What is rigorous and what is probable stands apart:
    ``smallest.value`` is above the smallest eigenvalue and within ``smallest.residual`` of some eigenvalue, always;
    that nothing lies below ``smallest.bound`` holds with probability ``1 - delta`` over the start (both ends at once)::

        lambda_min >= theta_min - e (theta_max - theta_min) / (1 - 2 e),
        e = (log(1.648 sqrt(n) / (delta / 2)) / (2 k - 1))^2

    Source: Kuczynski and Wozniakowski 1992, theorem 4.2 (for both ends of a shifted matrix).

    Args:
        operator: From :func:`hessian`, :func:`gauss_newton` or :func:`fisher`.
        key: A random key for the start vector.
        max_products: At most so many products; as many vectors like the parameters are held, unless:
        max_vectors: At most so many vectors are held, 7 or more. The run restarts from the vectors at both ends when
            memory is full, and needs more products; the bounds are those of the products before the first restart.
        two_pass: Hold 7 vectors, however many the products, and make each product twice; without re-orthogonalization,
            so the bounds are those of exact arithmetic.
        tolerance: Stop when both ends are known to this, relative to the larger of the two.
        delta: The probability that a bound is wrong.

    Raises:
        ArgumentRangeError: The matrix has NaN or infinite entries at this point, or a number is out of range.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: (1 - w[0] * w[1]) ** 2, jnp.zeros(2))
    >>> found = curvature.extreme_eigenvalues(matrix, key=jax.random.key(0))
    >>> round(found.smallest.value, 5), round(found.largest.value, 5)
    (-2.0, 2.0)
    """
    call = f"extreme_eigenvalues({errors.show(operator.apply)}, max_products={max_products})"
    memory = Memory(max_vectors, two_pass)
    budget = memory.budget(call, max_products, 2)
    key = vectors.check_key(call, key)
    start = vectors.random(key, operator.point.chosen)
    before = operator.products
    found = None
    for found in memory.steps(operator, start, key):
        if found.products >= budget or found.closed > 1 or converged(found, tolerance):
            break
    assert found is not None
    smallest, largest, _ = both_ends(operator, found, delta, start if two_pass else None)
    return Extremes(smallest, largest, operator.products - before, found.closed > 0)


class Memory(NamedTuple):
    """How many vectors a run may hold."""

    max_vectors: int | None
    two_pass: bool

    def steps(self, operator: Operator, start: Vector, key: jax.Array) -> Iterator[Krylov]:
        return short_steps(operator, start) if self.two_pass else krylov_steps(operator, start, key, self.max_vectors)

    def budget(self, call: str, max_products: int, checks: int) -> int:
        """The products of a run that ``checks`` other ones follow."""
        passes = 2 if self.two_pass else 1
        if self.max_vectors is not None and self.two_pass:
            raise errors.ArgumentTypeError(
                call,
                expected="either max_vectors or two_pass",
                got="both",
                cause="two passes hold seven vectors, whatever the products",
                fix=f"write max_vectors={max(self.max_vectors, LEAST_VECTORS)} alone",
            )
        if self.max_vectors is not None and self.max_vectors < LEAST_VECTORS:
            raise errors.ArgumentRangeError(
                call,
                expected=f"max_vectors of at least {LEAST_VECTORS}",
                got=str(self.max_vectors),
                cause="a restart needs vectors to go on from",
                fix="write two_pass=True, which holds seven",
            )
        check_budget(call, max_products, checks + passes)
        return (max_products - checks) // passes


def check_budget(call: str, max_products: int, least: int) -> None:
    if max_products < least:
        raise errors.ArgumentRangeError(
            call,
            expected=f"max_products of at least {least}",
            got=str(max_products),
            cause="the eigenvalues found are checked by a product each",
            fix="write max_products=100",
        )


def converged(found: Krylov, tolerance: float) -> bool:
    """Whether both ends stand still: residual, or its square over the gap to the next Ritz value, small enough.

    Source: Parlett 1998, theorem 11.7.1; residuals are ``|rest' s|`` here.
    """
    if found.products < 3:
        return False
    values, columns = ritz(found)
    scale = max(abs(values[0]), abs(values[-1]))
    for index in (0, -1):
        residual = abs(float(found.rest @ columns[:, index]))
        others = values[1:] if index == 0 else values[:-1]
        apart = np.abs(others - values[index])
        gap = max(float(np.min(apart[apart > residual], initial=math.inf)) - residual, residual)
        if not np.isfinite(gap):
            return False
        if min(residual, residual**2 / gap if gap else 0.0) > tolerance * scale:
            return False
    return True


def both_ends(
    operator: Operator, found: Krylov, delta: float, start: Vector | None
) -> tuple[End, End, tuple[Vector, Vector]]:
    """Both ends with residuals recomputed, and their products: two, and in a second pass, from ``start``, the run's.

    The basis is given up, as its memory is needed.
    """
    values, columns = ritz(found)
    columns = columns[:, [0, -1]]
    if start is None:
        units = ritz_vectors(found, columns)
        found.basis.clear()
    else:
        found.basis.clear()
        units = ritz_vectors_again(operator, start, columns)
    missed = missed_beyond(found, operator.dimension, float(values[-1] - values[0]), delta)
    ends, products = [], []
    for vector, sign in zip(units, (-1.0, 1.0), strict=True):
        product = multiply(operator, vector)
        length = vectors.norm(product)
        check_finite(operator, product, length)
        value = vectors.dot(vector, product) / vectors.dot(vector, vector)
        residual = vectors.norm(vectors.combine([1.0, -value], [product, vector]))
        ends.append(End(value, residual, value + sign * (missed + residual), operator.point.tree(vector)))
        products.append(product)
    return ends[0], ends[1], (products[0], products[1])


def missed_beyond(found: Krylov, dimension: int, spread: float, delta: float) -> float:
    """How far beyond the Ritz values an eigenvalue may lie, but for a probability of ``delta``.

    Zero after a closed subspace: the start has no part along whatever else there is, which has probability zero.
    """
    if found.closed:
        return 0.0
    share = kuczynski_wozniakowski(dimension, len(found.diagonal), delta / 2)
    return spread * share / (1 - 2 * share) if share < 0.5 else math.inf


def kuczynski_wozniakowski(dimension: int, products: int, delta: float) -> float:
    """The relative error that a Lanczos run exceeds with a probability of at most ``delta``."""
    if delta <= 0:
        return math.inf
    return (math.log(1.648 * math.sqrt(dimension) / delta) / (2 * products - 1)) ** 2

"""Trace and diagonal of a matrix that is known by its products."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.curvature import vectors
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.intervals import mean_interval
from gradtx.curvature.operators import Operator
from gradtx.curvature.probing import check_operator, on_sphere, precision, product_with, rademacher, unit

_CONFIDENCE = 0.95
_ROUNDING = 16  # times eps: what is left of a vector whose direction the basis has already
_SURE = 4  # times eps: how far the product with a unit vector may be off, relative to its length


class Estimate(NamedTuple):
    """A number estimated from random probes; host floats."""

    value: float
    error: float
    """The standard error; 0 where nothing is random."""
    products: int
    """Products with the matrix, all of them."""
    interval: tuple[float, float]
    """Where the exact value is, at a nominal 95 %: Student's t without the samples' skewness, and rounding."""


@errors.checked_call
def trace(
    operator: Operator,
    *,
    key: Any,
    max_products: errors.Count = 100,
    method: Literal["hutch++", "hutchinson"] = "hutch++",
) -> Estimate:
    """The sum of the eigenvalues, ``tr A = E x' A x`` over random ``x`` with ``E x x'`` the identity.

    ``"hutchinson"`` takes the mean over signs ``x`` (Hutchinson 1990). ``"hutch++"`` sums up what a few products have
    found of the large eigenvalues, and probes only the rest (Meyer, Musco, Musco and Woodruff 2021, algorithm 1)::

        Q = orth(A S),    tr A = tr(Q' A Q) + E x' A x,    x = sqrt(n - k) g / |g|,    g orthogonal to Q

    with a third of the products each for ``A S``, ``A Q`` and ``A x``. The probes are normalized (Epperly, Tropp and
    Webber 2024, section 2.3), so a multiple of the identity has no error at all. Where ``max_products`` reaches the
    dimension, the diagonal is summed up, and the trace is exact.

    Args:
        operator: From :func:`hessian`, :func:`gauss_newton` or :func:`fisher`.
        key: A random key.
        max_products: At most so many products, two or more; a third as many vectors like the parameters are held.
        method: The better one where few eigenvalues are large, as in a network's Hessian, is the default.

    Raises:
        ArgumentTypeError: ``operator`` is no matrix known by its products.
        ArgumentRangeError: The matrix has NaN or infinite entries at this point, or a number is out of range.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: jnp.sum(w**2), jnp.zeros(1000))
    >>> found = curvature.trace(matrix, key=jax.random.key(0), max_products=10)
    >>> round(found.value, 1), found.products
    (2000.0, 10)
    """
    call = f"trace(operator, max_products={max_products}, method={method!r})"
    check_operator(call, operator)
    key = vectors.check_key(call, key)
    like, dimension, before = operator.point.chosen, operator.dimension, operator.products
    if max_products >= dimension:
        parts = [_along(operator, unit(index, like)) for index in range(dimension)]
        value = math.fsum(part for part, _ in parts)
        rounding = _rounding(operator, [size for _, size in parts])
        return Estimate(value, 0.0, dimension, (value - rounding, value + rounding))
    if max_products < 2:
        raise errors.ArgumentRangeError(
            call,
            expected="max_products of at least 2",
            got=str(max_products),
            cause="one probe does not tell how far it is off",
            fix="write max_products=100",
        )
    basis: list[Vector] = []
    if method == "hutch++":
        basis = _range(operator, jax.random.fold_in(key, 0), (max_products - 1) // 3)
    parts = [_along(operator, vector) for vector in basis]
    samples, sizes = [], []
    while operator.products - before < max_products:
        one = jax.random.fold_in(key, 1 + len(samples))
        sample, size = _along(operator, on_sphere(one, like, basis) if method == "hutch++" else rademacher(one, like))
        samples.append(sample)
        sizes.append(size / max_products)
    captured = math.fsum(part for part, _ in parts)
    mean, error, (low, high) = mean_interval(samples, _CONFIDENCE)
    rounding = _rounding(operator, [size for _, size in parts] + sizes)
    interval = (captured + low - rounding, captured + high + rounding)
    return Estimate(captured + mean, error, operator.products - before, interval)


@errors.checked_call
def diagonal(operator: Operator, *, key: Any, max_products: errors.Count = 100) -> tuple[Any, Any]:
    """The diagonal, ``A_ii = E z_i (A z)_i`` over random signs ``z``: its mean over the probes, and standard errors.

    The variance of one probe is ``sum_{j != i} A_ij^2``, so a diagonal matrix has no error from the first probe on.
    Mean and deviations run along (Welford 1962), so nothing cancels. Where ``max_products`` reaches the dimension, the
    diagonal is exact, by the vectors of the standard basis.

    Source: Bekas, Kokiopoulou and Saad 2007, "An estimator for the diagonal of a matrix", section 2.

    Args:
        operator: From :func:`hessian`, :func:`gauss_newton` or :func:`fisher`.
        key: A random key.
        max_products: So many products; three vectors like the parameters are held.

    Returns:
        Two trees like the parameters, of at least float32, zero in the leaves that do not vary: the diagonal, and the
        standard error of each entry, NaN after a single probe.

    Raises:
        ArgumentTypeError, ArgumentRangeError: As in :func:`trace`.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: jnp.sum(w["a"] ** 2) + w["b"] ** 4, {"a": jnp.ones(9), "b": 1.0})
    >>> mean, error = curvature.diagonal(matrix, key=jax.random.key(0), max_products=2)
    >>> mean["a"][:3].tolist(), float(mean["b"]), float(error["b"])
    ([2.0, 2.0, 2.0], 12.0, 0.0)
    """
    call = f"diagonal(operator, max_products={max_products})"
    check_operator(call, operator)
    key = vectors.check_key(call, key)
    like, dimension = operator.point.chosen, operator.dimension
    exact = max_products >= dimension
    count = min(max_products, dimension)
    mean = spread = tuple(map(jnp.zeros_like, rademacher(key, like)))
    for index in range(count):
        probe = unit(index, like) if exact else rademacher(jax.random.fold_in(key, index), like)
        product, _ = product_with(operator, probe)
        if exact:
            mean = _add_product(mean, probe, product)
        else:
            mean, spread = _welford(mean, spread, probe, product, float(index + 1))
    if not exact:
        scale = 1 / math.sqrt((count - 1) * count) if count > 1 else math.nan
        spread = vectors.combine([scale], [spread])
    return operator.point.tree(mean), operator.point.tree(spread)


def _range(operator: Operator, key: jax.Array, count: int) -> list[Vector]:
    """An orthonormal basis of what the matrix makes of ``count`` Gaussian vectors, without what is there already."""
    like = operator.point.chosen
    eps = float(jnp.finfo(jnp.result_type(jnp.float32, *like)).eps)
    basis: list[Vector] = []
    for index in range(count):
        product, length = product_with(operator, vectors.random(jax.random.fold_in(key, index), like))
        rest = vectors.project_out(product, basis) if basis else product
        remains = vectors.norm(rest)
        if remains > _ROUNDING * eps * length:
            basis.append(vectors.combine([1 / remains], [rest]))
    return basis


def _along(operator: Operator, vector: Vector) -> tuple[float, float]:
    """``v' A v``, and ``|v| |A v|``, to which its rounding is relative."""
    product, length = product_with(operator, vector)
    return vectors.dot(vector, product), vectors.norm(vector) * length


def _rounding(operator: Operator, sizes: list[float]) -> float:
    """Of a sum of terms of these sizes; their errors are independent."""
    return _SURE * precision(operator) * math.hypot(*sizes)


@jax.jit
def _add_product(total: Vector, x: Vector, y: Vector) -> Vector:
    return tuple(t + a * b for t, a, b in zip(total, x, y, strict=True))


@jax.jit
def _welford(mean: Vector, spread: Vector, x: Vector, y: Vector, count: jax.Array) -> tuple[Vector, Vector]:
    """The mean of ``x y`` and the root of its sum of squared deviations, one sample further; no square overflows."""
    away = tuple(a * b - m for a, b, m in zip(x, y, mean, strict=True))
    further = tuple(m + d / count for m, d in zip(mean, away, strict=True))
    return further, tuple(jnp.hypot(s, d * jnp.sqrt(1 - 1 / count)) for s, d in zip(spread, away, strict=True))

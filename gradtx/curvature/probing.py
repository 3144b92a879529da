"""Random vectors to probe a matrix with, and a product that is known to be finite."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.curvature import vectors
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.lanczos import check_finite
from gradtx.curvature.operators import Operator, multiply
from gradtx.tree import wide_dtype


def rademacher(key: jax.Array, like: Vector) -> Vector:
    """Independent entries of plus or minus 1, the same in every sharding."""
    drawn = []
    for index, leaf in enumerate(like):
        drawn.append(jax.random.rademacher(jax.random.fold_in(key, index), leaf.shape, wide_dtype(leaf.dtype)))
    return vectors.placed(tuple(drawn), like)


def on_sphere(key: jax.Array, like: Vector, basis: list[Vector]) -> Vector:
    """Uniform among the vectors orthogonal to an orthonormal ``basis``, so long that ``E x x'`` is the identity there.

    In ``d`` dimensions ``x' B x`` has the mean ``tr B`` and the variance ``2 d / (d + 2) sum_i (lambda_i - mean)^2``:
    that of a Gaussian vector is ``2 sum_i lambda_i^2``.
    """
    vector = vectors.project_out(vectors.random(key, like), basis)
    length = math.sqrt(vectors.size(like) - len(basis))
    return vectors.combine([length / vectors.norm(vector)], [vector])


def unit(index: int, like: Vector) -> Vector:
    """The vector of the standard basis with a one at ``index`` of all entries."""
    leaves = []
    for leaf in like:
        size = int(np.prod(leaf.shape, dtype=np.int64))
        entries = np.zeros(size, wide_dtype(leaf.dtype))
        entries[index : index + 1] = 1 if index >= 0 else 0
        leaves.append(jnp.asarray(entries.reshape(leaf.shape)))
        index -= size
    return vectors.placed(tuple(leaves), like)


def product_with(operator: Operator, vector: Vector) -> tuple[Vector, float]:
    """``A v`` and its length; raises where it is not finite."""
    product = multiply(operator, vector)
    length = vectors.norm(product)
    check_finite(operator, product, length)
    return product, length


def precision(operator: Operator) -> float:
    """The rounding unit of the dtypes that products are computed in."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in operator.point.chosen)


def check_operator(call: str, operator: Any) -> None:
    if isinstance(operator, Operator):
        return
    raise errors.ArgumentTypeError(
        call,
        expected="operator must be a matrix known by its products",
        got=f"{type(operator).__name__} {errors.show(operator)}",
        cause="the loss or the parameters were given",
        fix="write operator = curvature.hessian(loss, params, batch)",
    )

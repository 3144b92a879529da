"""Second moments of matrices kept as a row and a column, and steps scaled by how much they are to be trusted."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import FactorTree, GradientTransformation, Nested, Pair, compose, record_of, transformation
from gradtx.transforms.moments import ema, finite_square, square_root


class FactoredMeanSquareState(NamedTuple):
    row: FactorTree
    column: FactorTree


@transformation(locality="leaf")
def factored_mean_square(decay: errors.Decay, *, eps: errors.Epsilon = 1e-30) -> GradientTransformation:
    """``u = v = row * column / mean(row)``, moving averages of the means of ``g^2 + eps`` along the two longest axes.

    For a matrix as wide as it is high, or wider, ``row <- decay * row + (1 - decay) * mean(g^2 + eps, axis=-1)``, and
    ``column`` the same along axis -2: for a matrix of
    rank one of squares ``v`` is exact. Of leaves with fewer than two axes every element is kept, in ``row``. State: for
    ``n x m`` weights ``n + m`` float32 numbers.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 2; Luo et al. 2023, arXiv:2307.02047, algorithm 2.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.factored_mean_square(0.0)
    >>> v, _ = tx.update(jnp.array([[1.0, 2.0], [2.0, 4.0]]), tx.init(jnp.zeros((2, 2))))
    >>> print(v.round(4))
    [[ 1.  4.]
     [ 4. 16.]]
    """

    def init(param):
        return FactoredMeanSquareState(*factors_of(jnp.zeros_like(param.real)))

    def update(update, state):
        new = factors_of(squares_above(update, eps))
        row, column = averaged_factors((state.row, state.column), new, 1.0 - decay)
        return product_of_factors(row, column, update.shape), FactoredMeanSquareState(row, column)

    return GradientTransformation(init, update)


Factors = tuple[Any, Any]
"""Means along two axes, each of which stands as an axis of length 1; or everything, and None."""


def factors_of(x: jax.Array, smallest: int | None = 0) -> Factors:
    """The means of ``x`` along the longest of its axes and the next, of equal ones the last; ``x`` where it has no two.

    They are the last two of a matrix, and of the kernel of a convolution with more channels than width. Where the
    shorter of them is shorter than ``smallest``, or without one, everything is kept.
    """
    if x.ndim < 2 or smallest is None or x.shape[_two_longest(x.shape)[0]] < smallest:
        return x, None
    shorter, longest = _two_longest(x.shape)
    return _along(x, longest), _along(x, shorter)


def _two_longest(shape: tuple[int, ...]) -> list[int]:
    """The second longest and the longest axis; of equal ones the last."""
    return sorted(range(len(shape)), key=lambda axis: shape[axis])[-2:]


def averaged_factors(old: Factors, new: Factors, share: Any) -> Factors:
    """``old + share * (new - old)``."""
    return jax.tree.map(lambda old, new: old + share * (new - old), old, new)


def product_of_factors(row: jax.Array, column: Any, shape: tuple[int, ...]) -> jax.Array:
    """``row * column / mean(row)``, of the shape of what was averaged."""
    if column is None:
        return row
    mean = _along(row, _two_longest(shape)[0])
    return row / jnp.maximum(mean, jnp.finfo(row.dtype).tiny) * column


def squares_above(g: jax.Array, eps: Any) -> jax.Array:
    """``|g|^2 + eps``, which saturates."""
    squares = finite_square(g)
    return jnp.where(jnp.isfinite(squares), jnp.minimum(squares, jnp.finfo(squares.dtype).max - eps) + eps, squares)


def _along(x: jax.Array, axis: int) -> jax.Array:
    """The mean, its parts added after the division: a sum of squares would overflow."""
    return jnp.sum(x / max(x.shape[axis], 1), axis=axis, keepdims=True)


class ScaleByConfidenceState(NamedTuple):
    mean: Nested
    instability: Nested


@transformation
def scale_by_confidence(
    b1: errors.Decay = 0.9, b3: errors.Decay = 0.9999, eps: errors.Epsilon = 1e-16
) -> GradientTransformation:
    """``u = m / sqrt(s)``, ``m`` the moving average of ``g``, ``s`` the factored one of ``(g - m)^2 + eps``.

    Steps whose average agrees with what is averaged are long, others short. Leaves with fewer than two axes take ``m``
    itself: the paper's algorithm is one of matrices. State: one float32 number per parameter, and for ``n x m`` weights
    ``n + m`` more.

    Source: Luo et al. 2023, arXiv:2307.02047, algorithm 2, from its momentum on; vectors as in its code.
    """
    spread = chain(factored_mean_square(b3, eps=eps), square_root())

    def body(parts: Mapping[str, Pair]) -> Pair:
        averaged, instability = parts["mean"], parts["instability"]

        def init(param):
            mean_state = averaged.init(param)  # first: it refuses what is no array of floating-point numbers
            return ScaleByConfidenceState(mean_state, None if param.ndim < 2 else instability.init(param))

        def update(update: jax.Array, state: Any, param: Any, signals: Any):
            mean, mean_state = averaged.update(update, state.mean, param, signals)
            if update.ndim < 2:
                return mean, ScaleByConfidenceState(mean_state, None)
            root, kept = instability.update(update - mean, state.instability, param, signals)
            smallest = 2.0 ** -(jnp.finfo(root.dtype).maxexp // 2 - 1)
            return mean / jnp.maximum(root, smallest), ScaleByConfidenceState(mean_state, kept)

        return Pair(init, update)

    return compose({"mean": record_of(ema(b1)), "instability": record_of(spread)}, body)

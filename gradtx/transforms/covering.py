"""Sums of squares of matrices kept as one number per row and per column: the largest that each of them covers."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain, ratio
from gradtx.core import FactorTree, GradientTransformation, transformation
from gradtx.transforms.moments import ema, finite_square, square_root
from gradtx.transforms.scaling import identity


class CoveredSumOfSquaresState(NamedTuple):
    cover: FactorTree


@transformation(locality="leaf")
def covered_sum_of_squares(decay: errors.Decay | None = None) -> GradientTransformation:
    """``u = v = min_k c_k + g^2``, then ``c_k <- max(v)`` over all axes but ``k``: a bound on the sum of squares.

    One ``c_k`` for each axis: for an ``n x m`` matrix ``n + m`` numbers that are never below the sums that they stand
    for. Leaves with fewer than two axes keep the sum itself. With a ``decay`` old squares fade, ``v = decay *
    min_k c_k + (1 - decay) * g^2``. Sums saturate. State: for ``n x m`` weights ``n + m`` float32 numbers.

    Source: Anil et al. 2019, arXiv:1901.11150, algorithm 2 (SM3-II).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.covered_sum_of_squares()
    >>> g = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> _, state = tx.update(g, tx.init(jnp.zeros((2, 2))))
    >>> tx.update(0 * g, state)[0].tolist()
    [[4.0, 4.0], [9.0, 16.0]]
    """

    def covers(v: jax.Array) -> Any:
        axes = range(v.ndim)
        if v.ndim < 2:
            return v
        others = {axis: tuple(k for k in axes if k != axis) for axis in axes}
        initial = None if v.size else 0.0
        return {f"axis_{axis}": jnp.max(v, others[axis], keepdims=True, initial=initial) for axis in axes}

    def init(param):
        return CoveredSumOfSquaresState(covers(jnp.zeros_like(param.real)))

    def update(update, state):
        squares = finite_square(update)
        so_far = functools.reduce(jnp.minimum, state.cover.values()) if update.ndim > 1 else state.cover
        v = so_far + squares if decay is None else so_far + (1.0 - decay) * (squares - so_far)
        v = jnp.where(jnp.isfinite(squares), jnp.minimum(v, jnp.finfo(v.dtype).max), squares)
        return v, CoveredSumOfSquaresState(covers(v))

    return GradientTransformation(init, update)


@transformation
def scale_by_sm3(
    b1: errors.Decay = 0.9, b2: errors.Fraction = 1.0, eps: errors.Epsilon = 1e-8
) -> GradientTransformation:
    """``u = m <- b1 * m + (1 - b1) * g / sqrt(v + eps)`` with the :func:`covered_sum_of_squares` ``v`` of decay ``b2``.

    With ``b2 = 1`` the sum itself: AdaGrad, with momentum, in the memory of momentum alone. State: one float32 number
    per parameter, and for ``n x m`` weights ``n + m`` more.

    Source: Anil et al. 2019, arXiv:1901.11150, algorithm 2 (SM3-II).
    """
    root = chain(covered_sum_of_squares(None if b2 == 1.0 else b2), square_root(eps=eps))
    return chain(ratio(identity(), root, eps=0.0), ema(b1))

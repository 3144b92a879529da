"""Mean squares that remember longer the longer they run, factored for large matrices."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain, ratio
from gradtx.core import (
    Counter,
    FactorTree,
    Functions,
    GradientTransformation,
    SignedScalar,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.factored import averaged_factors, factors_of, product_of_factors, squares_above
from gradtx.transforms.moments import square_root
from gradtx.transforms.scaling import identity


class FadingMeanSquareState(NamedTuple):
    step: Counter
    share: SignedScalar
    row: FactorTree
    column: FactorTree


@transformation(locality="leaf")
def fading_mean_square(
    decay_rate: errors.NonNegative = 0.8,
    step_offset: errors.Index = 0,
    *,
    factored: bool = True,
    min_dim_size_to_factor: errors.Index = 128,
    eps: errors.Epsilon = 1e-30,
) -> Functions:
    """``u = v <- (1 - a) * v + a * (g^2 + eps)`` with the share ``a = (t - step_offset)^-decay_rate``.

    ``t = 1, 2, ...``. It needs no correction: the first share is 1 (as are those up to ``step_offset``, the number of
    steps of an earlier run whose parameters this one goes on with), and ``decay_rate=1`` is the plain mean. With
    ``factored``, leaves whose two largest axes are both at least ``min_dim_size_to_factor`` long keep ``v`` as
    :func:`factored_mean_square` does. State: for ``n x m`` weights ``n + m`` float32 numbers, or ``n * m``.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5, section 7.2.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.fading_mean_square(1.0, eps=0.0)
    >>> state = tx.init(jnp.zeros(1))
    >>> for g in (1.0, 3.0):
    ...     v, state = tx.update(jnp.array([g]), state)
    >>> v.tolist()
    [5.0]
    """
    smallest = min_dim_size_to_factor if factored else None

    def init(param):
        row, column = factors_of(jnp.zeros_like(param.real), smallest)
        return FadingMeanSquareState(first_step(), jnp.zeros((), jnp.float32), row, column)

    def advance(state):
        step = next_step(state.step)
        since = jnp.maximum(step - step_offset, 1).astype(jnp.float32)
        return state._replace(step=step, share=since ** (-decay_rate))

    def update(update, state):
        new = factors_of(squares_above(update, eps), smallest)
        row, column = averaged_factors((state.row, state.column), new, state.share)
        return product_of_factors(row, column, update.shape), state._replace(row=row, column=column)

    return init, update, advance


@transformation
def scale_by_factored_rms(
    factored: bool = True,
    decay_rate: errors.NonNegative = 0.8,
    step_offset: errors.Index = 0,
    min_dim_size_to_factor: errors.Index = 128,
    epsilon: errors.Epsilon = 1e-30,
) -> GradientTransformation:
    """``u = g / sqrt(v)`` with the :func:`fading_mean_square` ``v`` of these arguments; ``epsilon`` is its ``eps``.

    For another decay than ``1 - t^-decay_rate`` write ``ratio(identity(), chain(factored_mean_square(decay),
    square_root()), eps=0.0)`` with any schedule.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5.
    """
    second = fading_mean_square(
        decay_rate, step_offset, factored=factored, min_dim_size_to_factor=min_dim_size_to_factor, eps=epsilon
    )
    return ratio(identity(), chain(second, square_root()), eps=0.0)

"""Gradient descent, with and without momentum."""

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import GradientTransformation, transformation
from gradtx.transforms import scale_by_learning_rate, scale_by_momentum


@transformation
def sgd(
    learning_rate: errors.NonNegative, momentum: errors.Decay | None = None, nesterov: bool = False
) -> GradientTransformation:
    """``u = -learning_rate * m`` with ``m = g``, or with ``momentum`` the heavy ball ``m <- g + momentum * m``.

    ``nesterov`` looks one step ahead. State: nothing, or one float32 number per parameter.

    Source: Robbins and Monro 1951; Polyak 1964; Sutskever et al. 2013, ICML 28.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.sgd(0.5)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [-0.5]
    """
    accumulate = [] if momentum is None else [scale_by_momentum(momentum, nesterov)]
    return chain(*accumulate, scale_by_learning_rate(learning_rate))

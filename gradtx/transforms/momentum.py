"""Momentum: the accumulated movement of earlier steps, and the sign of its average."""

from typing import NamedTuple

import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain
from gradtx.core import GradientTransformation, SignedTree, transformation
from gradtx.transforms.moments import ema
from gradtx.transforms.scaling import scale_by_sign


class MomentumState(NamedTuple):
    momentum: SignedTree


@transformation(locality="elementwise")
def scale_by_momentum(decay: errors.Decay, nesterov: bool = False) -> GradientTransformation:
    """Heavy ball ``m <- g + decay * m``, ``u = m``; with ``nesterov``, ``u = g + decay * m`` with the new ``m``.

    Optax calls it ``trace``. Behind ``scale_by_learning_rate`` instead of before it, it accumulates movements:
    ``m <- decay * m - learning_rate * g``. State: one float32 number per parameter. A constant gradient ``g`` ends at
    ``g / (1 - decay)``.

    Source: Polyak 1964; Sutskever et al. 2013, ICML 28, equations 1-4 (in the form with the look-ahead folded in).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_momentum(0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> for _ in range(2):
    ...     u, state = tx.update(jnp.array([1.0]), state)
    >>> u.tolist()
    [1.5]
    """

    def init(param):
        return MomentumState(jnp.zeros_like(param))

    def update(update, state):
        momentum = update + decay * state.momentum
        return (update + decay * momentum if nesterov else momentum), MomentumState(momentum)

    return GradientTransformation(init, update)


@transformation
def scale_by_lion(b1: errors.Decay = 0.9, b2: errors.Decay = 0.99) -> GradientTransformation:
    """``u = sign(b1 * m + (1 - b1) * g)`` with the old ``m``, then ``m <- b2 * m + (1 - b2) * g``.

    ``clip(1.0)`` in place of the sign is linear near zero: ``chain(ema(b2, output_decay=b1), clip(1.0))``. State: one
    float32 number per parameter.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.
    """
    return chain(ema(b2, output_decay=b1), scale_by_sign())

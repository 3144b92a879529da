"""Pulling weights towards zero."""

from gradtx import errors
from gradtx.combinators import masked
from gradtx.combinators.selecting import Where
from gradtx.core import EmptyState, GradientTransformation, transformation


@transformation(locality="elementwise")
def add_decayed_weights(weight_decay: errors.NonNegative = 0.0, mask: Where | None = None) -> GradientTransformation:
    """Decoupled weight decay ``u = g + weight_decay * p``, for the leaves that ``mask`` selects (all without one).

    After the adaptive scaling and before the learning rate it is AdamW's; it needs the parameters.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, line 12.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.add_decayed_weights(0.5)
    >>> params = jnp.array([2.0])
    >>> tx.update(jnp.array([1.0]), tx.init(params), params)[0].tolist()
    [2.0]
    """
    if mask is not None:
        return masked(add_decayed_weights(weight_decay), mask)

    def init(param):
        del param
        return EmptyState()

    def update(update, state, param):
        return update + weight_decay * param, state

    return GradientTransformation(init, update)

"""Giving updates a norm or a mean: that of the parameters, one, zero."""

import functools
import math

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import EmptyState, GradientTransformation, stateless, transformation
from gradtx.transforms.magnitudes import Axes, halving, input_axes, magnitude, norm, root, scaled_norm
from gradtx.tree import squared_norm


@transformation(locality="leaf")
def scale_by_trust_ratio(
    min_norm: errors.NonNegative = 0.0, trust_coefficient: errors.NonNegative = 1.0, eps: errors.Epsilon = 0.0
) -> GradientTransformation:
    """``u = g * trust_coefficient * ||p|| / (||g|| + eps)`` for each leaf: steps as long as its parameters are large.

    A norm below ``min_norm`` counts as ``min_norm``. Where either norm is 0 (parameters that start at zero could never
    move) the ratio is 1. The norms are right over the whole range of float32. It needs the parameters.

    Source: You, Gitman and Ginsburg 2017, arXiv:1708.03888, equation 6; You et al. 2020, arXiv:1904.00962, algorithm 2.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_trust_ratio()
    >>> params = jnp.array([6.0, 8.0])
    >>> tx.update(jnp.array([0.0, 1e30]), tx.init(params), params)[0].tolist()
    [0.0, 10.0]
    """

    def init(param):
        del param
        return EmptyState()

    def update(update, state, param):
        h, length = scaled_norm(update)
        param_norm = jnp.maximum(norm(param), min_norm)
        update_norm = jnp.maximum(length, min_norm * h * h) + eps * h * h
        undefined = (param_norm == 0) | (update_norm == 0)
        ratio = trust_coefficient * param_norm / jnp.where(undefined, 1.0, update_norm)
        return jnp.where(undefined, update, (update * h) * (ratio * h)), state

    return GradientTransformation(init, update)


@transformation(locality="tree")
def normalize_by_update_norm(scale_factor: errors.Real = 1.0, eps: errors.Epsilon = 1e-6) -> GradientTransformation:
    """``u = scale_factor * g / (||g|| + eps)`` with the Euclidean norm over all leaves; 0 for a zero gradient.

    The norm is right over the whole range of float32, at the price of one pass more over the gradients.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.normalize_by_update_norm(eps=0.0)
    >>> updates, _ = tx.update(jnp.array([3e-30, 4e-30]), tx.init(None))
    >>> [round(float(u), 4) for u in updates]
    [0.6, 0.8]
    """

    def rescale(updates):
        if not jax.tree.leaves(updates):
            return updates
        h = halving(functools.reduce(jnp.maximum, [magnitude(leaf) for leaf in jax.tree.leaves(updates)]))
        length = root(squared_norm(jax.tree.map(lambda leaf: _times(leaf, h * h), updates))) + eps * h * h
        factor = scale_factor / jnp.where(length == 0, 1.0, length) * h
        return jax.tree.map(lambda leaf: _times(_times(leaf, h), factor), updates)

    return stateless(rescale)


@jax.jit
def _times(x: jax.Array, factor: jax.Array) -> jax.Array:
    return x * factor.astype(x.real.dtype)


@transformation(locality="leaf")
def centralize(axis: Axes = None) -> GradientTransformation:
    """``u = g - mean(g)``, the mean taken over ``axis``: over the weights that lead into each unit.

    Without ``axis`` these are the axes of the inputs, as JAX's layers order them: axis 0 of two or three, all but the
    last of four or five. Leaves of fewer than two axes pass, and so do those with one input, whose gradient is its own
    mean. (Optax's function of this name takes the mean over all axes but the first: the inputs in PyTorch's layout,
    ``axis=1`` for a matrix.)

    Raises ``ShapeError`` for more than five axes without ``axis``, and for an axis that a leaf does not have.

    Source: Yong et al. 2020, arXiv:2004.01461, equation 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.centralize()
    >>> tx.update(jnp.array([[1.0, 2.0], [3.0, 6.0]]), tx.init(None))[0].tolist()
    [[-1.0, -2.0], [1.0, 2.0]]
    """

    def init(param):
        input_axes(param, axis)
        return EmptyState()

    def update(update, state):
        axes = input_axes(update, axis)
        inputs = math.prod(update.shape[index] for index in axes)
        if update.ndim < 2 or inputs < 2:
            return update, state
        return update - jnp.sum(update / inputs, axes, keepdims=True), state

    return GradientTransformation(init, update)

"""Bounding updates: each element, or the norm of a leaf, of what leads into one unit, or of all."""

import math

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import EmptyState, GradientTransformation, stateless, transformation
from gradtx.transforms.magnitudes import Axes, input_axes, limited, norm
from gradtx.tree import cut, squared_norm

# The root of what overflows float32. (Scaling before squaring would avoid the overflow, but the compiler then keeps a
# broadcast scale in memory for each shape: 1.25 passes more over the gradients.)
LARGEST_NORM = 2.0**64


@transformation(locality="elementwise", real=True)
def clip(max_delta: errors.NonNegative) -> GradientTransformation:
    """``u = min(max(g, -max_delta), max_delta)``, elementwise.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.clip(1.0)
    >>> tx.update(jnp.array([-3.0, 0.5]), tx.init(jnp.zeros(2)))[0].tolist()
    [-1.0, 0.5]
    """
    return stateless(lambda update: jnp.clip(update, -max_delta, max_delta))


@transformation(locality="tree")
def clip_by_global_norm(max_norm: errors.Positive) -> GradientTransformation:
    """``u = g * min(1, max_norm / ||g||)`` with the Euclidean norm over all leaves.

    Gradients within the limit pass bit for bit, a zero gradient too. The norm takes one pass. Where it overflows
    float32, above ``2^64``, each of the ``n`` elements is cut at ``2^64 / sqrt(n)`` and the result, whose norm is then
    at most ``2^64``, scaled by ``max_norm / 2^64``: exact for equal elements, otherwise a shorter step of the same
    signs. Infinities and NaN stay visible.

    Source: Pascanu, Mikolov and Bengio 2013, arXiv:1211.5063, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.clip_by_global_norm(1.0)
    >>> updates, _ = tx.update({"w": jnp.array([3.0]), "b": jnp.array([4.0])}, tx.init(None))
    >>> print(updates["w"])
    [0.6]
    """

    def rescale(updates):
        norm = jnp.sqrt(squared_norm(updates))
        size = sum(leaf.size for leaf in jax.tree.leaves(updates))
        overflows = jnp.isinf(norm)
        factor = jnp.where(norm > max_norm, max_norm / jnp.where(overflows, LARGEST_NORM, norm), 1.0)
        bound = jnp.where(overflows, LARGEST_NORM / math.sqrt(max(size, 1)), jnp.inf)
        return jax.tree.map(lambda g: _cut_and_scale(g, bound, factor), updates)

    return stateless(rescale)


@jax.jit
def _cut_and_scale(g: jax.Array, bound: jax.Array, factor: jax.Array) -> jax.Array:
    return cut(g, bound) * factor


@transformation(locality="leaf")
def clip_by_block_norm(max_norm: errors.Positive) -> GradientTransformation:
    """``u = g * min(1, max_norm / ||g||)`` with the Euclidean norm of each leaf.

    Gradients within the limit pass bit for bit; the norm is right over the whole range of float32.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.clip_by_block_norm(1.0)
    >>> updates, _ = tx.update(jnp.array([3e30, 4e30]), tx.init(None))
    >>> [round(float(u), 4) for u in updates]
    [0.6, 0.8]
    """
    return stateless(lambda update: limited(update, max_norm))


@transformation(locality="leaf")
def clip_by_block_rms(threshold: errors.Positive) -> GradientTransformation:
    """``u = g / max(1, RMS(g) / threshold)`` with the root mean square of each leaf.

    Gradients within the limit pass bit for bit; the root mean square is right over the whole range of float32.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, section 6, where it clips Adafactor's updates at 1.
    """
    return stateless(lambda update: limited(update, threshold * math.sqrt(update.size)))


@transformation(locality="leaf")
def adaptive_grad_clip(
    clipping: errors.Positive, eps: errors.Epsilon = 1e-3, axis: Axes = None
) -> GradientTransformation:
    """``u = g * min(1, clipping * max(||p||, eps) / ||g||)``, with the norms of the weights that lead into one unit.

    Without ``axis`` these are the axes of the inputs, as JAX's layers order them: axis 0 of two or three, all but the
    last of four or five; a vector, also one with further axes of length 1, is one unit. It needs the parameters.
    Gradients within the limit pass bit for bit; the norms are right over the whole range of float32.

    Raises ``ShapeError`` for more than five axes without ``axis``, and for an axis that a leaf does not have.

    Source: Brock et al. 2021, arXiv:2102.06171, equation 3.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.adaptive_grad_clip(0.5)
    >>> params = jnp.array([[2.0, 0.0], [0.0, 4.0]])
    >>> tx.update(jnp.array([[3.0, 0.0], [0.0, 0.25]]), tx.init(params), params)[0].tolist()
    [[1.0, 0.0], [0.0, 0.25]]
    """

    def axes_of(x):
        is_vector = axis is None and sum(length > 1 for length in x.shape) <= 1
        return None if is_vector else input_axes(x, axis)

    def init(param):
        axes_of(param)
        return EmptyState()

    def update(update, state, param):
        axes = axes_of(update)
        return limited(update, clipping * jnp.maximum(norm(param, axes), eps), axes), state

    return GradientTransformation(init, update)

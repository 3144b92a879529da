"""Gradients of single examples: clipped, added up, and the mean made private by noise.

Every leaf has one axis more than its parameter, the first, along which are the examples, as
``jax.vmap(jax.grad(loss), (None, 0))(params, batch)`` gives them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import Counter, Functions, Key, first_step, kept_key, next_step, transformation
from gradtx.transforms.magnitudes import halving, magnitude, root
from gradtx.tree import is_inexact, leaf_seeds, of_one_example, square, widen


@errors.checked_call
def per_example_global_norm_clip(grads: Any, l2_norm_clip: errors.NonNegativeNumber) -> tuple[Any, jax.Array]:
    """The sum of the gradients of examples, each of them limited in norm, and how many were longer::

        s = sum_i g_i * min(1, l2_norm_clip / ||g_i||)

    with the Euclidean norm over all leaves. A gradient within the limit enters bit for bit. The norms are right over
    the whole range of float32 (Optax's are inf from 2e19, and what they clip then is 0).

    Args:
        grads: A tree of real or complex arrays, ``[examples, ...]``.
        l2_norm_clip: The largest norm of a term, a number that may be traced.

    Returns:
        The sum, a tree of arrays ``[...]`` in float32 or wider, and an int32 scalar.

    Raises:
        ShapeError: The leaves have no first axis of one length.
        ArgumentRangeError, ArgumentTypeError: A limit that is negative, not finite or no number.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.

    >>> import gradtx, jax.numpy as jnp
    >>> total, count = gradtx.per_example_global_norm_clip({"w": jnp.array([[3.0, 4.0], [0.5, 0.0]])}, 1.0)
    >>> [round(float(w), 4) for w in total["w"]], int(count)
    ([1.1, 0.8], 1)
    """
    of_one_example("per_example_global_norm_clip(grads, ...)", grads)
    clipped, is_longer = _clipped(jax.tree.map(_floating, grads), l2_norm_clip)
    return jax.tree.map(lambda g: jnp.sum(g, 0), clipped), jnp.sum(is_longer, dtype=jnp.int32)


@errors.checked_call
def per_example_layer_norm_clip(
    grads: Any, global_l2_norm_clip: errors.NonNegativeNumber, uniform: bool = True
) -> tuple[Any, Any]:
    """:func:`per_example_global_norm_clip` of each leaf by itself, with limits ``C_k`` that together make one of all::

        C_k = global_l2_norm_clip / sqrt(K)            of K leaves, or else
        C_k = global_l2_norm_clip * sqrt(D_k / D)      by the number of parameters D_k of the leaf, D of all

    Returns the tree of sums and the tree of counts, int32 scalars.

    Source: McMahan et al. 2018, arXiv:1710.06963 ("per-layer clipping").

    >>> import gradtx, jax.numpy as jnp
    >>> grads = [jnp.array([[3.0, 4.0]]), jnp.array([[0.5]])]
    >>> total, count = gradtx.per_example_layer_norm_clip(grads, 2.0**0.5)
    >>> [round(float(g), 4) for leaf in total for g in leaf], [int(leaf) for leaf in count]
    ([0.6, 0.8, 0.5], [1, 0])
    """
    of_one_example("per_example_layer_norm_clip(grads, ...)", grads)
    leaves, treedef = jax.tree.flatten(jax.tree.map(_floating, grads))
    sizes = [math.prod(leaf.shape[1:]) for leaf in leaves]
    shares = [1 / len(leaves) if uniform else size / max(sum(sizes), 1) for size in sizes]
    limited = [
        _clipped(leaf, global_l2_norm_clip * math.sqrt(share)) for leaf, share in zip(leaves, shares, strict=True)
    ]
    sums = [jnp.sum(g, 0) for g, _ in limited]
    counts = [jnp.sum(is_longer, dtype=jnp.int32) for _, is_longer in limited]
    return treedef.unflatten(sums), treedef.unflatten(counts)


class PrivateAggregateState(NamedTuple):
    step: Counter
    key: Key


@transformation(locality="tree", per_example=True)
def differentially_private_aggregate(
    l2_norm_clip: errors.Positive, noise_multiplier: errors.NonNegative, key: Any
) -> Functions:
    """The mean over ``B`` examples of their gradients, each of them limited in norm, and noise::

        u = (sum_i g_i * min(1, l2_norm_clip / ||g_i||) + l2_norm_clip * noise_multiplier * N(0, 1)) / B

    Its updates are the gradients of the examples, with an axis of length ``B`` before those of the parameters, and come
    out without it: it is the first part of the outermost chain (elsewhere ``ArgumentTypeError``, at construction).
    ``key`` is a whole number, or a key of ``jax.random``; the noise of a leaf is drawn from the key, the step and the
    leaf's path. Both parts of a complex number get noise of this deviation. State: one key, as raw data, and a counter.

    What it guarantees: one example more or less moves the sum by at most ``l2_norm_clip``, so a step is a Gaussian
    mechanism with noise ``noise_multiplier`` times the sensitivity. How private a whole run is depends on how batches
    are drawn and on the number of steps, which an accountant has to count (Poisson sampling, and a division by the
    *expected* length of a batch, for the theorem of the paper). The key must stay secret.

    The memory is that of ``B`` gradients; with less, add up parts of the batch by
    :func:`per_example_global_norm_clip`, divide by ``B``, and begin the chain with
    ``add_noise(eta=(l2_norm_clip * noise_multiplier / B) ** 2, gamma=0.0, key=key)``, which is the same noise.

    Raises ``ArgumentTypeError`` for what is no key, ``ShapeError`` for gradients without the axis of examples.

    Source: Abadi et al. 2016, arXiv:1607.00133, algorithm 1.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.differentially_private_aggregate(1.0, noise_multiplier=0.0, key=0)
    >>> grads = jax.vmap(jax.grad(lambda w, x: w @ x), (None, 0))(jnp.zeros(2), jnp.array([[3.0, 4.0], [0.6, 0.0]]))
    >>> [round(float(u), 4) for u in tx.update(grads, tx.init(jnp.zeros(2)))[0]]
    [0.6, 0.4]
    """
    words, typed = kept_key("differentially_private_aggregate", key)

    def init(params):
        del params
        return PrivateAggregateState(first_step(), words())

    def update(updates, state):
        step = next_step(state.step)
        of_step = jax.random.fold_in(typed(state.key), step)
        leaves, treedef = jax.tree.flatten(_clipped(updates, l2_norm_clip)[0])
        deviation = jnp.asarray(l2_norm_clip * noise_multiplier, jnp.float32)
        return treedef.unflatten(
            [
                _with_noise(g, deviation, jax.random.fold_in(of_step, seed))
                for g, seed in zip(leaves, leaf_seeds(updates), strict=True)
            ]
        ), PrivateAggregateState(step, state.key)

    return init, update


@jax.jit
def _with_noise(g: jax.Array, deviation: jax.Array, key: jax.Array) -> jax.Array:
    examples, shape = g.shape[0], g.shape[1:]
    noise = jax.random.normal(key, shape, g.dtype)  # of variance 1, a complex one of 1/2 in each part
    spread = deviation.astype(g.real.dtype) * (math.sqrt(2.0) if jnp.iscomplexobj(g) else 1.0)
    return jnp.sum(g, 0) / examples + spread / examples * noise


@jax.jit
def _clipped(grads: Any, bound: Any) -> tuple[Any, jax.Array]:
    """The gradients of the examples with norms of at most ``bound`` over all leaves, and which of them were longer."""
    leaves = jax.tree.leaves(grads)
    if not leaves:
        return grads, jnp.zeros(0, jnp.bool_)
    h = halving(functools.reduce(jnp.maximum, [_in_each(magnitude, g) for g in leaves]))
    squares = [_in_each(_sum_of_squares, g * _beside(h * h, g)) for g in leaves]
    length = root(functools.reduce(jnp.add, squares))
    factor = bound / jnp.where(length == 0, 1.0, length) * h
    is_within = length / h / h <= bound

    def limited(g: jax.Array) -> jax.Array:
        inside = jnp.expand_dims(is_within, range(1, g.ndim))
        return jnp.where(inside, g, (g * _beside(h, g)) * _beside(factor, g))

    return jax.tree.map(limited, grads), ~is_within


def _in_each(function: Callable[..., jax.Array], g: jax.Array) -> jax.Array:
    """What ``function`` makes of the elements of each example."""
    axes = tuple(range(1, g.ndim))
    return jnp.squeeze(function(g, axes), axes)


def _sum_of_squares(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(square(x), axes, keepdims=True)


def _beside(number: jax.Array, g: jax.Array) -> jax.Array:
    """The number of each example, to multiply all of its elements."""
    return jnp.expand_dims(number, range(1, g.ndim)).astype(g.real.dtype)


def _floating(leaf: Any) -> jax.Array:
    return widen(leaf) if is_inexact(leaf) else jnp.asarray(leaf, jnp.float32)

"""Noise where the gradient is small: descent that does not stay at saddles."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import Counter, Functions, Key, first_step, kept_key, next_step, transformation
from gradtx.tree import is_inexact, leaf_seeds, squared_norm


class PerturbAtSaddlesState(NamedTuple):
    step: Counter
    rest: Counter  # updates until the next perturbation may come
    key: Key


@transformation(locality="tree")
def perturb_at_saddles(
    threshold: errors.NonNegative, radius: errors.NonNegative, wait: errors.Index, key: Any
) -> Functions:
    """``u = g + xi`` where the gradient is small, ``xi`` uniform in the ball ``|xi| <= radius``; elsewhere ``u = g``.

    Small is ``|gradient| <= threshold``, and more than ``wait`` updates since the last perturbation. The gradient is
    that of the signal ``grad``, all leaves together; ``xi`` moves the parameters themselves, so the part stands at the
    end of a chain: ``chain(sgd(0.1), perturb_at_saddles(1e-3, 1e-2, 50, key=0))``.

    ``key`` is a whole number, or a key of ``jax.random``. A leaf's noise is drawn from the key, the step and the leaf's
    path. Complex leaves count with both parts. In ``only``, ``masked`` or ``partition`` the ball is that of the leaves
    there. Nothing is drawn where nothing is added. State: a key and two counters.

    Two differences from the paper's algorithm. The perturbation comes with the update, not before the gradient is
    taken: the gradient step from the perturbed point is the next update's. And there the algorithm ends, at the point
    before the perturbation, where the loss has not fallen by a set amount ``wait`` steps later: a transformation cannot
    end a loop, and keeps no second copy of the parameters.

    Raises ``ArgumentTypeError`` for what is no key, ``SignalError`` without ``grad``.

    Source: Jin, Ge, Netrapalli, Kakade and Jordan 2017, arXiv:1703.00887, algorithm 2.

    >>> import gradtx, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> tx = gradtx.chain(gradtx.sgd(0.1), curvature.perturb_at_saddles(1e-3, 0.5, wait=10, key=0))
    >>> params = jnp.zeros(3)
    >>> state, moved = tx.init(params), []
    >>> for _ in range(12):
    ...     updates, state = tx.update(jnp.zeros(3), state, params, grad=jnp.zeros(3))
    ...     moved.append(bool(jnp.any(updates != 0)))
    >>> [step for step, was in enumerate(moved) if was]
    [0, 11]
    """
    words, typed = kept_key("perturb_at_saddles", key)

    def init(params):
        del params
        return PerturbAtSaddlesState(first_step(), first_step(), words())

    def update(updates, state, *, grad):
        at = jax.random.fold_in(typed(state.key), state.step)
        small = jnp.sqrt(squared_norm([leaf for leaf in jax.tree.leaves(grad) if is_inexact(leaf)])) <= threshold
        due = small & (state.rest == 0)
        updates = jax.lax.cond(due, lambda u: _perturbed(u, at, radius), lambda u: u, updates)
        rest = jnp.where(due, wait, jnp.maximum(state.rest - 1, 0))
        return updates, PerturbAtSaddlesState(next_step(state.step), rest, state.key)

    return init, update


def _perturbed(updates: Any, key: jax.Array, radius: Any) -> Any:
    """A direction uniform on the sphere; a length whose power ``d`` is uniform, as that much of the ball is within."""
    flat, treedef = jax.tree.flatten(updates)
    of_length, of_direction = jax.random.split(key)
    drawn = [
        _normal(jax.random.fold_in(of_direction, seed), leaf)
        for seed, leaf in zip(leaf_seeds(updates), flat, strict=True)
    ]
    dimension = max(sum(leaf.size * (2 if jnp.iscomplexobj(leaf) else 1) for leaf in flat), 1)
    square = squared_norm(drawn)
    within = jax.random.uniform(of_length, dtype=square.dtype) ** (1 / dimension)
    factor = radius * within / jnp.sqrt(jnp.where(square > 0, square, 1))
    noisy = [leaf + factor.astype(leaf.real.dtype) * noise for leaf, noise in zip(flat, drawn, strict=True)]
    return treedef.unflatten(noisy)


def _normal(key: jax.Array, like: jax.Array) -> jax.Array:
    """Numbers of variance 1, and in complex ones each part: JAX's have it in all."""
    drawn = jax.random.normal(key, like.shape, like.dtype)
    return jnp.sqrt(2).astype(like.real.dtype) * drawn if jnp.iscomplexobj(like) else drawn

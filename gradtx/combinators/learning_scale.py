"""The scale of an optimizer's steps, learned along with the parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    AccumulatedTree,
    GradientTransformation,
    Nested,
    Pair,
    SignedScalar,
    join,
    record_of,
    transformation,
)
from gradtx.tree import cut, is_inexact, limited_dot, widen

_LIMIT = 2.0**60  # the square is finite, also in a sum


class MechanizeState(NamedTuple):
    scales: SignedScalar
    largest: SignedScalar
    squares: SignedScalar
    rewards: SignedScalar
    moved: AccumulatedTree
    inner: Nested


@transformation
def mechanize(
    base_optimizer: GradientTransformation,
    weight_decay: errors.NonNegative = 1e-2,
    eps: errors.Epsilon = 1e-8,
    s_init: errors.Positive = 1e-6,
    num_betas: errors.Count = 6,
) -> GradientTransformation:
    """``base_optimizer`` with a factor on all that it has moved, ``p = p_0 + S * D``, learned by betting on it::

        D_new = D + step of base_optimizer                   S = s_1 + ... + s_n
        h = -<g + weight_decay S ||g|| / (||p|| + eps) p, D>
        for beta_i = 1 - 0.1^i, i = 1 ... num_betas:
            r_i <- beta_i r_i + s_i clip(h, -m_i, m_i)
            m_i <- max(beta_i m_i, |h| + eps)
            v_i <- beta_i^2 v_i + h^2
            s_i <- (s_init m_i / n + max(0, r_i)) / (sqrt(v_i) + eps)
        u = S_new D_new - S D

    Give ``base_optimizer`` the learning rate 1, or a schedule that peaks there; not one that makes steps of a given
    norm. ``D`` is kept as in the paper. (Optax finds it as ``(p_0 - p) / (S + eps)`` from a kept ``p_0``: at the start,
    where ``S`` is 1e-6, that makes it 1 % shorter at every step, and parameters in low precision leave it few digits.)
    The clipping of ``h`` is the authors' addition in Optax. ``h`` is cut at 2^60, and the numbers in products that
    are not below 2^50 there. It needs the parameters, real ones. State: one float32 number per parameter,
    and ``4 num_betas``.

    Source: Cutkosky, Defazio and Mehta 2023, arXiv:2306.00144, algorithm 1.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.mechanize(gradtx.sgd(1.0))
    >>> params, loss = jnp.array([3.0]), lambda p: jnp.sum(p**2)
    >>> state, update = tx.init(params), jax.jit(tx.update)
    >>> for _ in range(200):
    ...     updates, state = update(jax.grad(loss)(params), state, params)
    ...     params = gradtx.apply_updates(params, updates)
    >>> abs(float(params[0])) < 0.1
    True
    """
    record = record_of(base_optimizer)

    def init(params: Any) -> MechanizeState:
        inner = record.tree.init(params)
        largest, squares, rewards = (jnp.zeros(num_betas, jnp.float32) for _ in range(3))
        scales = jnp.full(num_betas, s_init, jnp.float32)
        moved = jax.tree.map(lambda param: jnp.zeros_like(widen(param)), params)
        return MechanizeState(scales, largest, squares, rewards, moved, inner)

    def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, MechanizeState]:
        steps, inner = record.tree.update(updates, state.inner, params, signals)
        old_scale = jnp.sum(state.scales)
        g, p, moved = (_numbers(tree, params) for tree in (updates, params, state.moved))
        share = cut(weight_decay * old_scale * _norm(g) / (_norm(p) + eps), _LIMIT)
        h = cut(-(_dot(g, moved) + share * _dot(p, moved)), _LIMIT)
        betas = 1.0 - 0.1 ** jnp.arange(1, num_betas + 1, dtype=jnp.float32)
        rewards = betas * state.rewards + state.scales * jnp.clip(h, -state.largest, state.largest)
        largest = jnp.maximum(betas * state.largest, jnp.abs(h) + eps)
        squares = betas**2 * state.squares + h**2
        root = jnp.maximum(jnp.sqrt(squares) + eps, jnp.finfo(jnp.float32).tiny)
        scales = (s_init / num_betas * largest + jnp.maximum(rewards, 0.0)) / root
        new_scale = jnp.sum(scales)

        def further(old: jax.Array, step: jax.Array, param: jax.Array) -> jax.Array:
            return (old + step).astype(old.dtype) if is_inexact(param) else old

        def taken(new: jax.Array, old: jax.Array, step: jax.Array, param: jax.Array) -> jax.Array:
            return new_scale.astype(new.dtype) * new - old_scale.astype(old.dtype) * old if is_inexact(param) else step

        moved = jax.tree.map(further, state.moved, steps, params)
        updates = jax.tree.map(taken, moved, state.moved, steps, params)
        return updates, MechanizeState(scales, largest, squares, rewards, moved, inner)

    return join({"inner": record}, Pair(init, update), own_params=True, kind="between")


def _numbers(tree: Any, params: Any) -> list[jax.Array]:
    """The leaves that are floating-point numbers, wide."""
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(params), strict=True)
    leaves = [widen(leaf) for leaf, param in pairs if is_inexact(param)]
    if any(jnp.iscomplexobj(leaf) for leaf in leaves):
        raise errors.DtypeError(
            errors.UNNAMED, expected="mechanize has no meaning for complex leaves", got="complex leaves",
            cause="it bets on a product of gradient and step", fix="keep real and imaginary parts as two real leaves",
        )  # fmt: skip
    return leaves


def _dot(xs: list[jax.Array], ys: list[jax.Array]) -> jax.Array:
    return cut(limited_dot(xs, ys).astype(jnp.float32), _LIMIT)


def _norm(leaves: list[jax.Array]) -> jax.Array:
    return jnp.sqrt(limited_dot(leaves, leaves)).astype(jnp.float32)

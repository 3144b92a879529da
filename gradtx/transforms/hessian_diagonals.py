"""Steps scaled by an estimate of the Hessian's diagonal, and the estimate."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    Counter,
    Functions,
    GradientTransformation,
    Key,
    Nested,
    Pair,
    SignedTree,
    compose,
    first_step,
    kept_key,
    next_step,
    record_of,
    transformation,
)
from gradtx.transforms.signals import loss_of
from gradtx.tree import leaf_seeds


class HutchinsonState(NamedTuple):
    step: Counter
    key: Key


@transformation(locality="tree", real=True)
def hutchinson_estimator_diag_hessian(random_seed: Any = 0) -> Functions:
    """``u = z * (H z)`` with random signs ``z``: on average the diagonal of the Hessian ``H``, always if it is one.

    The signal ``value_fn`` is the loss as a function of the parameters; the gradients are not used. Every call has
    signs of its own, drawn from the seed, the step and the leaf's path; ``random_seed`` is a whole number or a key of
    ``jax.random``. Cost: about two gradients. State: a key and a counter.

    Raises ``SignalError`` for a ``value_fn`` that is missing or no function, or in a combinator that hides leaves.

    Source: Hutchinson 1990, Communications in Statistics 19(2); for the diagonal, Bekas, Kokiopoulou and Saad 2007,
    Applied Numerical Mathematics 57, "An estimator for the diagonal of a matrix".

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.hutchinson_estimator_diag_hessian()
    >>> params = jnp.array([1.0, 2.0])
    >>> tx.update(params, tx.init(params), params, value_fn=lambda p: p[0] ** 2 + 5 * p[1] ** 2)[0].tolist()
    [2.0, 10.0]
    """
    words, typed = kept_key("hutchinson_estimator_diag_hessian", random_seed)

    def init(params):
        del params
        return HutchinsonState(first_step(), words())

    def update(updates, state, params, *, value_fn):
        if not jax.tree.leaves(params):
            return updates, state
        loss = loss_of(value_fn, params)

        def gradient(at: Any) -> Any:
            value, backwards = jax.vjp(loss, at)
            return backwards(jnp.ones_like(value))[0]  # jax.grad fails on explicit meshes

        key = jax.random.fold_in(typed(state.key), state.step)
        flat, treedef = jax.tree.flatten(params)
        drawn = [
            jax.random.rademacher(jax.random.fold_in(key, seed), leaf.shape, leaf.dtype) * jnp.ones_like(leaf)
            for seed, leaf in zip(leaf_seeds(params), flat, strict=True)
        ]
        signs = treedef.unflatten(drawn)
        products = jax.jit(lambda at, along: jax.jvp(gradient, (at,), (along,))[1])(params, signs)
        return jax.tree.map(jnp.multiply, signs, products), HutchinsonState(next_step(state.step), state.key)

    return init, update


class ScaleBySophiaState(NamedTuple):
    step: Counter
    mean: SignedTree
    diagonal: SignedTree
    hessian: Nested


ESTIMATOR = hutchinson_estimator_diag_hessian()


@transformation
def scale_by_sophia(
    b1: errors.Decay = 0.965,
    b2: errors.Decay = 0.99,
    eps: errors.Epsilon = 1e-8,
    gamma: errors.Positive = 0.01,
    clip_threshold: errors.Positive | None = 1.0,
    update_interval: errors.Count = 10,
    hessian_diagonal_fn: GradientTransformation = ESTIMATOR,
) -> GradientTransformation:
    """``u = clip(m / max(gamma * h, eps), -clip_threshold, clip_threshold)``, elementwise.

    ``m <- b1 m + (1 - b1) g``; every ``update_interval`` steps, beginning with the first, ``h <- b2 h + (1 - b2) d``
    with the estimate ``d`` of the Hessian's diagonal that ``hessian_diagonal_fn`` gives, Hutchinson's by default, which
    needs the signal ``value_fn``. Where ``h`` is small or negative the step is ``clip_threshold`` with the sign of
    ``m``. The estimate is in a branch that is not run at other steps. Real leaves only. State: two float32 numbers per
    parameter.

    As in the paper ``m`` is not corrected for its start, and ``h`` is new when it is used; Optax corrects ``m`` and
    uses ``h`` of the step before, so that its first step is a sign. Its name for ``value_fn`` is ``obj_fn``.

    Source: Liu et al. 2023, arXiv:2305.14342, algorithm 3; the estimate of algorithm 1, with signs for normal numbers.
    """
    record = record_of(hessian_diagonal_fn)

    def advance(state):
        return state._replace(step=next_step(state.step))

    def body(parts: Mapping[str, Pair]) -> Pair:
        estimate = parts["hessian"]

        def init(params):
            inner = estimate.init(params)
            mean, diagonal = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
            return ScaleBySophiaState(first_step(), mean, diagonal, inner)

        def update(updates, state, params, signals):
            def estimated(diagonal: Any, inner: Any) -> tuple[Any, Any]:
                found, new = estimate.update(updates, inner, params, signals)
                mixed = jax.tree.map(lambda h, d: (h + (1.0 - b2) * (d - h)).astype(h.dtype), diagonal, found)
                return mixed, jax.tree.map(lambda a, b: a.astype(b.dtype), new, inner)

            due = (state.step - 1) % update_interval == 0
            kept = state.diagonal, state.hessian
            diagonal, inner = jax.lax.cond(due, estimated, lambda *kept: kept, *kept)
            mean = jax.tree.map(lambda m, g: m + (1.0 - b1) * (g - m), state.mean, updates)

            def one(m: jax.Array, h: jax.Array) -> jax.Array:
                smallest = float(jnp.finfo(m.dtype).tiny)
                step = m / jnp.maximum(jnp.maximum(gamma * h, eps), smallest)
                largest = jnp.finfo(m.dtype).max if clip_threshold is None else clip_threshold
                return jnp.clip(step, -largest, largest)

            return jax.tree.map(one, mean, diagonal), ScaleBySophiaState(state.step, mean, diagonal, inner)

        return Pair(init, update)

    return compose({"hessian": record}, body, own_params=True, own_advance=advance)

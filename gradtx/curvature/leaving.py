"""Leaving saddles on the way: the smallest eigenvalue is asked for where training has stalled, and followed down."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.core import Counter, Functions, Key, SignedScalar, first_step, kept_key, next_step, transformation
from gradtx.curvature import vectors
from gradtx.curvature.differentiation import inner
from gradtx.curvature.objectives import hessian_product, objective, one_number
from gradtx.curvature.searching import far_enough
from gradtx.curvature.subspaces import combination, krylov_subspace, uniform_direction, unit
from gradtx.tree import is_inexact, squared_norm

_NONE_YET = float(np.finfo(np.float32).max)  # the best of no values; finite, as every part of a state is


class EscapeSaddlesState(NamedTuple):
    step: Counter
    stalled: Counter  # values in a row without progress, since the last look
    best_value: SignedScalar
    key: Key


@transformation(locality="tree", real=True)
def escape_saddles(
    *,
    key: Any,
    patience: errors.Count = 100,
    rtol: errors.NonNegative = 1e-4,
    gradient_threshold: errors.NonNegative = 1e-3,
    curvature_threshold: errors.NonNegative = 1e-3,
    krylov_dim: errors.Count = 8,
    step_size: errors.Positive = 1.0,
) -> Functions:
    """``u = t v`` along a direction ``v`` of negative curvature where training has stalled; ``u = g`` everywhere else.

    A value is progress if ``value < best - rtol |best|``, with ``best`` the last one that was. After ``patience``
    values in a row without progress, and with ``|gradient| <= gradient_threshold``, one update takes a look::

        theta, v = smallest Ritz value and vector of the Hessian, of krylov_dim products from a random start
        u = t v     if theta < -curvature_threshold, with v' gradient <= 0 and
                    L(w + t v) < L(w),  L(w + t v) <= L(w) - t^2 |theta| / 4
        u = g       otherwise

    ``t`` starts at ``step_size`` and is halved until that holds (at most 30 times, then ``u = g``); where it does at
    once, ``t`` is doubled while the loss goes on down. So this step never raises the loss of its batch, up to the
    rounding to the parameters' dtype. ``theta`` is never below the smallest eigenvalue, so no saddle is found where
    there is none; one that is missed has another chance after ``patience`` more values. ``g`` are the updates that come
    in: the part stands at the end of a chain, ``chain(sgd(0.1), escape_saddles(key=0))``, and ``t v`` replaces a step.

    Cost of an update without a look: the norm of the gradient. Of one with a look: ``krylov_dim`` products of about two
    gradients each, one more gradient, three losses or a few more, and ``krylov_dim`` vectors of the parameters' size;
    in a branch that is not run otherwise. (Under ``vmap`` it is, at every update.) On the CPU backend a convolution's
    gradient in a branch is 10 to 18 times slower.

    Signals: ``value``, ``grad`` and ``value_fn`` (parameters to the loss of this batch), which ``make_train_step``
    gives. ``key`` is a whole number, or a key of ``jax.random``. State: a key and three numbers. Real leaves only. In
    ``only``, ``masked`` or ``partition`` it raises ``SignalError`` unless ``value_fn`` takes the leaves there.

    Source: the curvilinear search of Moré and Sorensen 1979 along the negative curvature only; the smallest eigenvalue
    by Lanczos from a random start as in Royer, O'Neill and Wright 2018, arXiv:1803.02924 (their
    minimum eigenvalue oracle).

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w: (1 - w[0] * w[1]) ** 2
    >>> tx = gradtx.chain(gradtx.sgd(0.1), curvature.escape_saddles(key=0, patience=2))
    >>> params, seen = jnp.zeros(2), []
    >>> state = tx.init(params)
    >>> for _ in range(5):
    ...     value, grads = jax.value_and_grad(loss)(params)
    ...     seen.append(round(float(value), 3))
    ...     updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)
    ...     params = gradtx.apply_updates(params, updates)
    >>> seen[:3], seen[-1] < 0.3
    ([1.0, 1.0, 1.0], True)
    """
    words, typed = kept_key("escape_saddles", key)

    def init(params):
        del params
        return EscapeSaddlesState(first_step(), first_step(), jnp.full((), _NONE_YET, jnp.float32), words())

    def update(updates, state, params, *, value, grad, value_fn):
        value = one_number("escape_saddles", "value", value).astype(jnp.float32)
        function, x = objective("escape_saddles", value_fn, params)
        if not vectors.size(x):
            return updates, state
        best = state.best_value
        better = jnp.isfinite(value) & ((best == _NONE_YET) | (value < best - rtol * jnp.abs(best)))
        stalled = jnp.where(better, 0, next_step(state.stalled))
        slope = tuple(leaf for leaf in jax.tree.leaves(grad) if is_inexact(leaf))
        due = (stalled >= patience) & (jnp.sqrt(squared_norm(slope)) <= gradient_threshold)

        def look(updates):
            start = uniform_direction(jax.random.fold_in(typed(state.key), state.step), x)
            space = krylov_subspace(hessian_product(function, x), start, krylov_dim)
            theta = space.values[0]
            direction, _ = unit(combination(space.basis, space.columns[:, 0]))
            downhill = jnp.where(inner(jax.grad(function)(x), direction) > 0, -1.0, 1.0)

            def along(t):
                return function(
                    tuple(a + (downhill * t * d).astype(a.dtype) for a, d in zip(x, direction, strict=True))
                )

            def search():
                first = jnp.asarray(step_size, theta.dtype)
                return far_enough(along, lambda t: jnp.square(t) * jnp.abs(theta) / 4, first, farther=True)

            negative = theta < -jnp.maximum(curvature_threshold, space.rounding)
            t = jax.lax.cond(negative, search, lambda: jnp.zeros((), theta.dtype))
            flat, treedef = jax.tree.flatten(updates)
            moved = [downhill * t * d for d in direction]
            return treedef.unflatten(
                [jnp.where(t > 0, m, u).astype(u.dtype) for m, u in zip(moved, flat, strict=True)]
            )  # fmt: skip

        updates = jax.lax.cond(due, look, lambda updates: updates, updates)
        best = jnp.where(better, value, best)
        return updates, EscapeSaddlesState(next_step(state.step), jnp.where(due, 0, stalled), best, state.key)

    return init, update

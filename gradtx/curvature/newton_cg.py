"""Newton's method with directions of negative curvature, by the Krylov subspace that conjugate gradients go through."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import Counter, Functions, Key, first_step, kept_key, next_step, transformation
from gradtx.curvature import vectors
from gradtx.curvature.objectives import hessian_product, objective
from gradtx.curvature.searching import far_enough
from gradtx.curvature.subspaces import (
    Subspace,
    combination,
    coordinates,
    krylov_subspace,
    uniform_direction,
    unit,
)

_DECREASE = 0.01  # eta, the share of the cubic decrease that a step must bring


class ScaleByNewtonCGState(NamedTuple):
    step: Counter
    key: Key


@transformation(locality="tree", real=True)
def scale_by_newton_cg(
    *,
    key: Any,
    krylov_dim: errors.Count = 10,
    gradient_threshold: errors.NonNegative = 1e-4,
    curvature_threshold: errors.Positive = 1e-2,
) -> Functions:
    """``u = -alpha d`` with a damped Newton step ``d``, or a step along negative curvature where there is some.

    With ``e`` the curvature threshold, and ``theta, v`` the smallest Ritz value and vector of the Hessian ``H``::

        |g| > gradient_threshold      subspace V of g, H g, H^2 g, ...,   T = V' H V
            theta >= -e               d = -V (T + 2 e I)^-1 V' g          the Newton step of H + 2 e I in the subspace
            theta < -e                d = -sgn(v' g) |theta| v
        |g| <= gradient_threshold     the same from a random start instead of g
            theta >= -e / 2           d = 0                               where the paper's algorithm ends
            theta < -e / 2            d = -sgn(v' g) |theta| v

    ``alpha = 1, 1/2, 1/4, ...`` is the first with ``L(w + alpha d) < L(w) - 0.01 / 6 alpha^3 |d|^3``; where none of 31
    is, ``u = 0``. So the loss of the batch never goes up, as long as the update is taken as it is, but for its sign:
    ``chain(scale_by_newton_cg(key=0), scale_by_learning_rate(1.0))``.

    Cost of an update: ``krylov_dim`` products with the Hessian of about two gradients each, two losses or a few more
    (those after the second in a loop), and ``krylov_dim`` vectors of the parameters' size.

    Signals: ``value_fn`` (parameters to the loss of this batch), which ``make_train_step`` gives. ``key`` is a whole
    number, or a key of ``jax.random``. In ``only``, ``masked`` or ``partition`` it raises ``SignalError`` unless
    ``value_fn`` takes the leaves there. Real leaves only. State: a key and a counter.

    The paper runs conjugate gradients on ``H + 2 e I`` until the residual is small, negative curvature shows, or the
    residual falls too slowly. Here the subspace has a fixed dimension, in which both the Newton step and the lowest
    curvature are exact: no test of residuals is needed, a step is what conjugate gradients reach after ``krylov_dim``
    iterations, and the curvature is the lowest that they go through.

    Source: Royer, O'Neill and Wright 2018, arXiv:1803.02924: capped conjugate gradients, the minimum
    eigenvalue oracle and damped Newton-CG.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w: w[0] ** 2 + jnp.cos(w[1])
    >>> tx = curvature.scale_by_newton_cg(key=0)
    >>> params = jnp.array([0.0, 0.0])                       # a saddle: the gradient is zero
    >>> updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    >>> [abs(round(u, 3)) for u in updates.tolist()]
    [0.0, 1.0]
    """
    words, typed = kept_key("scale_by_newton_cg", key)

    def init(params):
        del params
        return ScaleByNewtonCGState(first_step(), words())

    def update(updates, state, params, *, value_fn):
        function, x = objective("scale_by_newton_cg", value_fn, params)
        if not vectors.size(x):
            return updates, state
        flat, treedef = jax.tree.flatten(updates)
        gradient, norm = unit(tuple(g.astype(leaf.dtype) for g, leaf in zip(flat, x, strict=True)))
        small = norm <= gradient_threshold
        random = uniform_direction(jax.random.fold_in(typed(state.key), state.step), x)
        start = tuple(jnp.where(small, r, g) for r, g in zip(random, gradient, strict=True))
        space = krylov_subspace(hessian_product(function, x), start, krylov_dim)
        weights = _weights(space, coordinates(space.basis, gradient), norm, small, curvature_threshold)
        direction = combination(space.basis, weights)

        def along(alpha):
            return function(tuple(a + (alpha * d).astype(a.dtype) for a, d in zip(x, direction, strict=True)))

        size = jnp.linalg.norm(weights)  # V is orthonormal
        one = jnp.ones((), size.dtype)
        alpha = far_enough(along, lambda a: _DECREASE / 6 * (a * size) ** 3, one, farther=False)
        updates = treedef.unflatten([(-alpha * d).astype(g.dtype) for d, g in zip(direction, flat, strict=True)])
        return updates, ScaleByNewtonCGState(next_step(state.step), state.key)

    return init, update


def _weights(space: Subspace, along: jax.Array, norm: jax.Array, small: jax.Array, threshold: Any) -> jax.Array:
    """``V' d``, from ``along``, the gradient's direction in the subspace."""
    theta, lowest = space.values[0], space.columns[:, 0]
    negative = theta < -jnp.maximum(jnp.where(small, threshold / 2, threshold), space.rounding)
    sign = jnp.where(lowest @ along > 0, -1.0, 1.0)
    shifted = jnp.maximum(space.values + 2 * threshold, threshold)  # as it is, where it is used
    newton = -norm * (space.columns @ ((space.columns.T @ along) / shifted))
    return jnp.where(negative, sign * jnp.abs(theta) * lowest, jnp.where(small, 0.0, newton))

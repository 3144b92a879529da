"""Parameters that stay in a set, and gradients of which NaN are left out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import EmptyState, FactorTree, Functions, GradientTransformation, transformation
from gradtx.tree import check_same


@transformation(locality="tree", real=True, kind="layers")
def project(projection: Callable[[Any], Any]) -> Functions:
    """``u = P(p + g) - p``: the step is taken, and the nearest point of a set is where it ends.

    Must be the last part of a chain, behind the learning rate, where ``g`` is the step: behind plain gradient descent
    this is the projected gradient method. ``projection`` is a function of the tree of all parameters, such as those of
    :mod:`gradtx.projections`; for some leaves, or for each layer by itself, put :func:`gradtx.only` or
    :func:`gradtx.partition` around it. It is given float32 or wider, and its point is rounded once into the parameters'
    dtype: zeros are exact, other points within half a unit in the last place. What the projection leaves alone
    keeps its step bit for bit, however small; what is not finite stays visible.

    Raises ``ArgumentTypeError`` for what is no function, ``StructureError`` or ``ShapeError`` for a projection that
    does not return a tree like the parameters.

    Source: Goldstein 1964, Bulletin of the AMS 70(5), "Convex programming in Hilbert space"; Parikh and Boyd 2014,
    Proximal Algorithms, section 4.2.

    >>> import gradtx, jax.numpy as jnp
    >>> from gradtx import projections
    >>> tx = gradtx.chain(gradtx.sgd(1.0), gradtx.project(projections.projection_simplex))
    >>> params = jnp.array([0.5, 0.5])
    >>> updates, _ = tx.update(jnp.array([0.25, -0.25]), tx.init(params), params)
    >>> gradtx.apply_updates(params, updates).tolist()
    [0.25, 0.75]
    """

    def init(params: Any) -> EmptyState:
        del params
        return EmptyState()

    def update(updates: Any, state: EmptyState, params: Any) -> tuple[Any, EmptyState]:
        moved = jax.tree.map(jnp.add, params, updates)
        ends = projection(moved)
        check_same(errors.UNNAMED, "the projection", ends, "params", params)
        return jax.tree.map(_last_step, updates, params, moved, ends), state

    return init, update


@jax.jit
def _last_step(update: jax.Array, param: jax.Array, moved: jax.Array, end: jax.Array) -> jax.Array:
    """``end - param``: the update as it is, without its rounding, where the projection moves nothing."""
    return jnp.where((end == moved) | ~jnp.isfinite(update), update, end - param)


@transformation(locality="elementwise", real=True)
def keep_params_nonnegative() -> GradientTransformation:
    """``u = max(p + g, 0) - p``: no parameter is negative after the step.

    The last part of a chain, behind the learning rate. Parameters that stay positive take their step unchanged, the
    others are exactly zero in every dtype. What was negative before comes to zero at the first step.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.chain(gradtx.sgd(0.5), gradtx.keep_params_nonnegative())
    >>> params = jnp.array([1.0, 0.1])
    >>> updates, _ = tx.update(jnp.array([1.0, 1.0]), tx.init(params), params)
    >>> gradtx.apply_updates(params, updates).tolist()
    [0.5, 0.0]
    """

    def init(param: jax.Array) -> EmptyState:
        del param
        return EmptyState()

    def update(update: jax.Array, state: EmptyState, param: jax.Array) -> tuple[jax.Array, EmptyState]:
        return jnp.where(param + update < 0, -param, update), state

    return GradientTransformation(init, update)


class ZeroNansState(NamedTuple):
    found_nan: FactorTree


@transformation(locality="leaf")
def zero_nans() -> Functions:
    """``u = 0`` where ``g`` is NaN, ``u = g`` elsewhere; infinities stay.

    At the head of a chain, for single elements that have no gradient. It hides what is wrong with the others:
    ``state.found_nan`` says by leaf whether the last gradient had any (float32, 1 or 0). A whole step is left out by
    :func:`gradtx.skip_nonfinite`, and that is safer.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.zero_nans()
    >>> updates, state = tx.update(jnp.array([1.0, jnp.nan]), tx.init(jnp.zeros(2)))
    >>> updates.tolist(), float(state.found_nan)
    ([1.0, 0.0], 1.0)
    """

    def init(param: jax.Array) -> ZeroNansState:
        del param
        return ZeroNansState(jnp.zeros((), jnp.float32))

    def update(update: jax.Array, state: ZeroNansState) -> tuple[jax.Array, ZeroNansState]:
        del state
        is_nan = jnp.isnan(update)
        return jnp.where(is_nan, 0, update), ZeroNansState(jnp.any(is_nan).astype(jnp.float32))

    return init, update

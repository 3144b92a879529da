"""A transformation and one tree like the parameters that goes along with it: an average, slow weights, a base point."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.core import ZERO, GradientTransformation, Pair, compose, record_of
from gradtx.tree import is_inexact


def accompanied(
    tx: GradientTransformation,
    field: str,
    start: Callable[[Any, Any], Any],
    follow: Callable[..., tuple[jax.Array, jax.Array]],
    *,
    advance: Callable[[Any], Any] | None = None,
    finish: Callable[[Any, Any], Any] | None = None,
    reads_params: bool = True,
) -> GradientTransformation:
    """``tx`` with a tree that starts as the parameters and follows them, in the ``field`` of a state.

    ``start(tree, inner)`` makes the state, whose ``inner`` is the state of ``tx``. At every update, for each leaf,
    ``follow(update, kept, param, shared)`` gives the update and what is kept, from the update of ``tx``; ``shared`` is
    the state, of which only the fields that the leaves share may be read. ``advance`` takes these to the next step,
    ``finish(state, restart)`` may change the new state, with ``restart()`` the first state of ``tx``. Without
    ``reads_params``, ``param`` is None.

    A leaf that ``tx`` freezes and does not even hold (``only``) has nothing that goes along. One that is no
    floating-point number stays as it is.
    """

    @jax.jit
    def follow_one(update: jax.Array, kept: jax.Array, param: Any, shared: Any) -> tuple[jax.Array, jax.Array]:
        return follow(update, kept, param, shared) if is_inexact(update) else (update, kept)

    def body(parts: Mapping[str, Pair]) -> Pair:
        inner = parts["inner"]
        if inner is ZERO:
            return ZERO

        def init(params: Any) -> Any:
            inner_state = inner.init(params)  # first: it refuses what is no array of floating-point numbers
            return start(jax.tree.map(_copied, params), inner_state)

        def update(updates: Any, state: Any, params: Any, signals: Mapping[str, Any]) -> tuple[Any, Any]:
            steps, inner_state = inner.update(updates, state.inner, params, signals)
            shared = state._replace(**{field: None, "inner": None})
            flat, treedef = jax.tree.flatten(steps)
            flat_params = treedef.flatten_up_to(params) if reads_params else [None] * len(flat)
            leaves = zip(flat, treedef.flatten_up_to(getattr(state, field)), flat_params, strict=True)
            followed = [follow_one(*leaf, shared) for leaf in leaves]
            kept = treedef.unflatten([kept for _, kept in followed])
            state = state._replace(**{field: kept, "inner": inner_state})
            state = finish(state, lambda: inner.init(params)) if finish else state
            return treedef.unflatten([step for step, _ in followed]), state

        return Pair(init, update)

    return compose({"inner": record_of(tx)}, body, own_advance=advance, own_params=reads_params, kind="average")


def _copied(param: Any) -> jax.Array:
    """A buffer of its own: the parameters' may be donated beside it."""
    return jnp.array(param, copy=True)

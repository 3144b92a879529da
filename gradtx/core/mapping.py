"""A function of the parameters' kind on what a state keeps for each of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gradtx import errors
from gradtx.core.roles import is_state, roles
from gradtx.tree import describe_leaf


@jax.tree_util.register_static
class _Params:
    """A tree without leaves in place of the parameters: where it comes back out of ``init`` is a tree like them."""


class _Walk:
    pass


def map_params(
    tx: Any,
    f: Callable[..., Any],
    state: Any,
    /,
    *rest: Any,
    transform_non_params: Callable[[Any], Any] | None = None,
    is_leaf: Callable[[Any], bool] | None = None,
) -> Any:
    """``f(x, *r)`` on every array ``x`` of a state that has the shape of a parameter, such as a moment.

    ``r`` are what ``rest``, trees like the parameters, hold for that parameter. So shardings, partition specs or dtypes
    that are known for parameters are made those of a state::

        specs = map_params(tx, lambda _, spec: spec, state, param_specs, transform_non_params=lambda _: P())

    Args:
        tx: The transformation whose state it is; asked only about foreign parts.
        f: What is done to each such array, which may also be a ``jax.ShapeDtypeStruct``.
        state: What ``tx.init(params)`` gave, or a later one, or ``jax.eval_shape(tx.init, params)``.
        rest: Trees like the parameters, or with them as a prefix.
        transform_non_params: What is done to all other arrays: counters, keys, hyperparameters, and what is kept for
            each parameter in another shape (rows and columns of a factored moment, norms, masks). Without it they stay.
        is_leaf: As of ``jax.tree.map``, for arrays in boxes.

    Returns:
        The state with the results in place.

    Which fields these are, the states of this library say by their roles (:data:`SignedTree`, :data:`NonNegativeTree`),
    so a moment in factors is never taken for one in full. (Optax takes whatever comes back from ``init`` in the
    structure of the parameters, whatever its shape.) A foreign part is asked as Optax asks it, by an ``init`` of a tree
    without leaves.

    Raises ``StructureError`` where a tree of ``rest`` does not have the structure of the parameters.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.adam(1e-3)
    >>> state = tx.init({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
    >>> names = gradtx.map_params(tx, lambda x, name: name, state, {"w": "W", "b": "B"}, transform_non_params=str)
    >>> gradtx.tree.get(names, "ema/mean"), gradtx.tree.get(names, "ema/bias_correction/step")
    """

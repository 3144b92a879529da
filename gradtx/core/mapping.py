"""A function of the parameters' kind on what a state keeps for each of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from gradtx import errors
from gradtx.core.roles import Role, is_kept, is_state, roles
from gradtx.tree import in_words


@jax.tree_util.register_static
class _Params:
    """A tree without leaves in place of the parameters: where it comes back out of ``init`` is a tree like them."""


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

    Which fields these are, the states of this library say by their roles (all ``...Tree`` but :data:`FactorTree`),
    so a moment in factors is never taken for one in full. (Optax takes whatever comes back from ``init`` in the
    structure of the parameters, whatever its shape.) A foreign part is asked as Optax asks it, by an ``init`` of a tree
    without leaves. Within :func:`gradtx.flatten` all parameters are one: ``x`` is the vector, and ``r`` whole trees.

    Raises ``StructureError`` where a tree of ``rest`` does not have the structure of the parameters.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.ema(0.9)
    >>> state = tx.init({"w": jnp.zeros((2, 3)), "b": jnp.zeros(3)})
    >>> gradtx.map_params(tx, lambda x, name: f"{name}{x.shape}", state, {"w": "matrix", "b": "vector"})
    EmaState(mean={'b': 'vector(3,)', 'w': 'matrix(2, 3)'})
    """

    @functools.cache
    def marked() -> Any:
        return tx.init(_Params())

    def on_params(field: Any) -> Any:
        def is_one(x: Any) -> bool:
            return x is None or is_kept(x) or (is_leaf is not None and is_leaf(x))

        leaves, treedef = jax.tree.flatten(field, is_leaf=is_one)
        try:
            columns = [treedef.flatten_up_to(tree) for tree in rest]
        except (ValueError, TypeError, KeyError) as error:
            raise errors.StructureError(
                f"map_params({errors.show(tx)}, f, state, ...)",
                expected=f"trees like the parameters beside the state, {in_words(field)}",
                got=str(error).splitlines()[0][:160], cause="they are made for other parameters",
                fix="write map_params(tx, f, tx.init(params), tree) with a tree like params",
            ) from None  # fmt: skip
        return treedef.unflatten([on_param(x, *r) for x, *r in zip(leaves, *columns, strict=True)])

    def on_param(x: Any, *r: Any) -> Any:
        if x is None or not is_kept(x):
            return None if x is None else f(x, *r)
        # codes and their scales: by role, too
        shaped = [_is_shaped(role) for role in roles(type(x)).values()]
        parts = [
            jax.tree.map(f, part, *r, is_leaf=is_leaf) if like else on_others(part)
            for part, like in zip(x, shaped, strict=True)
        ]
        return type(x)(*parts)

    def on_others(field: Any) -> Any:
        return field if transform_non_params is None else jax.tree.map(transform_non_params, field)

    def walk(node: Any, mark: Callable[[], Any]) -> Any:
        if node is None:
            return None
        if isinstance(node, dict):
            return {name: walk(value, lambda name=name: mark()[name]) for name, value in node.items()}
        if not is_state(node):
            return _foreign(mark(), node, on_params, on_others)
        fields = []
        for name, role in roles(type(node)).items():
            field = getattr(node, name)
            if role.kind == "nested":
                fields.append(walk(field, lambda name=name: getattr(mark(), name)))
            else:
                fields.append(on_params(field) if _is_shaped(role) else on_others(field))
        return type(node)(*fields)

    return walk(state, marked)


def _is_shaped(role: Role) -> bool:
    """Whether a field has the shapes of the parameters, too."""
    return role.like_params and role.kind != "factor"


def _foreign(mark: Any, node: Any, on_params: Callable[[Any], Any], on_others: Callable[[Any], Any]) -> Any:
    """A state without roles, by what ``init`` made of the parameters' mark."""

    def is_mark(value: Any) -> bool:
        return isinstance(value, _Params)

    leaves, treedef = jax.tree.flatten(mark, is_leaf=is_mark)
    held = treedef.flatten_up_to(node)
    return treedef.unflatten(
        [on_params(part) if is_mark(leaf) else on_others(part) for leaf, part in zip(leaves, held, strict=True)]
    )

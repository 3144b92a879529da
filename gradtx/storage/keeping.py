"""Keeping a transformation's state in another layout, without the transformation knowing."""

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from gradtx import errors
from gradtx.core import (
    Counter,
    GradientTransformation,
    Nested,
    Pair,
    Record,
    Role,
    compose,
    first_step,
    map_fields,
    next_step,
    record_of,
    transformation,
)
from gradtx.tree import leaf_seeds


class Layout(NamedTuple):
    """How one array of a state is kept, never what it means.

    ``encode(array, key)`` gives what is kept (``key`` is a function that gives a random key, or None for rounding to
    nearest), ``decode(kept)`` the array in float32; ``refuses(role)`` says why an array of this role cannot be kept
    right, or None.
    """

    encode: Callable[[jax.Array, Callable[[], jax.Array] | None], jax.Array]
    decode: Callable[[jax.Array], jax.Array]
    refuses: Callable[[Role], str | None]


class StoredState(NamedTuple):
    step: Counter
    inner: Nested


@transformation
def stored(tx: GradientTransformation, layout: Layout) -> GradientTransformation:
    """``tx`` with every field of its state that is a tree like the parameters kept in ``layout``.

    At each update the state is decoded, used in float32 by ``tx``, and encoded anew, in the same pass where ``tx`` runs
    leaf by leaf; counters and hyperparameters stay as they are. A layout that rounds stochastically draws from a key
    made of the step, the field and the leaf's path: a run is reproducible and does not depend on the sharding.

    Raises ``LayoutError``, naming the part, for a foreign part, whose state has no roles, and at ``init`` for a field
    that the layout cannot keep right.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.storage.stored(gradtx.adam(1e-3), gradtx.storage.cast(jnp.bfloat16))
    >>> state = tx.init({"w": jnp.zeros(3)})
    >>> sorted({str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim})
    ['bfloat16']
    """
    if not isinstance(layout, Layout):
        raise errors.ArgumentTypeError(
            errors.UNNAMED, expected="layout must be a layout", got=f"{type(layout).__name__} {errors.show(layout)}",
            cause="a dtype is no layout", fix='write stored(tx, storage.cast("bfloat16"))',
        )  # fmt: skip
    record = record_of(tx)
    call = f"stored({record.call}, {errors.show(layout)})"
    _refuse_foreign(call, record.name, record)

    def body(parts: Mapping[str, Pair]) -> Pair:
        inner = parts["inner"]

        def init(params):
            state = inner.init(params)
            map_fields(lambda path, role, value: _check_role(call, layout, path, role), state)
            return StoredState(first_step(), _encode(layout, state, None, None))

        def update(updates, state, params, signals):
            seed = signals.get("leaf_seed")
            updates, new_state = inner.update(updates, _decode(layout, state.inner), params, signals)
            return updates, StoredState(state.step, _encode(layout, new_state, state.step, seed))

        return Pair(init, update)

    def advance(state: StoredState) -> StoredState:
        return state._replace(step=next_step(state.step))

    return compose({"inner": record}, body, own_signals=["leaf_seed"], own_advance=advance)


def _decode(layout: Layout, state: Any) -> Any:
    def decode(path: str, role: Role, value: Any) -> Any:
        del path
        return jax.tree.map(layout.decode, value) if role.like_params else value

    return map_fields(decode, state)


def _encode(layout: Layout, state: Any, step: jax.Array | None, seed: jax.Array | None) -> Any:
    """Encodes all fields; without a step to nearest, and for whole trees (no ``seed``) with a seed for each leaf."""

    def encode(path: str, role: Role, value: Any) -> Any:
        if not role.like_params:
            return value

        leaves, treedef = jax.tree.flatten(value)
        if step is None:
            return treedef.unflatten([layout.encode(leaf, None) for leaf in leaves])
        seeds = leaf_seeds(value) if seed is None else [seed]
        keys = [functools.partial(_key, path, step, leaf_seed) for leaf_seed in seeds]
        return treedef.unflatten([layout.encode(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])

    return map_fields(encode, state)


def _key(field: str, step: jax.Array, seed: Any) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(zlib.crc32(field.encode())), step), seed)


def _refuse_foreign(call: str, address: str, record: Record) -> None:
    if record.foreign:
        raise errors.LayoutError(
            call, expected="parts whose state says what its fields are", got=f"the foreign part {address}",
            cause="its moments and its counters look alike from outside",
            fix=f"store the other parts: chain(stored(..., layout), {record.name}(...))",
        )  # fmt: skip
    for name, part in record.parts.items():
        _refuse_foreign(call, f"{address} > {name}", part)


def _check_role(call: str, layout: Layout, path: str, role: Role) -> None:
    reason = layout.refuses(role) if role.like_params else None
    if reason:
        raise errors.LayoutError(
            call, expected="fields that the layout can keep", got=f"{role.kind} numbers", at=repr(path),
            cause=reason, fix="write storage.cast(jnp.bfloat16, rounding='stochastic')",
        )  # fmt: skip

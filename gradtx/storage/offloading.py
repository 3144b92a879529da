"""State in the memory of the host, on devices that have a memory of their own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gradtx import errors
from gradtx.combinators.selecting import Where, selected
from gradtx.core import (
    PASS,
    ZERO,
    GradientTransformation,
    Leaves,
    Nested,
    Pair,
    Role,
    advance_parts,
    join,
    leaf_by_leaf,
    map_fields,
    record_of,
    transformation,
)
from gradtx.core.roles import cast_like, is_on_host, per_leaf, tree_of
from gradtx.storage.keeping import refuse_foreign


class OffloadedState(NamedTuple):
    inner: Nested


@transformation
def offloaded(tx: GradientTransformation, where: Where = "*") -> GradientTransformation:
    """``tx`` with its state in the memory of the host between updates: that of the leaves that ``where`` selects.

    ``init`` puts what ``tx`` keeps for these leaves into host memory ("pinned_host"). An update brings it to the
    device, runs ``tx`` there and sends it back, leaf by leaf where ``tx`` runs so, within the same compiled program.
    Numbers are those of ``tx``, bit for bit. Counters, hyperparameters and arrays without dimensions stay on the
    device. With S bytes selected an update moves 2 S between device and host.

    State stays in the memory in which it is given: what a checkpoint was read into, too. To put it where ``init`` does,
    write ``jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, tx.init(params)))``. On CPUs, whose memory is
    the host's, ``init`` leaves it as it is, and the program is that of ``tx``. Within ``jax.jit`` the device is the one
    that JAX uses by default.

    It stands around what rounds state, ``offloaded(stored(adamw(1e-3), quantized()))``, and around guards and
    accumulation, which would choose between two states in host memory; inside of these it is an ``ArgumentTypeError``.

    Raises ``LayoutError``, naming the part, for a foreign part, whose state has no roles, and at ``init`` where only
    some leaves are selected of a part that keeps one array for several; ``SelectionError`` at ``init`` for a pattern
    that selects nothing.

    >>> import gradtx, jax, jax.numpy as jnp
    >>> tx = gradtx.storage.offloaded(gradtx.adamw(1e-3), where=lambda path, leaf: leaf.size > 4096)
    >>> params = {"kernel": jnp.ones((128, 128)), "bias": jnp.ones(128)}
    >>> state = jax.jit(tx.init)(params)
    >>> kinds = jax.tree.map(lambda leaf: leaf.sharding.memory_kind, gradtx.tree.get(state, "ema/mean"))
    >>> kinds == {"kernel": "device" if jax.default_backend() == "cpu" else "pinned_host", "bias": "device"}
    True
    """
    record = record_of(tx)
    call = f"offloaded({record.call}, {errors.show(where)})"
    refuse_foreign(call, record, "send the state of the other parts: chain(offloaded(...)")
    parts = {"inner": record}
    if record.leaves is None:

        def send(params: Any, state: Any) -> Any:
            return _some_to_host(call, params, selected(where, params, call), state)

        whole = _around(record.tree, send)
        return join(parts, whole, per_example=record.per_example, kind="host memory")

    by_leaf = record.leaves
    made: dict[tuple[Pair, bool], Pair] = {}

    def resolve(tree: Any) -> list[Pair]:
        pairs = list(zip(by_leaf.resolve(tree), selected(where, tree, call), strict=True))
        for pair, is_sent in pairs:
            if (pair, is_sent) not in made:
                around = _around(pair, _all_to_host if is_sent else lambda param, state: state)
                made[pair, is_sent] = pair if pair in (PASS, ZERO) else around
        return [made[key] for key in pairs]

    leaves = Leaves(resolve, by_leaf.signals, by_leaf.takes_params, advance_parts({"inner": by_leaf}))
    return join(parts, leaf_by_leaf(leaves), leaves, kind="host memory")


def _around(inner: Pair, send: Callable[[Any, Any], Any]) -> Pair:
    """The functions on a state that ``send(params, state)`` puts somewhere, and that stays where it is."""

    def init(params: Any) -> OffloadedState:
        return OffloadedState(send(params, inner.init(params)))

    def update(updates: Any, state: OffloadedState, params: Any, signals: Mapping[str, Any]) -> tuple[Any, Any]:
        updates, new = inner.update(updates, jax.tree.map(_to_device, state.inner), params, signals)
        return updates, OffloadedState(cast_like(new, state.inner))

    return Pair(init, update)


def _to_device(array: Any) -> Any:
    return jax.device_put(array, jax.memory.Space.Device) if is_on_host(array) else array


def _all_to_host(param: Any, state: Any) -> Any:
    """The state of one array."""
    if not has_own_memory(param):
        return state
    return map_fields(lambda path, role, value: jax.tree.map(_to_host, value) if role.like_params else value, state)


def _some_to_host(call: str, params: Any, hits: list[bool], state: Any) -> Any:
    """The state of a tree, with what it keeps for some of the leaves in host memory."""
    flat, treedef = jax.tree.flatten(params)
    move = _to_host if flat and has_own_memory(flat[0]) else lambda array: array

    def send(path: str, role: Role, value: Any) -> Any:
        if not role.like_params:
            return value
        if all(hits):
            return jax.tree.map(move, value)
        try:
            columns = per_leaf(treedef, value)
        except (ValueError, TypeError, KeyError):
            raise errors.LayoutError(
                call, expected="fields that are trees like the parameters", got="one of another structure",
                at=repr(path), cause="a part such as flatten or packed makes one array of several leaves",
                fix="leave where out, which sends all",
            ) from None  # fmt: skip
        return tree_of(
            treedef, [jax.tree.map(move, kept) if hit else kept for hit, kept in zip(hits, columns, strict=True)]
        )

    return map_fields(send, state)


def _to_host(array: Any) -> Any:
    return jax.device_put(array, jax.memory.Space.Host) if jnp.ndim(array) else array


def has_own_memory(array: Any) -> bool:
    """Whether the device of an array has a memory beside the host's. Traced arrays are on the one used by default.

    CPUs say that they have several kinds; there a donated array in host memory ends the process (jax 0.10 and 0.12).
    """
    if isinstance(array, jax.Array) and not isinstance(array, Tracer):
        device = min(array.sharding.device_set, key=lambda device: device.id)
    else:
        chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
        device = jax.local_devices(backend=chosen)[0] if chosen is None or isinstance(chosen, str) else chosen
    return device.platform != "cpu"

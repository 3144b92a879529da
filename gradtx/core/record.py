"""The one type, and what is known of each value of it.

The record stands on the ``update`` function, so it survives unpacking. Errors, storage, sharding and the leaf-by-leaf
execution of chains read it and nothing else. A pair without a record is *foreign* (Optax's, a user's): it reads the
whole tree and takes whatever its signature says.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from gradtx import errors
from gradtx.core.leafwise import Leaves, Pair
from gradtx.tree import strong, widen

Locality = Literal["elementwise", "leaf", "tree"]
"""How far an update reads: its own element, its own leaf, or the whole tree."""


class GradientTransformation(NamedTuple):
    """``init(params) -> state`` and ``update(updates, state, params=None, **signals) -> (updates, state)``."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What is known of a transformation. ``signals`` maps names to whether they are required and who declares them.

    ``per_example`` says that its updates come in with one axis more, the first, along which are the examples; ``kind``
    is the one of :mod:`gradtx.core.order`.
    """

    name: str
    call: Any
    locality: Locality
    tree: Pair
    leaves: Leaves | None = None
    parts: Mapping[str, "Record"] = dataclasses.field(default_factory=dict)
    signals: Mapping[str, tuple[bool, str]] = dataclasses.field(default_factory=dict)
    any_signal: bool = False
    needs_params: tuple[str, ...] = ()
    foreign: bool = False
    per_example: bool = False
    kind: str = ""

    @functools.cached_property
    def kinds(self) -> frozenset[str]:
        """Its own and those of its parts."""
        return frozenset({self.kind}).union(*(part.kinds for part in self.parts.values()))


def record_of(tx: Any) -> Record:
    """The record of a transformation; a foreign one is given a record by its signature."""
    record = getattr(getattr(tx, "update", None), "__gradtx__", None)
    if isinstance(record, Record):
        return record
    init, update = tx if isinstance(tx, tuple) and len(tx) == 2 else (None, None)
    if not (callable(init) and callable(update)):
        many = isinstance(tx, list | tuple)
        raise errors.ArgumentTypeError(
            errors.UNNAMED,
            expected="each part must be a gradient transformation, a pair (init, update)",
            got=f"{type(tx).__name__} {errors.show(tx)}",
            cause="parts are given one by one" if many else "a constructor has to be called first",
            fix="write chain(*parts)" if many else "write e.g. chain(clip_by_global_norm(1.0), adam(1e-3))",
        )
    name = getattr(update, "__qualname__", type(update).__name__).split(".")[0]
    takes = signature_of(update)
    pair = Pair(lambda params: jax.tree.map(strong, init(jax.tree.map(widen, params))), _foreign_update(update, takes))
    return Record(name, f"{name}(...)", "tree", pair, any_signal=takes.any_signal, signals=takes.signals, foreign=True)


class Signature(NamedTuple):
    takes_params: bool
    needs_params: bool
    signals: dict[str, tuple[bool, str]]
    any_signal: bool


def signature_of(update: Callable[..., Any]) -> Signature:
    """What an ``update`` takes: parameters as third positional argument, signals as keyword-only ones."""
    parameters = list(inspect.signature(update).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = {p.name: (p.default is p.empty, "") for p in parameters if p.kind is p.KEYWORD_ONLY}
    spread = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return Signature(
        takes_params=len(positional) > 2 or spread,
        needs_params=len(positional) > 2 and positional[2].default is inspect.Parameter.empty,
        signals=keywords,
        any_signal=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def call_update(update: Callable[..., Any], takes: Signature, updates, state, params, signals) -> tuple[Any, Any]:
    given = signals if takes.any_signal else {name: signals[name] for name in takes.signals if name in signals}
    return update(updates, state, params, **given) if takes.takes_params else update(updates, state, **given)


def _foreign_update(update: Callable[..., Any], takes: Signature) -> Callable[..., Any]:
    def widened(updates, state, params, signals):
        updates, params = jax.tree.map(widen, (updates, params))
        updates, new_state = call_update(update, takes, updates, state, params, signals)
        return updates, jax.tree.map(strong, new_state)

    return widened

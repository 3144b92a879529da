"""The one type, and the decorator that gives each public constructor its record.

A transformation is a pair of pure functions. The decorator :func:`transformation` records, on the ``update`` function,
how it was made, how far it reads (one element, one leaf, the whole tree), which signals it takes and which parts it is
made of. Errors, storage, sharding and the leaf-by-leaf execution of chains read this record and nothing else. A pair
without a record is *foreign* (Optax's, a user's): it reads the whole tree and takes whatever its signature says.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, ParamSpec, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec

from gradtx import errors
from gradtx.core.leaf_by_leaf import PASS, ZERO, Leaves, Pair, leaf_by_leaf
from gradtx.core.roles import Counter, EmptyState, Hyperparameter, Nested, cast_like, first_step, next_step
from gradtx.tree import check_same, is_array, is_inexact, leaf_paths, widen

P = ParamSpec("P")

Locality = Literal["elementwise", "leaf", "tree"]
"""How far an update reads: its own element, its own leaf, or the whole tree."""

STANDARD_SIGNALS = ("value", "grad", "value_fn", "hvp", "key")
"""Signals that a train step may always give; who does not declare them does not get them."""


class GradientTransformation(NamedTuple):
    """``init(params) -> state`` and ``update(updates, state, params=None, **signals) -> (updates, state)``."""

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Any]]


class TunableState(NamedTuple):
    """State of a transformation rebuilt at every update from numbers: kept ones, and those its schedules give."""

    step: Counter
    hyperparameters: Hyperparameter
    scheduled: Hyperparameter
    inner: Nested


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """What is known of a transformation. ``signals`` maps names to whether they are required and who declares them."""

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


def stateless(update: Callable[..., Any]) -> GradientTransformation:
    """A transformation without state, from ``update(updates)`` or ``update(updates, params)``.

    Inside a constructor decorated with ``@transformation(locality="elementwise")`` the function is given one array at
    a time; used on its own it is given whole trees, as with Optax's function of this name.

    >>> import gradtx, jax.numpy as jnp
    >>> halve = gradtx.stateless(lambda updates, params: 0.5 * updates)
    >>> updates, _ = halve.update(jnp.array([2.0]), halve.init(None))
    >>> updates.tolist()
    [1.0]
    """

    wants_params = len(inspect.signature(update).parameters) > 1

    def init(params):
        del params
        return EmptyState()

    def update_with_state(updates, state, params=None):
        return (update(updates, params) if wants_params else update(updates)), state

    def update_alone(updates, state):
        return update(updates), state

    return GradientTransformation(init, update_with_state if wants_params else update_alone)


@overload
def transformation(constructor: Callable[P, GradientTransformation]) -> Callable[P, GradientTransformation]: ...
@overload
def transformation(
    *, locality: Locality, real: bool = False
) -> Callable[[Callable[P, GradientTransformation]], Callable[P, GradientTransformation]]: ...
def transformation(
    constructor: Callable[P, GradientTransformation] | None = None,
    *,
    locality: Locality | None = None,
    real: bool = False,
) -> Any:
    """Decorates the constructor of a transformation.

    With ``locality="elementwise"`` or ``"leaf"`` the constructor's ``init(param)`` and ``update(update, state, param)``
    are written for one array, with ``"tree"`` for whole trees. Without a locality the constructor is a composition of
    other transformations and takes theirs. ``real=True`` refuses complex leaves.

    Numbers that the annotations let be schedules may be given as such: the transformation is then rebuilt at every
    update with the value of that step, kept in a :class:`TunableState`. Updates and parameters reach a constructor's
    functions in float32 or wider; whatever dtype their new state has, it is brought back to the one from ``init``.

    Equal hashable arguments give the same object, so that an equal optimizer is never traced twice.
    """
    if constructor is None:
        return functools.partial(_decorate, locality=locality, real=real)
    return _decorate(constructor, locality=None, real=False)


def _decorate(
    constructor: Callable[P, GradientTransformation], *, locality: Locality | None, real: bool
) -> Callable[P, GradientTransformation]:
    def make(call: errors.Call) -> GradientTransformation:
        schedules = {
            name: value for name, value in call.arguments.items() if errors.is_schedule(constructor, name, value)
        }
        if schedules:
            build = functools.partial(_call_with, construct, call)
            return public(dataclasses.replace(rebuilt(build, {}, schedules), call=call, name=call.name))
        made = constructor(*call.positional, **call.keywords)
        if locality is None or hasattr(made.update, "__gradtx__"):
            return public(dataclasses.replace(record_of(made), call=call, name=call.name))
        return public(_primitive(made, call, locality, real))

    @functools.lru_cache(maxsize=4096)
    def cached(key: tuple[Any, ...]) -> list[GradientTransformation]:
        del key
        return []

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        call = errors.bind(constructor, args, kwargs)
        try:
            slot = cached(_key(dict(call.with_defaults)))
        except TypeError:  # an unhashable argument, such as an array
            return make(call)
        if not slot:
            slot.append(make(call))
        return slot[0]

    return construct


def _key(value: Any) -> Any:
    """A hashable stand-in for an argument: equal for equal arguments of equal types."""
    if type(value) in (dict, tuple, list):
        items = sorted(value.items()) if type(value) is dict else enumerate(value)
        return type(value), tuple((name, _key(item)) for name, item in items)
    return type(value), value


def _call_with(construct: Callable[..., GradientTransformation], call: errors.Call, numbers: Mapping[str, Any]) -> Any:
    return construct(**{**call.arguments, **numbers})


# ---------------------------------------------------------------------------------------------------------------------
# Records.


def record_of(tx: Any) -> Record:
    """The record of a transformation; a foreign one is given a record by its signature."""
    record = getattr(getattr(tx, "update", None), "__gradtx__", None)
    if isinstance(record, Record):
        return record
    init, update = tx if isinstance(tx, tuple) and len(tx) == 2 else (None, None)
    if not (callable(init) and callable(update)):
        many = isinstance(tx, list | tuple)
        raise errors.ArgumentTypeError(
            "a combinator",
            expected="each part must be a gradient transformation, a pair (init, update)",
            got=f"{type(tx).__name__} {errors.show(tx)}",
            cause="parts are given one by one" if many else "a constructor has to be called first",
            fix="write chain(*parts)" if many else "write e.g. chain(clip_by_global_norm(1.0), adam(1e-3))",
        )
    name = getattr(update, "__qualname__", type(update).__name__).split(".")[0]
    takes = _signature(update)
    pair = Pair(lambda params: init(jax.tree.map(widen, params)), _foreign_update(update, takes))
    return Record(name, f"{name}(...)", "tree", pair, any_signal=takes.any_signal, signals=takes.signals, foreign=True)


class _Signature(NamedTuple):
    takes_params: bool
    needs_params: bool
    signals: dict[str, tuple[bool, str]]
    any_signal: bool


def _signature(update: Callable[..., Any]) -> _Signature:
    """What an ``update`` takes: parameters as third positional argument, signals as keyword-only ones."""
    parameters = list(inspect.signature(update).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keywords = {p.name: (p.default is p.empty, "") for p in parameters if p.kind is p.KEYWORD_ONLY}
    spread = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return _Signature(
        takes_params=len(positional) > 2 or spread,
        needs_params=len(positional) > 2 and positional[2].default is inspect.Parameter.empty,
        signals=keywords,
        any_signal=any(p.kind is p.VAR_KEYWORD for p in parameters),
    )


def _call_update(update: Callable[..., Any], takes: _Signature, updates, state, params, signals) -> tuple[Any, Any]:
    given = signals if takes.any_signal else {name: signals[name] for name in takes.signals if name in signals}
    return update(updates, state, params, **given) if takes.takes_params else update(updates, state, **given)


def _foreign_update(update: Callable[..., Any], takes: _Signature) -> Callable[..., Any]:
    def widened(updates, state, params, signals):
        updates, params = jax.tree.map(widen, (updates, params))
        return _call_update(update, takes, updates, state, params, signals)

    return widened


def _primitive(tx: GradientTransformation, call: errors.Call, locality: Locality, real: bool) -> Record:
    """The record of a unit that is written by hand, for one array or for whole trees."""
    takes = _signature(tx.update)

    def init(params):
        _check_dtypes(call, params, False)
        return tx.init(params)

    def update(updates, state, params, signals):
        _check_dtypes(call, updates, real)
        return _call_update(tx.update, takes, updates, state, params, signals)

    pair = Pair(init, update)
    if locality == "tree":
        tree, leaves = _with_precision(pair), None
    else:
        leaves = Leaves(lambda tree: [pair] * len(jax.tree.leaves(tree)), takes.signals, takes.takes_params)
        tree = leaf_by_leaf(leaves)
    signals = {name: required for name, required in takes.signals.items() if name != "leaf_seed"}
    needs_params = ("",) if takes.needs_params else ()
    return Record(call.name, call, locality, tree, leaves, {}, signals, takes.any_signal, needs_params)


def _with_precision(pair: Pair) -> Pair:
    """The functions of whole trees under the precision policy."""

    def init(params):
        return pair.init(jax.tree.map(widen, params))

    def update(updates, state, params, signals):
        updates, params = jax.tree.map(widen, (updates, params))
        updates, new_state = pair.update(updates, state, params, signals)
        return updates, cast_like(new_state, state)

    return Pair(init, update)


def _check_dtypes(call: errors.Call, tree: Any, real: bool) -> None:
    for index, leaf in enumerate(jax.tree.leaves(tree)):
        if not is_inexact(leaf) or (real and jnp.issubdtype(leaf.dtype, jnp.complexfloating)):
            raise _dtype_error(call, leaf, leaf_paths(tree)[index])


def _dtype_error(call: errors.Call, leaf: Any, path: str) -> errors.DtypeError:
    if not hasattr(leaf, "dtype"):
        expected, cause, fix = (
            "leaves must be arrays of floating-point numbers",
            "a whole model was given, with functions or text in it",
            "pass only its arrays, e.g. eqx.filter(model, eqx.is_inexact_array)",
        )
    elif jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        expected, cause, fix = (
            f"{call.name} has no meaning for complex leaves",
            "it compares numbers, and complex ones have no order",
            "keep real and imaginary parts as two real leaves",
        )
    else:
        expected, cause, fix = (
            "optimizers need floating-point leaves",
            "a table of integers or booleans stands among the parameters",
            "cast it, or leave it out with only(tx, where=lambda path, leaf: leaf.dtype.kind == 'f')",
        )
    got = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" if hasattr(leaf, "dtype") else type(leaf).__name__
    return errors.DtypeError(call, expected=expected, got=got, at=repr(path), cause=cause, fix=fix)


def compose(
    parts: Mapping[str, Record],
    body: Callable[[Mapping[str, Pair]], Pair],
    *,
    tree_body: Callable[[], Pair] | None = None,
    own_signals: Iterable[str] = (),
) -> GradientTransformation:
    """A transformation made of parts by ``body``, which is written once for one array and for whole trees.

    When no part reads the whole tree, ``body`` combines the parts' functions of one leaf, and the result runs leaf by
    leaf. Otherwise it combines their functions of trees (or ``tree_body()`` does, where a combinator knows better).
    ``own_signals`` are those that the body itself reads on each leaf.
    """
    if widest(parts) == "tree":
        return join(parts, tree_body() if tree_body else body({key: part.tree for key, part in parts.items()}))
    leaves = combine_leaves({key: part.leaves for key, part in parts.items() if part.leaves}, body)
    leaves = leaves._replace(signals={**leaves.signals, **dict.fromkeys(own_signals)})
    return join(parts, leaf_by_leaf(leaves), leaves)


def widest(parts: Mapping[str, Record]) -> Locality:
    """The locality of a composition: the one of its part that reads farthest."""
    localities: set[Locality] = {part.locality for part in parts.values()}
    return "tree" if "tree" in localities else "leaf" if "leaf" in localities else "elementwise"


def join(parts: Mapping[str, Record], tree: Pair, leaves: Leaves | None = None) -> GradientTransformation:
    """The transformation with these functions, whose record says what its parts' records say."""
    signals: dict[str, tuple[bool, str]] = {}
    needs_params = []
    for index, (name, part) in enumerate(parts.items()):
        address = f"{index}:{name}"
        for signal, (required, inner) in part.signals.items():
            if signal not in signals or required:
                signals[signal] = (required, _address(address, inner))
        needs_params += [_address(address, inner) for inner in part.needs_params]
    return public(
        Record(
            name="composition",
            call="composition",
            locality=widest(parts),
            tree=tree,
            leaves=leaves,
            parts=dict(parts),
            signals=signals,
            any_signal=any(part.any_signal for part in parts.values()),
            needs_params=tuple(needs_params),
        )
    )


def combine_leaves(parts: Mapping[str, Leaves], body: Callable[[Mapping[str, Pair]], Pair]) -> Leaves:
    """The functions of one leaf of a composition; equal ingredients give the same functions, hence one trace."""
    made: dict[tuple[Pair, ...], Pair] = {}

    def resolve(tree: Any) -> list[Pair]:
        count = len(jax.tree.leaves(tree))
        columns = [part.resolve(tree) for part in parts.values()]
        rows = list(zip(*columns, strict=True)) if columns else [()] * count
        for row in rows:
            if row not in made:
                made[row] = body(dict(zip(parts, row, strict=True)))
        return [made[row] for row in rows]

    declared = {name: value for part in parts.values() for name, value in part.signals.items()}
    return Leaves(resolve, declared, any(part.takes_params for part in parts.values()))


def _address(outer: str, inner: str) -> str:
    return f"{outer} > {inner}" if inner else outer


# ---------------------------------------------------------------------------------------------------------------------
# Numbers as data.


def rebuilt(
    build: Callable[[Mapping[str, Any]], GradientTransformation],
    numbers: Mapping[str, Any],
    schedules: Mapping[str, Callable[[Any], Any]],
) -> Record:
    """The record of ``build(values)``, built anew at every update with the numbers of its state and of its schedules.

    ``numbers`` start as given and stay in the state, where they may be replaced; ``schedules`` are evaluated at the
    state's step. ``build`` only sees traced numbers here, so it must not decide anything by their value.
    """
    probe = _probe(build, [*numbers, *schedules])

    def pair(choose: Callable[[Record], Pair]) -> Pair:
        def init(params):
            kept = {name: _number(value) for name, value in numbers.items()}
            step = first_step()
            scheduled = _evaluate(schedules, step)
            inner = choose(record_of(build({**kept, **scheduled}))).init(params)
            return TunableState(step, kept, scheduled, inner)

        def update(updates, state, params, signals):
            scheduled = _evaluate(schedules, state.step)
            record = record_of(build({**state.hyperparameters, **scheduled}))
            updates, inner = choose(record).update(updates, state.inner, params, signals)
            return updates, TunableState(next_step(state.step), state.hyperparameters, scheduled, inner)

        return Pair(init, update)

    if probe.leaves is None:
        return dataclasses.replace(probe, tree=pair(lambda record: record.tree), leaves=None)

    made: dict[Pair, Pair] = {}

    def resolve(tree: Any) -> list[Pair]:
        assert probe.leaves is not None
        pairs = probe.leaves.resolve(tree)
        for index, like in enumerate(pairs):
            if like not in made:
                chosen = functools.partial(_leaf_of, _without_values(tree), index)
                made[like] = like if like in (PASS, ZERO) else pair(chosen)
        return [made[like] for like in pairs]

    leaves = Leaves(resolve, probe.leaves.signals, probe.leaves.takes_params)
    return dataclasses.replace(probe, tree=leaf_by_leaf(leaves), leaves=leaves)


def _without_values(tree: Any) -> Any:
    """Shapes and dtypes only: what may outlive a trace."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array(leaf) else None, tree)


def _leaf_of(shapes: Any, index: int, record: Record) -> Pair:
    assert record.leaves is not None
    return record.leaves.resolve(shapes)[index]


def _probe(build: Callable[[Mapping[str, Any]], GradientTransformation], names: Iterable[str]) -> Record:
    """The record that ``build`` gives for traced numbers, without computing anything."""
    found: list[Record] = []

    def trace(values):
        found.append(record_of(build(values)))
        return 0.0

    jax.eval_shape(trace, {name: jax.ShapeDtypeStruct((), jnp.float32) for name in names})
    return found[0]


def _number(value: Any) -> jax.Array:
    """A hyperparameter as data: a float32 scalar of its own."""
    return jnp.array(value, jnp.float32)


def _evaluate(schedules: Mapping[str, Callable[[Any], Any]], step: jax.Array) -> dict[str, jax.Array]:
    values = {}
    for name, schedule in schedules.items():
        value = schedule(step)
        if isinstance(value, bool) or not isinstance(value, int | float | np.number | np.ndarray | jax.Array) or (
            jnp.shape(value) != () or jnp.iscomplexobj(value)
        ):  # fmt: skip
            raise errors.ArgumentTypeError(
                f"{name}={errors.show(schedule)}",
                expected="a schedule must return one real number for a step",
                got=f"{type(value).__name__} {errors.show(value)}",
                cause="the function lacks a return statement, or returns another function",
                fix="write e.g. lambda step: 1e-3 * 0.5 ** (step / 1000)",
            )
        values[name] = _number(value) if not isinstance(value, jax.Array) else value.astype(jnp.float32)
    return {name: jax.lax.convert_element_type(value, jnp.float32) for name, value in values.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The public edge.


def public(record: Record) -> GradientTransformation:
    """The pair that users hold: checks what can be checked without running, then calls the record's functions."""

    def init(params: Any) -> Any:
        try:
            return _beside(params, record.tree.init(params))
        except errors.GradtxError as error:
            raise error.raised_by(record.call) from None

    def update(updates: Any, state: Any, params: Any = None, **signals: Any) -> tuple[Any, Any]:
        if signals:
            _check_signals(record, signals)
        for name, (required, address) in record.signals.items():
            if required and name not in signals:
                raise errors.SignalError(
                    record.call,
                    expected=f"{address or record.name} needs the signal {name}",
                    got=f"signals {sorted(signals)}" if signals else "none",
                    cause="the loop does not give it",
                    fix=f"write tx.update(grads, state, params, {name}=...)",
                )
        if params is not None:
            check_same(record.call, "grads", updates, "params", params)
        elif record.needs_params:
            raise errors.MissingParams(
                record.call,
                expected=f"{record.needs_params[0] or record.name} needs the parameters",
                got="params=None",
                cause="update was called with gradients and state only",
                fix="write tx.update(grads, state, params)",
            )
        try:
            return record.tree.update(updates, state, params, signals)
        except errors.GradtxError as error:
            raise error.raised_by(record.call) from None

    update.__gradtx__ = record  # type: ignore[attr-defined]
    update.__gradtx_call__ = record.call  # type: ignore[attr-defined]
    return GradientTransformation(init, update)


def _beside(params: Any, state: Any) -> Any:
    """The state with its counters and other scalars on the parameters' mesh, where an update will leave them."""
    shardings = (leaf.sharding for leaf in jax.tree.leaves(params) if _is_concrete(leaf))
    mesh = next((sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)), None)
    if mesh is None:
        return state
    everywhere = NamedSharding(mesh, PartitionSpec())

    def place(leaf: Any) -> Any:
        return jax.device_put(leaf, everywhere) if _is_concrete(leaf) and not leaf.committed else leaf

    return jax.tree.map(place, state)


def _is_concrete(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer)


def _check_signals(record: Record, signals: Mapping[str, Any]) -> None:
    if record.any_signal:
        return
    for name in signals:
        if name not in record.signals and name not in STANDARD_SIGNALS:
            meant = errors.nearest(name, [*record.signals, *STANDARD_SIGNALS])
            declared = ", ".join(sorted(record.signals)) or "none of its own"
            raise errors.SignalError(
                record.call,
                expected=f"signals that a part declares ({declared}) or standard ones ({', '.join(STANDARD_SIGNALS)})",
                got=repr(name),
                cause=f"did you mean {meant!r}?" if meant else "no part of the transformation takes it",
                fix=f"write tx.update(grads, state, params{f', {meant}=...' if meant else ''})",
            )

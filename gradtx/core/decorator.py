"""The decorator that gives each public constructor its record.

It records how a transformation was made, how far it reads (one element, one leaf, the whole tree), which signals it
takes and which parts it is made of.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, overload

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core.edge import public
from gradtx.core.leafwise import Leaves, Pair, leaf_by_leaf, with_precision
from gradtx.core.order import Kind
from gradtx.core.rebuilding import rebuilt
from gradtx.core.record import GradientTransformation, Locality, Record, call_update, record_of, signature_of
from gradtx.core.roles import EmptyState
from gradtx.tree import is_inexact, leaf_paths

P = ParamSpec("P")


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


Functions = GradientTransformation | tuple[Callable[..., Any], ...]


@overload
def transformation(constructor: Callable[P, Functions]) -> Callable[P, GradientTransformation]: ...
@overload
def transformation(
    *, locality: Locality, real: bool = False, per_example: bool = False, kind: Kind = ""
) -> Callable[[Callable[P, Functions]], Callable[P, GradientTransformation]]: ...
def transformation(
    constructor: Callable[P, Functions] | None = None,
    *,
    locality: Locality | None = None,
    real: bool = False,
    per_example: bool = False,
    kind: Kind = "",
) -> Any:
    """Decorates the constructor of a transformation.

    With ``locality="elementwise"`` or ``"leaf"`` the constructor's ``init(param)`` and ``update(update, state, param)``
    are written for one array, with ``"tree"`` for whole trees. Where the leaves share a part of the state (a counter),
    the constructor may return a third function, ``advance(state) -> state``, which takes that part to the next step
    once, before ``update`` sees it; ``update`` then leaves it alone. Without a locality the constructor is a
    composition of other transformations and takes theirs. ``real=True`` refuses complex leaves.
    With ``per_example=True``, for whole trees, updates come in with an axis of examples before those of the parameters,
    and leave without it. ``kind="layers"``, for whole trees, says that it tells their leaves apart.

    Numbers that the annotations let be schedules may be given as such: the transformation is then rebuilt at every
    update with the value of that step, kept in a :class:`TunableState`. Updates and parameters reach a constructor's
    functions in float32 or wider; whatever dtype their new state has, it is brought back to the one from ``init``.

    Equal hashable arguments give the same object, so that an equal optimizer is never traced twice.
    """
    if constructor is None:
        return functools.partial(_decorate, locality=locality, real=real, per_example=per_example, kind=kind)
    return _decorate(constructor)


def _decorate(
    constructor: Callable[P, Functions],
    *,
    locality: Locality | None = None,
    real: bool = False,
    per_example: bool = False,
    kind: Kind = "",
) -> Callable[P, GradientTransformation]:
    def make(call: errors.Call) -> GradientTransformation:
        schedules = {
            name: value for name, value in call.arguments.items() if errors.is_schedule(constructor, name, value)
        }
        if schedules:
            build = functools.partial(_call_with, construct, call)
            return public(dataclasses.replace(rebuilt(build, {}, schedules), call=call, name=call.name))
        made = constructor(*call.positional, **call.keywords)
        if locality is None or (isinstance(made, GradientTransformation) and hasattr(made.update, "__gradtx__")):
            return public(dataclasses.replace(record_of(made), call=call, name=call.name))
        return public(dataclasses.replace(_primitive(made, call, locality, real), per_example=per_example, kind=kind))

    remembered = errors.remember(make)

    @functools.wraps(constructor)
    def construct(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        return remembered(errors.bind(constructor, args, kwargs))

    return construct


def _call_with(construct: Callable[..., GradientTransformation], call: errors.Call, numbers: Mapping[str, Any]) -> Any:
    return construct(**{**call.arguments, **numbers})


def _primitive(made: tuple[Callable[..., Any], ...], call: errors.Call, locality: Locality, real: bool) -> Record:
    """The record of a unit that is written by hand, for one array or for whole trees."""
    tx = GradientTransformation(*made[:2])
    takes = signature_of(tx.update)

    def init(params):
        _check_dtypes(call, params, False)
        return tx.init(params)

    def update(updates, state, params, signals):
        _check_dtypes(call, updates, real)
        return call_update(tx.update, takes, updates, state, params, signals)

    pair = Pair(init, update)
    if locality == "tree":
        tree, leaves = with_precision(pair), None
    else:
        leaves = Leaves(lambda tree: [pair] * len(jax.tree.leaves(tree)), takes.signals, takes.takes_params, *made[2:])
        tree = leaf_by_leaf(leaves)
    signals = {name: required for name, required in takes.signals.items() if name != "leaf_seed"}
    needs_params = ("",) if takes.needs_params else ()
    return Record(call.name, call, locality, tree, leaves, {}, signals, takes.any_signal, needs_params)


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
            "cast it, or leave it out with only(tx, where=lambda path, leaf: jnp.issubdtype(leaf.dtype, jnp.floating))",
        )
    got = f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" if hasattr(leaf, "dtype") else type(leaf).__name__
    return errors.DtypeError(call, expected=expected, got=got, at=repr(path), cause=cause, fix=fix)

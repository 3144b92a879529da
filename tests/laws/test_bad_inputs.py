"""What users pass wrongly: each entry with the cases that run here over every unit, or with the tests that hold it.

No row lists what its arguments cannot be: that follows from the annotations of its constructor. Only what no annotation
says stands here by name.
"""

import collections.abc
import contextlib
import functools
import inspect
import math
import pathlib
import re
import typing
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors
from gradtx.errors import Interval, Whole
from tests.laws.table import UNITS
from tests.laws.trees import gradients, params
from tests.laws.unit import Unit

ROOT = pathlib.Path(__file__).parents[2]
CONSTRUCTORS = tuple({unit.constructor: unit for unit in reversed(UNITS)}.values())
"""A row for each constructor."""

NAN, INF = float("nan"), float("inf")
ONES = jnp.ones(3)
SGD = gradtx.sgd(0.1)
OF_NO_KIND = ("0.1", b"1", [0.1], {1, 2}, 1j, ONES, np.ones(3), dict, object())
"""What is neither number, nor flag, nor function, nor transformation."""

Case = tuple[str, Callable[[], Any]]


def accepted(cases: Iterator[Case]) -> list[str]:
    """The cases that did not fail with an error of this library, and how they ended."""
    found = []
    for what, call in cases:
        try:
            call()
        except errors.GradtxError as error:
            if not str(error).endswith(f"[{error.code}]"):
                found.append(f"{what}: {error}")
        except Exception as error:
            found.append(f"{what}: {type(error).__name__}: {error}")
        else:
            found.append(f"{what}: accepted")
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Arguments: what an annotation excludes.


def wrong_numbers(interval: Interval) -> list[Any]:
    wrong = [NAN, INF, -INF, np.float32(NAN), jnp.asarray(NAN), 10**400, -(10**400), 1e39, True, np.True_, SGD]
    wrong.append({"w": "0.1"} if interval.per_layer else {"w": 0.1})
    wrong += [] if interval.schedule else [lambda step: 0.5]
    if interval.low > -math.inf:
        wrong += [interval.low - 1.0, jnp.asarray(interval.low - 1.0), int(interval.low) - 1]
        wrong += [interval.low] if interval.open_low else []
    if interval.high < math.inf:
        wrong += [interval.high + 1.0, *([interval.high] if interval.open_high else [])]
    return wrong + ([interval.smallest / 2] if interval.smallest else [])


def wrong_for(hint: Any) -> list[Any] | None:
    """Values that an annotation excludes, or None where it excludes nothing."""
    members = {*typing.get_args(hint)} if type(None) in typing.get_args(hint) else {hint}
    members |= {*typing.get_args(hint)} if typing.get_origin(hint) in (typing.Union, type(int | str)) else set()
    none = [] if type(None) in members else [None]
    kinds = {typing.get_origin(member) for member in members}
    for constraint in [c for member in members for c in getattr(member, "__metadata__", ())]:
        if isinstance(constraint, Interval):
            return [*wrong_numbers(constraint), *OF_NO_KIND, *none]
        if isinstance(constraint, Whole):
            function = [] if collections.abc.Callable in kinds else [lambda step: 3]
            return [constraint.low - 1, 2.5, 2.0, np.float64(2.0), NAN, True, *function, *OF_NO_KIND, *none]
    if members <= {bool, type(None)}:
        return [1, 0, 1.0, lambda step: True, *OF_NO_KIND, *none]
    if typing.Literal in kinds:
        return ["nonsense", 7, True, None, ["unit"], ONES, dict]
    if members <= {gradtx.GradientTransformation, type(None)}:
        return [1e-3, "adam", dict, gradtx.adam, [SGD], {"a": SGD}, (1, 2), ONES, abs, *none]
    if kinds <= {collections.abc.Callable, None} and members - {type(None)} and Any not in members:
        return [0.5, "cos", [abs], dict, ONES, True, *none] if None not in kinds or none == [] else None
    return None


KEYS = (None, 0.5, "seed", True, [0], ONES, dict)
MASKS = (0.5, "no such leaf", re.compile("^$"), [abs], dict, ONES, {"w": True}, {"w": 1, "b": 0, "s": 1}, lambda p, x: "w")
AXES = ("0", 0.5, [0.5], 5, (0, 0), ONES, dict)
NAMED = {
    **dict.fromkeys(("mask", "where", "weight_decay_mask", "trust_ratio_mask", "normalized", "rows", "heads"), MASKS),
    "key": KEYS,
    "random_seed": KEYS,
    "seed": KEYS,
    "every": (None, 0, -2, 2.5, True, "4", [4], int, ONES),
    "axis": AXES,
    "param_labels": ("a", {"w": "a"}, {"w": "a", "b": "b", "s": "c"}, lambda path, leaf: None, 3),
    "layout": (None, "bfloat16", jnp.bfloat16, dict),
    "betas": (None, 0.9, (), (0.9, 1.0), (0.9, NAN), ("0.9", 0.9), [None, 0.9], {"b1": 0.9}, ONES, dict),
    "init_step": (None, 1e-3, "distance", ("far", 1.0), ("distance", 0.0), ("distance", NAN), ("distance", "1"), ()),
    "ns_coeffs": (None, "nine", (1.0, 2.0), ((1.0, 2.0, 3.0),) * 2, (1.0, 2.0, NAN), ("1", "2", "3"), 3.0, dict),
    "measure_name": (None, 1.0, dict),
    "measures": (None, 1.0, "norm", dict, {"norm": 1.0}, {0: abs}, [abs]),
    "value": (None, 0.1, "w", dict, {}, {"w": "0.1"}, {0: 0.1}, lambda path, leaf: None),
}
"""Arguments that no annotation constrains; they may fail as late as ``init``."""
PARTS = {
    "total": (None, 1e-3, "adam", dict, gradtx.adam, [SGD], (1, 2)),
    "chain": (None, 1e-3, "adam", dict, gradtx.adam, [SGD], (1, 2)),
    "named_chain": (None, SGD, ("a", None), ("a", gradtx.adam), (SGD, "a"), "ab"),
    "partition": (None, SGD, [SGD], {"a": None, "b": SGD}, {"a": gradtx.adam, "b": SGD}),
}


def wrong_of(unit: Unit) -> Iterator[tuple[str, Any]]:
    hints = typing.get_type_hints(unit.constructor, include_extras=True)
    for name, parameter in inspect.signature(unit.constructor).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        wrong = wrong_for(hints[name])
        if name == "transforms":
            wrong = PARTS[unit.constructor.__name__]
        elif wrong is None:
            assert name in NAMED, f"{unit.constructor.__name__}({name}=): what would be wrong?"
            optional = parameter.default is None and name != "key"
            wrong = [value for value in NAMED[name] if not (optional and value is None)]
        yield from ((name, value) for value in wrong)


def with_argument(unit: Unit, name: str, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    signature = inspect.signature(unit.constructor)
    bound = signature.bind(*unit.positional, **unit.arguments)
    variadic = signature.parameters[name].kind is inspect.Parameter.VAR_POSITIONAL
    bound.arguments[name] = (value,) if variadic else value
    if name == "mask" and signature.parameters.get("weight_decay", signature.parameters[name]).default is None:
        bound.arguments["weight_decay"] = 0.1  # what the mask is for
    return bound.args, bound.kwargs


def arguments(unit: Unit) -> Iterator[Case]:
    def call(name: str, value: Any) -> None:
        args, kwargs = with_argument(unit, name, value)
        try:
            tx = unit.constructor(*args, **kwargs)
        except errors.GradtxError as error:
            assert str(error).startswith(f"{unit.constructor.__name__}("), error
            raise
        if name in NAMED:  # what is said of leaves is checked when they are known
            tx.init(params())

    for name, value in wrong_of(unit):
        yield f"{unit.constructor.__name__}({name}={value!r})", functools.partial(call, name, value)


def calls(unit: Unit) -> Iterator[Case]:
    """Habits of other libraries, slips of the keyboard."""
    signature, name = inspect.signature(unit.constructor), unit.constructor.__name__
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return
    for argument in [*signature.parameters, "learning_rte"]:
        yield f"{name}({argument}_=0.1)", functools.partial(unit.make, **{f"{argument}_": 0.1})
    if "learning_rate" in signature.parameters:
        yield f"{name}(params, lr=0.1)", functools.partial(unit.constructor, params(), lr=0.1)
        yield f"{name}(params)", functools.partial(unit.constructor, params())
        yield f"{name}(iter(params))", functools.partial(unit.constructor, iter(params().values()))
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        yield f"{name}(too many)", functools.partial(unit.constructor, *[0.1] * (len(kinds) + 1))
    if any(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in signature.parameters.values()):
        yield f"{name}()", unit.constructor


def schedules(unit: Unit) -> Iterator[Case]:
    returned = (None, "0.1", ONES, 1j, [0.1])
    for index, name in enumerate(unit.numbers):
        value = returned[index % len(returned)]

        def start(name: str = name, value: Any = value) -> None:
            unit.make(**{name: lambda step: value}).init(params())

        yield f"{unit.name}({name}=lambda step: {value!r})", start


# ---------------------------------------------------------------------------------------------------------------------
# Trees: gradients and states that are none.


@functools.cache
def started(unit: Unit) -> tuple[gradtx.GradientTransformation, Any]:
    tx = unit.make()
    return tx, tx.init(params())


def updating(unit: Unit, grads: Any, state: Any, weights: Any) -> Callable[[], Any]:
    signals = {name: None for name in unit.signals}  # never read
    return functools.partial(started(unit)[0].update, grads, state, weights, **signals)


def with_leaf(leaf: Any) -> dict[str, Any]:
    return {**gradients(), "b": leaf}


OTHER_GRADIENTS = {
    "whole numbers": with_leaf(jnp.arange(2)),
    "booleans": with_leaf(jnp.array([True, False])),
    "float0, of allow_int=True": with_leaf(np.zeros(2, jax.dtypes.float0)),
    "complex numbers": with_leaf(jnp.ones(2, jnp.complex64)),
    "text": with_leaf("b"),
    "a function": with_leaf(print),
    "a list of numbers": with_leaf([1.0, 2.0]),
    "the value beside them": (jnp.ones(()), gradients()),
    "nothing": None,
    "a function of the parameters": jax.grad(lambda weights: 0.0),
}


def other_gradients(unit: Unit) -> Iterator[Case]:
    _, state = started(unit)
    for what, grads in OTHER_GRADIENTS.items():
        yield f"{unit.name}, {what}", updating(unit, grads, state, params())
    yield f"{unit.name}, grads and state in the other order", updating(unit, state, gradients(), params())
    yield f"{unit.name}, params and state in the other order", updating(unit, gradients(), params(), state)


def other_states(unit: Unit) -> Iterator[Case]:
    tx, state = started(unit)
    smaller = {**params(), "b": jnp.ones(1)}
    others = {"no state": None, "the function init": tx.init, "the state of another": gradtx.lamb(1e-3).init(params())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradtx.combinators.selecting.UnusedLabelWarning)
        others["the state of other shapes"] = jax.eval_shape(tx.init, smaller)
    for what, other in others.items():
        if jax.tree.leaves(state) and types_of(other) != types_of(state):
            yield f"{unit.name}, {what}", functools.partial(traced, unit, other)


def traced(unit: Unit, state: Any) -> None:
    update = unit.fed(started(unit)[0])
    jax.eval_shape(lambda grads: update(grads, state, params()), gradients())


def types_of(state: Any) -> Any:
    return jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf)), state)


# ---------------------------------------------------------------------------------------------------------------------
# The entries.

OVER_CONSTRUCTORS: dict[str, Callable[[Unit], Iterator[Case]]] = {
    "arguments that are no numbers, out of range, not finite, or vanish": arguments,
    "other libraries' calls, misspelt and missing arguments": calls,
    "a schedule that returns no number": schedules,
}


@pytest.mark.parametrize("entry", OVER_CONSTRUCTORS)
def test_every_constructor_refuses(entry):
    assert [end for unit in CONSTRUCTORS for end in accepted(OVER_CONSTRUCTORS[entry](unit))] == []


def test_every_update_refuses_gradients_that_are_none():
    assert [end for unit in UNITS for end in accepted(other_gradients(unit))] == []


@pytest.mark.parametrize("units", [UNITS[:30], pytest.param(UNITS[30:], marks=pytest.mark.slow)], ids=["first", "rest"])
def test_every_update_refuses_the_state_of_something_else(units):
    assert [end for unit in units for end in accepted(other_states(unit))] == []

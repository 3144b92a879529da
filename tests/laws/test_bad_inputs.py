"""What users pass wrongly: each entry with the cases that run here over every unit, or with the tests that hold it.

No row lists what its arguments cannot be: that follows from the annotations of its constructor. Only what no annotation
says stands here by name.
"""

import collections.abc
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
    per_layer = [{"*": -1.0}, {"*": "0.1"}, {"*": None}, {0: 0.1}, {"block": {"kernel": 0.1}}]
    wrong += per_layer if interval.per_layer else [{"w": 0.1}]
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
MASKS = (
    0.5,
    "no such leaf",
    re.compile("^$"),
    [abs],
    dict,
    ONES,
    {"w": True},
    {"w": 1, "b": 0, "s": 1},
    lambda p, x: "w",
)
AXES = ("0", 0.5, [0.5], 5, (0, 0), ONES, dict)
NAMED = {
    **dict.fromkeys(("mask", "where", "weight_decay_mask", "trust_ratio_mask", "normalized", "rows", "heads"), MASKS),
    "key": KEYS,
    "random_seed": KEYS,
    "seed": KEYS,
    "every": (None, 0, -2, 2.5, True, "4", [4], int, ONES),
    "axis": AXES,
    "param_labels": ({"w": "a"}, {"w": "a", "b": "b", "s": "c"}, lambda path, leaf: None, 3),
    "layout": (None, "bfloat16", jnp.bfloat16, dict),
    "betas": (None, 0.9, (), (0.9, 1.0), (0.9, NAN), ("0.9", 0.9), [None, 0.9], {"b1": 0.9}, ONES, dict),
    "init_step": (None, 1e-3, "distance", ("far", 1.0), ("distance", 0.0), ("distance", NAN), ("distance", "1"), ()),
    "ns_coeffs": (None, "nine", (1.0, 2.0), ((1.0, 2.0, 3.0),) * 2, (1.0, 2.0, NAN), ("1", "2", "3"), 3.0, dict),
    "measure_name": (None, 1.0, dict),
    "measures": (None, 1.0, "norm", dict, {"norm": 1.0}, {0: abs}, [abs]),
    "value": (None, 0.1, "w", dict, {"w": "0.1"}, {0: 0.1}, lambda path, leaf: None),
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
            named = name in str(error) or name in {*NAMED, "transforms"} or "each part must be" in str(error)
            if not str(error).startswith(f"{unit.constructor.__name__}(") or not named:
                raise ValueError(f"a message without call or argument: {error}") from error
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
        yield f"{name}(lr=0.1)", functools.partial(misspelt, unit)
        yield f"{name}(params, lr=0.1)", functools.partial(unit.constructor, params(), lr=0.1)
        yield f"{name}(params)", functools.partial(unit.constructor, params())
        yield f"{name}(iter(params))", functools.partial(unit.constructor, iter(params().values()))
    if inspect.Parameter.VAR_POSITIONAL not in kinds:
        yield f"{name}(too many)", functools.partial(unit.constructor, *[0.1] * (len(kinds) + 1))
    if any(p.default is p.empty and p.kind is not p.VAR_POSITIONAL for p in signature.parameters.values()):
        yield f"{name}()", unit.constructor


CORRECTED = {
    "write `quantized(bits=8)`": lambda: gradtx.storage.quantized(8),
    "write `quantized(bits=8, block=64)`": lambda: gradtx.storage.quantized(8, 64),
    "write `quantized()`": lambda: gradtx.storage.quantized(8, bits=4),
    "write `master_weights(sgd(0.1), bits=8)`": lambda: gradtx.storage.master_weights(SGD, 8),
    "write `packed(sgd(0.1), below=100)`": lambda: gradtx.storage.packed(SGD, 100),
    "write `cast('bfloat16', rounding='stochastic')`": lambda: gradtx.storage.cast("bfloat16", "stochastic"),
    "write `stored(sgd(0.1), layout=...)`": lambda: gradtx.storage.stored(SGD),
    "write `adam(0.1, b1=0.8)`": lambda: gradtx.adam(0.1, beta1=0.8),
    "write `tx = adam(learning_rate=1e-3); state": lambda: gradtx.adam({"w": ONES}, lr=0.1),
}  # fmt: skip
"""What is proposed in place of a call, with its own values where they fit."""


@pytest.mark.parametrize("proposed", CORRECTED)
def test_a_call_that_does_not_fit_is_given_back_corrected(proposed):
    with pytest.raises(errors.ArgumentTypeError) as error:
        CORRECTED[proposed]()
    assert proposed in str(error.value)


def misspelt(unit: Unit) -> None:
    try:
        unit.make(lr=0.1)
    except errors.ArgumentTypeError as error:
        if "did you mean 'learning_rate'?" not in str(error):
            raise ValueError("no name is proposed") from error
        raise


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
    return tx, jax.eval_shape(tx.init, params())


def updating(unit: Unit, grads: Any, state: Any, weights: Any) -> Callable[[], Any]:
    signals = dict.fromkeys(unit.signals)  # never read
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
        others["the state of other shapes"] = tx.init(smaller)
    for what, other in others.items():
        if jax.tree.leaves(state) and types_of(other) != types_of(state):
            yield f"{unit.name}, {what}", functools.partial(traced, unit, other)


def traced(unit: Unit, state: Any) -> None:
    update = unit.fed(started(unit)[0])
    jax.eval_shape(lambda grads: update(grads, state, params()), gradients())


def types_of(state: Any) -> Any:
    return jax.tree.map(lambda leaf: getattr(leaf, "shape", type(leaf)), state)


# ---------------------------------------------------------------------------------------------------------------------
# What runs here, and the entries with the tests that hold them, by the path below ``tests``.


def test_every_constructor_refuses_arguments_that_its_annotations_exclude():
    assert [end for unit in CONSTRUCTORS for end in accepted(arguments(unit))] == []


def test_every_constructor_refuses_calls_of_other_libraries():
    assert [end for unit in CONSTRUCTORS for end in accepted(calls(unit))] == []


def test_every_constructor_refuses_a_schedule_that_returns_no_number():
    assert [end for unit in CONSTRUCTORS for end in accepted(schedules(unit))] == []


def test_every_update_refuses_gradients_that_are_none():
    assert [end for unit in UNITS for end in accepted(other_gradients(unit))] == []


@pytest.mark.parametrize("units", [UNITS[:30], pytest.param(UNITS[30:], marks=pytest.mark.slow)], ids=["first", "rest"])
def test_every_update_refuses_the_state_of_something_else(units):
    assert [end for unit in units for end in accepted(other_states(unit))] == []


LAWS, HERE = "laws/test_laws.py::", "laws/test_bad_inputs.py::"
ARGUMENTS = HERE + "test_every_constructor_refuses_arguments_that_its_annotations_exclude"
CALLS = HERE + "test_every_constructor_refuses_calls_of_other_libraries"
GRADIENTS = HERE + "test_every_update_refuses_gradients_that_are_none"
SIZES = LAWS + "test_finite_gradients_give_finite_steps_that_are_not_wrongly_zero"
FIXPOINT = LAWS + "test_the_type_of_the_state_is_a_fixpoint_for_all_dtypes"

OTHER_TREE = LAWS + "test_gradients_of_another_tree_fail_with_both_structures"

ENTRIES = {
    "params=None": [LAWS + "test_missing_parameters_name_the_part"],
    "gradients without a key": [OTHER_TREE],
    "gradients with respect to the batch": [OTHER_TREE],
    "list and tuple, dict and FrozenDict": ["clients/test_states.py::test_any_container_of_parameters_is_fine",
                                           GRADIENTS],
    "None in both": [LAWS + "test_leaves_that_are_none_pass_through",
                     LAWS + "test_none_in_the_gradients_alone_is_an_error"],
    "callables and text as leaves": [LAWS + "test_leaves_that_are_no_floating_point_numbers_fail_with_their_path",
                                     GRADIENTS],
    "gradients that would broadcast": [OTHER_TREE],
    "integer and bool parameters": [LAWS + "test_leaves_that_are_no_floating_point_numbers_fail_with_their_path"],
    "float0 gradients": [GRADIENTS, "combinators/test_guarding.py::test_frozen_integers_go_along"],
    "complex parameters": [LAWS + "test_complex_leaves_work_or_are_refused",
                           "laws/test_identities.py::test_a_complex_number_is_a_pair_of_real_ones"],
    "zero, tiny and huge gradients of every dtype": [
        SIZES, "laws/test_numerics.py::test_no_size_of_gradients_breaks_a_step"
    ],
    "a small update of bfloat16 parameters": [
        "core/test_apply_updates.py::test_a_small_update_of_bfloat16_is_lost_to_nearest_and_kept_on_average_stochastically"
    ],
    "hyperparameters beside bfloat16 parameters": [LAWS + "test_tunable_numbers_are_data",
                                                   LAWS + "test_the_x64_switch_promotes_nothing"],
    "jax_enable_x64": [LAWS + "test_the_x64_switch_promotes_nothing"],
    "gradients and parameters of two dtypes": [FIXPOINT],
    "leaves without axes": [LAWS + "test_eager_and_jit_agree"],  # "s" of every tree is one
    "leaves without elements": [LAWS + "test_empty_leaves_work"],
    "an empty tree": [LAWS + "test_an_empty_tree_works"],
    "a learning rate that is no number": [ARGUMENTS],
    "a learning rate out of range": [ARGUMENTS, "clients/test_rebuilt_closures.py::"
                                     "test_a_learning_rate_that_is_traced_is_an_argument_of_the_program"],
    "betas, eps and weight decay out of range": [ARGUMENTS],
    "an optimizer rebuilt in a loop": [LAWS + "test_equal_arguments_give_the_same_object",
                                       LAWS + "test_tunable_numbers_are_data"],
    "a schedule that is none": [HERE + "test_every_constructor_refuses_a_schedule_that_returns_no_number", ARGUMENTS],
    "decay_steps of zero": ["schedules/test_arguments.py::test_a_number_out_of_range_is_refused_at_construction"],
    "very few steps": ["schedules/test_schedules.py::test_few_steps_are_finite_and_exact"],
    "a step of any type": ["schedules/test_schedules.py::test_a_step_may_be_any_kind_of_number"],
    "a negative or huge step": ["schedules/test_schedules.py::test_steps_out_of_range_are_clamped"],
    "a mask of another structure": [ARGUMENTS, "combinators/test_selecting.py::test_bad_selections_fail_by_init"],
    "masked does not freeze": [
        "combinators/test_selecting.py::test_masked_passes_on_what_only_freezes_and_freeze_stops_what_it_names"
    ],
    "an unknown or unused label": [
        ARGUMENTS, "combinators/test_selecting.py::test_a_rule_that_nobody_uses_is_reported"
    ],
    "adam(params, lr=...)": [CALLS],
    "a misspelt or missing signal": [LAWS + "test_standard_signals_are_accepted_and_misspelt_ones_are_not",
                                     LAWS + "test_a_missing_signal_names_the_part"],
    "accumulation over no steps": [ARGUMENTS],
    "NaN in one part of a batch": [
        "combinators/test_accumulating.py::test_a_gradient_that_is_not_finite_enters_no_mean_here_and_every_mean_in_optax"
    ],
    "inf or NaN before clipping": ["combinators/test_guarding.py::"
                                   "test_the_run_is_bit_for_bit_the_one_without_the_bad_batch"],
    "evaluation with the training parameters": ["combinators/test_averaging.py::"
                                                "test_the_average_is_between_start_and_end"],
    "donated buffers": [LAWS + "test_a_state_can_be_donated_with_its_parameters"],
    "numbers of Python in a state": ["clients/test_states.py::"
                                     "test_every_leaf_of_a_state_is_an_array_and_none_a_typed_key"],
    "a batch that cannot be divided": ["training/test_accumulate.py::"
                                       "test_a_short_last_batch_is_cut_into_parts_that_count_for_what_they_hold",
                                       "training/test_batching.py::"
                                       "test_wrong_arguments_are_named_at_the_call_and_not_at_the_first_batch"],
    "statistics far from zero": ["norm/test_batch_norm.py::test_training_is_the_papers_at_every_offset"],
    "NaN in running statistics": ["norm/test_batch_norm.py::"
                                  "test_a_value_that_is_not_finite_shows_in_its_channel_and_in_no_other"],
    "statistics that are not synchronized": ["norm/test_many_devices.py::"
                                             "test_a_split_batch_without_a_named_axis_is_an_error_unless_said_so"],
    "norms of zero vectors": ["test_linalg.py::test_small_norms_have_gradient_zero_and_others_their_direction",
                              "norm/test_batch_norm.py::test_a_constant_channel_gives_the_bias_and_finite_gradients"],
    "a step counter at its end": ["core/test_transformation.py::test_the_counter_stays_at_its_largest_value"],
    "a loss scale near zero": ["combinators/test_loss_scaling.py::"
                               "test_the_scale_never_goes_below_its_floor_and_then_the_check_raises"],
    "second derivatives through what has none": [
        "curvature/test_products.py::test_a_loop_without_reverse_mode_is_named",
        "curvature/test_products.py::test_a_callback_is_named",
    ],
    "a loss of another form": ["training/test_step.py::test_a_loss_of_another_form_is_shown_the_right_one",
                               "training/test_step.py::"
                               "test_a_first_loss_that_is_not_finite_is_reported_with_the_leaf_of_the_batch"],
}  # fmt: skip


@pytest.mark.parametrize("entry", ENTRIES)
def test_an_entry_is_held_by_tests_that_exist(entry):
    for holder in ENTRIES[entry]:
        path, _, name = holder.partition("::")
        assert f"def {name}(" in (ROOT / "tests" / path).read_text(), holder

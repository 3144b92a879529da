"""Every name of Optax stands on ``docs/optax_names.md``, and what the page says of it is so."""

import ast
import functools
import importlib
import inspect
import math
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import curvature, linalg, losses, projections, schedules

ROOT = pathlib.Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "optax_names.md").read_text("utf-8")

STEPS = 6
TOLERANCE = 2e-5  # in float32, 1 - b**t of Optax's corrections is off by up to 162 units in the last place


class Row(NamedTuple):
    section: str
    names: list[str]
    address: str | None
    arguments: str
    does: str

    @property
    def name(self) -> str:
        return self.names[0].removeprefix("optax.")

    @property
    def theirs(self) -> Any:
        return functools.reduce(getattr, self.name.split("."), optax)

    @property
    def ours(self) -> Any:
        assert self.address is not None
        module, name = self.address.rsplit(".", 1)
        return getattr(importlib.import_module(module), name)


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]*)`", text)


def table(section: str) -> list[list[str]]:
    """The cells of the lines of a section's table, without its head."""
    return [[cell.strip() for cell in line.strip("|").split("|")]
            for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)[2:]]  # fmt: skip


def rows() -> list[Row]:
    found = []
    for section in PAGE.split("\n## ")[2:]:
        for names, address, arguments, does in table(section):
            address = None if address == "none" else quoted(address)[0]
            found.append(Row(section.splitlines()[0], quoted(names), address, arguments, does))
    return found


EVERYWHERE = [quoted(line[0]) for line in table(PAGE.split("\n## ")[1])]
LAYOUTS = set(EVERYWHERE[0])
NOWHERE = {name for line in EVERYWHERE[:3] for name in line}  # of Optax's parameters
ROWS = rows()
BY_NAME = {row.name: row for row in ROWS}
TYPES = "Types and states"


def public_names(room: Any, path: str) -> dict[str, Any]:
    found = {}
    for name in dir(room):
        value = getattr(room, name)
        if inspect.ismodule(value) or name.startswith("_"):
            continue
        if getattr(value, "__module__", "optax").partition(".")[0] in ("optax", "functools", "typing", "collections"):
            found[f"{path}.{name}"] = value
    return found


def names_of_optax() -> dict[str, Any]:
    found = public_names(optax, "optax")
    for name in dir(optax):
        if inspect.ismodule(getattr(optax, name)) and name not in ("_src", "experimental"):
            found |= public_names(getattr(optax, name), f"optax.{name}")
    return found


def test_every_name_of_optax_stands_on_the_page_once():
    there = names_of_optax()
    written = [name for row in ROWS for name in row.names]
    assert len(written) == len(set(written))
    assert not [name for name in written if name not in there]
    # The same thing in a submodule, under the same name, needs no second line.
    listed = {(name.rsplit(".", 1)[1], id(there[name])) for name in written}
    assert not [name for name, value in there.items() if (name.rsplit(".", 1)[1], id(value)) not in listed]


def is_public(address: str) -> bool:
    module, name = address.rsplit(".", 1)
    room = importlib.import_module(module)
    return "._" not in address and hasattr(room, name) and name in getattr(room, "__all__", [name])


def test_every_address_is_public():
    assert not [row.address for row in ROWS if row.address and not is_public(row.address)]


def test_every_address_on_the_page_resolves_after_a_bare_import():
    addresses = sorted(set(re.findall(r"gradtx(?:\.\w+)+", PAGE)))
    program = "import operator, sys, gradtx\nfor a in sys.argv[1:]: operator.attrgetter(a.partition('.')[2])(gradtx)"
    run = subprocess.run([sys.executable, "-c", program, *addresses], capture_output=True, text=True, check=False)
    assert addresses and run.returncode == 0, run.stderr


def test_what_has_no_counterpart_says_why():
    assert not [row.name for row in ROWS if row.address is None and (row.arguments or not row.does)]
    assert "TODO" not in PAGE


# Signatures.


class Parameter(NamedTuple):
    keyword_only: bool
    default: Any


def parameters(function: Any) -> dict[str, Parameter]:
    found = inspect.signature(function).parameters.values()
    return {one.name: Parameter(one.kind is one.KEYWORD_ONLY, one.default)
            for one in found if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}  # fmt: skip


def same_default(ours: Any, theirs: Any) -> bool:
    """Functions and transformations are compared by what they do, with the values."""
    if callable(ours) and callable(theirs) and inspect.Parameter.empty not in (ours, theirs):
        return True
    if isinstance(ours, gradtx.GradientTransformation):
        return isinstance(theirs, optax.GradientTransformation)
    return ours is theirs or (type(ours) is type(theirs) and ours == theirs)


def changes(row: Row) -> set[str]:
    """The parameters that one has and the other has not, or that have another place or default."""
    ours, theirs = parameters(row.ours), parameters(row.theirs)
    found = set(theirs) ^ set(ours)
    found -= NOWHERE | ({"where"} if row.section == "Losses" and "where" not in theirs else set())
    common, after_layout = [name for name in theirs if name in ours], False
    for name, parameter in theirs.items():
        after_layout |= name in LAYOUTS
        if name in common:
            moved = ours[name].keyword_only != (parameter.keyword_only or after_layout)
            if moved or not same_default(ours[name].default, parameter.default):
                found.add(name)
    places = [name for name in ours if name in theirs]
    return found.union(*({here, there} for here, there in zip(places, common, strict=True) if here != there))


COMPARED = [row for row in ROWS if row.address and row.section != TYPES and (
    not row.does or row.address.rsplit(".", 1)[1] in {row.name.rsplit(".", 1)[-1]})]  # fmt: skip


def test_parameters_are_those_of_optax_but_for_what_the_page_says():
    written = {row.name: {name for name in quoted(row.arguments) if name in {*parameters(row.ours),
               *parameters(row.theirs)}} for row in COMPARED}  # fmt: skip
    assert {row.name: changes(row) for row in COMPARED} == written


# Values.

RANDOM = np.random.default_rng(0)


def tree() -> dict[str, jax.Array]:
    return {name: jnp.asarray(RANDOM.normal(size=shape), jnp.float32) for name, shape in (("b", 3), ("w", (4, 3)))}


PARAMS = tree()
GRADS = [tree() for _ in range(STEPS)]
RATE = 0.1


def loss(params: Any, **_: Any) -> jax.Array:
    return sum(jnp.sum(jnp.cosh(leaf) + 0.1 * leaf) for leaf in jax.tree.leaves(params))  # pyright: ignore


def run(tx: Any, start: Any = PARAMS, *, of_loss: bool = False) -> list[Any]:
    """The updates of some steps, of gradients of ``loss`` or of any, with every signal that there is."""

    @jax.jit
    def step(grads: Any, state: Any, params: Any) -> Any:
        value, slope = jax.value_and_grad(loss)(params)
        grads = slope if of_loss else grads
        return tx.update(grads, state, params, **(signals | dict(value=value, grad=grads) if signals else {}))

    kinds = {parameter.kind for parameter in inspect.signature(tx.update).parameters.values()}
    signals: dict[str, Any] = dict(value_fn=loss) if inspect.Parameter.VAR_KEYWORD in kinds else {}
    if signals and isinstance(tx, optax.GradientTransformation):
        signals |= dict(obj_fn=loss)
    params, state, found = start, tx.init(start), []
    for grads in GRADS:
        updates, state = step(jax.tree.map(lambda g, p: g[tuple(map(slice, p.shape))], grads, start), state, params)
        params = jax.tree.map(jnp.add, params, updates)
        found.append(updates)
    return found


def distance(one: Any, other: Any) -> float:
    """The largest difference in units of the largest element."""
    pairs = list(zip(*(map(np.asarray, jax.tree.leaves(tree)) for tree in (one, other)), strict=True))
    largest = max(np.max(np.abs(a), initial=0.0) for pair in pairs for a in pair)
    return float(max(np.max(np.abs(a - b), initial=0.0) for a, b in pairs) / max(largest, 1e-30))


def odd(step: Any) -> Any:
    return step % 2 == 1


# Positional arguments where a learning rate, or nothing, is not enough.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "adadelta": (1.0,),
    "adaptive_grad_clip": (0.1,),
    "add_decayed_weights": (0.1,),
    "clip": (0.5,),
    "clip_by_block_rms": (0.5,),
    "clip_by_global_norm": (0.5,),
    "monitor": ({"norm": optax.global_norm},),
    "scale": (0.5,),
    "scale_by_schedule": (lambda step: 0.1 * (step + 1),),
    "snapshot": ("norm", optax.global_norm),
    "trace": (0.9,),
    "freeze": ({"b": True, "w": False},),
    "sgd": (RATE, 0.9, True),
}
AROUND: dict[str, tuple[Any, ...]] = {
    "conditionally_mask": (odd,),
    "conditionally_transform": (odd,),
    "contrib.split_real_and_imaginary": (),
    "flatten": (),
    "masked": ({"b": True, "w": False},),
}
QUICK = {"adamw", "sgd", "clip_by_global_norm", "softmax_cross_entropy", "huber_loss", "cosine_decay_schedule",
         "projections.projection_simplex"}  # fmt: skip


def made(row: Row, of: Any, base: Any) -> Any:
    """The transformation of a row, by Optax or by us, with the same positional arguments."""
    if row.name in AROUND:
        return of(base.adam(RATE), *AROUND[row.name])
    if row.name == "partition":
        return of({"b": base.adam(RATE), "w": base.sgd(RATE)}, {"b": "b", "w": "w"})
    if row.name == "stateless":
        return of(lambda updates, params: jax.tree.map(lambda u, p: u + 0.1 * p, updates, params))
    first = next(iter(parameters(of)), "")
    return of(*ARGUMENTS.get(row.name, (RATE,) * (first == "learning_rate")))


COMPARED_BY = {  # no transformations of a tree of gradients
    "measure_with_ema": "combinators/test_monitoring.py::test_averages_are_those_of_optax",
    "per_example_global_norm_clip": "transforms/test_privacy.py::test_optax_agrees_where_no_square_overflows",
    "per_example_layer_norm_clip": "transforms/test_privacy.py::test_optax_agrees_where_no_square_overflows",
    "value_and_grad_from_state": "transforms/test_line_search.py"
    "::test_lbfgs_solves_rosenbrock_with_no_more_evaluations_than_optax",
}
TRANSFORMATIONS = [row for row in ROWS if row.address and not row.does and row.name not in COMPARED_BY
                   and row.section in ("Optimizers", "Parts", "Around transformations", "Contributed")]  # fmt: skip


def each_row(rows: list[Row]) -> pytest.MarkDecorator:
    marks = {False: [pytest.mark.slow], True: []}
    return pytest.mark.parametrize("row", [pytest.param(row, id=row.name, marks=marks[row.name in QUICK])
                                           for row in rows])  # fmt: skip


@each_row(TRANSFORMATIONS)
def test_steps_are_those_of_optax(row):
    of_loss = "lbfgs" in row.name
    ours, theirs = (run(made(row, of, base), of_loss=of_loss) for of, base in
                    ((row.ours, gradtx), (row.theirs, optax)))  # fmt: skip
    assert max(map(distance, ours, theirs)) < TOLERANCE


# Losses, schedules and projections, with the same arguments.

LOGITS, SCORES = (jnp.asarray(RANDOM.normal(size=(4, 3)), jnp.float32) for _ in range(2))
SHARES = jax.nn.softmax(SCORES)
CLASSES = jnp.array([0, 2, 1, 1])
SIGNS = jnp.where(SCORES > 0, 1.0, -1.0)
ONES = jnp.where(SCORES > 0, 1.0, 0.0)
SEQUENCES = (
    jnp.asarray(RANDOM.normal(size=(2, 5, 4)), jnp.float32), jnp.zeros((2, 5)),
    jnp.array([[1, 2], [3, 0]]), jnp.array([[0.0, 0.0], [0.0, 1.0]]),
)  # fmt: skip
REGIONS = (jnp.asarray(RANDOM.normal(size=(2, 4, 3)), jnp.float32), jax.nn.one_hot(RANDOM.integers(0, 3, (2, 4)), 3))
LOSS_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "binary_dice_loss": (REGIONS[0][..., 0], REGIONS[1][..., 0]),
    "ctc_loss": SEQUENCES,
    "dice_loss": REGIONS,
    "generalized_kl_divergence": (LOGITS, SHARES),
    "hinge_loss": (LOGITS, SIGNS),
    "kl_divergence": (jax.nn.log_softmax(LOGITS), SHARES),
    "kl_divergence_with_log_targets": (jax.nn.log_softmax(LOGITS), jnp.log(SHARES)),
    "multiclass_hinge_loss": (LOGITS, CLASSES),
    "multiclass_perceptron_loss": (LOGITS, CLASSES),
    "multiclass_sparsemax_loss": (LOGITS, CLASSES),
    "ntxent": (LOGITS, jnp.array([0, 1, 0, 1])),
    "perceptron_loss": (LOGITS, SIGNS),
    "poly_loss_cross_entropy": (LOGITS, SHARES),
    "ranking_softmax_loss": (LOGITS, ONES),
    "sigmoid_binary_cross_entropy": (LOGITS, ONES),
    "sigmoid_focal_loss": (LOGITS, ONES),
    "smooth_labels": (SHARES, 0.1),
    "softmax_cross_entropy": (LOGITS, SHARES),
    "softmax_cross_entropy_with_integer_labels": (LOGITS, CLASSES),
    "safe_softmax_cross_entropy": (LOGITS, SHARES),
    "sparsemax_loss": (LOGITS, ONES),
    "triplet_margin_loss": (LOGITS, SCORES, -SCORES),
}  # and two trees of numbers for the others
CYCLES = [dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=8, end_value=0.1)] * 2
SCHEDULE_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "constant_schedule": (0.1,),
    "cosine_decay_schedule": (1.0, 10, 0.1, 2.0),
    "cosine_onecycle_schedule": (20, 1.0),
    "exponential_decay": (1.0, 5, 0.5, 2, False, 0.3),
    "join_schedules": ([optax.linear_schedule(0.0, 1.0, 5), optax.constant_schedule(0.5)], [5]),
    "linear_onecycle_schedule": (20, 1.0),
    "linear_schedule": (0.0, 1.0, 10, 2),
    "piecewise_constant_schedule": (1.0, {3: 0.5, 8: 0.1}),
    "piecewise_interpolate_schedule": ("cosine", 1.0, {3: 0.5, 8: 0.1}),
    "polynomial_schedule": (1.0, 0.1, 2.0, 10, 2),
    "sgdr_schedule": (CYCLES,),
    "warmup_constant_schedule": (0.0, 1.0, 5),
    "warmup_cosine_decay_schedule": (0.0, 1.0, 5, 15, 0.1),
    "warmup_exponential_decay_schedule": (0.0, 1.0, 5, 10, 0.5),
}
PROJECTION_ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "projection_box": (-0.5, 0.7),
    "projection_halfspace": (GRADS[0], -1.5),
    "projection_hyperplane": (GRADS[0], -1.5),
    "projection_non_negative": (),
    "projection_vector": (GRADS[0],),
}  # and a scale for the others


@each_row([row for row in ROWS if row.section == "Losses" and row.address])
def test_losses_are_those_of_optax_in_ordinary_places(row):
    name = row.name.rsplit(".", 1)[-1]
    ours, theirs = row.ours, row.theirs
    arguments = LOSS_ARGUMENTS.get(name, (LOGITS, SCORES))
    if name == "make_fenchel_young_loss":
        ours, theirs = ours(jax.nn.logsumexp), theirs(jax.nn.logsumexp)
    if name == "ctc_loss_with_forward_probs":
        ours, theirs, arguments = (lambda *of: row.ours(*of)[0]), (lambda *of: row.theirs(*of)[0]), SEQUENCES
    if name == "multiclass_generalized_dice_loss":  # at its best it is 0 with any weights
        arguments = (100 * (REGIONS[1] - 0.5), REGIONS[1])
    np.testing.assert_allclose(ours(*arguments), theirs(*arguments), rtol=1e-5, atol=1e-6)


@each_row([row for row in ROWS if row.section == "Schedules" and row.address])
def test_schedules_are_those_of_optax_in_ordinary_places(row):
    arguments = SCHEDULE_ARGUMENTS[row.name]
    ours, theirs = row.ours(*arguments), row.theirs(*arguments)
    for step in (0, 1, 2, 5, 9, 10, 14, 25):
        np.testing.assert_allclose(ours(step), theirs(step), rtol=1e-5, atol=1e-7)


@each_row([row for row in ROWS if row.section == "Projections" and row.address])
def test_projections_are_those_of_optax_in_ordinary_places(row):
    arguments = PROJECTION_ARGUMENTS.get(row.name.rsplit(".", 1)[-1], (1.5,))
    start = PARAMS["w"] if row.does.endswith("an array alone") else PARAMS
    assert distance(row.ours(start, *arguments), row.theirs(start, *arguments)) < 1e-6


# What the page says that differs.

SHOWN_BY = {
    "add_noise": "transforms/test_noise.py::test_the_noise_of_a_leaf_depends_on_its_path_alone",
    "apply_if_finite": "combinators/test_guarding.py"
    "::test_nothing_that_is_not_finite_is_ever_accepted_as_optax_does_in_the_end",
    "apply_updates": "core/test_apply_updates.py::test_a_finite_update_saturates_and_infinities_and_nan_stay_visible",
    "bias_correction": "papers/test_oracles.py::test_correction_of_a_varying_decay_returns_a_constant",
    "chain": "core/test_transformation.py::test_names_of_repeated_parts_get_an_ordinal",
    "contrib.hutchinson_estimator_diag_hessian": "transforms/test_hessian_diagonals.py"
    "::test_every_estimate_has_signs_of_its_own_and_their_mean_is_the_diagonal",
    "contrib.momo": "papers/test_learning_rate_free_oracles.py"
    "::test_the_momo_step_is_the_minimum_of_its_model_with_decay_and_optax_goes_too_far",
    "contrib.reduce_on_plateau": "transforms/test_plateau.py::test_below_zero_a_worse_value_is_no_progress",
    "contrib.sam": "papers/test_modifier_oracles.py::test_optax_takes_the_same_sam_steps",
    "contrib.schedule_free": "papers/test_modifier_oracles.py::test_optax_takes_the_same_schedule_free_steps",
    "contrib.schedule_free_eval_params": "papers/test_modifier_oracles.py"
    "::test_optax_takes_the_same_schedule_free_steps",
    "cosine_decay_schedule": "schedules/test_schedules.py::test_a_cosine_stays_exact_where_one_plus_its_cosine_cancels",
    "cosine_distance": "losses/test_vectors.py::test_the_distance_tells_small_angles_apart",
    "cosine_onecycle_schedule": "schedules/test_schedules.py"
    "::test_one_cycle_ends_where_it_should_however_few_steps_it_has",
    "ctc_loss": "losses/test_alignment.py::test_a_label_that_is_none_of_the_classes_is_nan_for_its_sequence_alone",
    "ctc_loss_with_forward_probs": "losses/test_alignment.py::test_optax_computes_the_same_where_logits_are_moderate",
    "exponential_decay": "schedules/test_arguments.py::test_a_number_out_of_range_is_refused_at_construction",
    "global_norm": "test_tree_functions.py::test_the_global_norm_of_zeros_has_gradient_zero_and_nan_stays_visible",
    "inject_hyperparams": "clients/test_inside_optax.py::test_hyperparameters_are_found_in_states_of_optax",
    "join_schedules": "schedules/test_schedules.py::test_joined_schedules_are_never_asked_for_a_negative_step",
    "lbfgs": "transforms/test_line_search.py::test_a_direction_uphill_or_of_length_zero_gives_no_step",
    "linear_onecycle_schedule": "schedules/test_schedules.py"
    "::test_one_cycle_ends_where_it_should_however_few_steps_it_has",
    "linear_schedule": "schedules/test_arguments.py::test_a_number_out_of_range_is_refused_at_construction",
    "log_cosh": "losses/test_regression.py::test_log_cosh_keeps_its_digits_where_optax_has_none",
    "lookahead": "papers/test_modifier_oracles.py::test_optax_takes_the_same_lookahead_steps",
    "losses.binary_dice_loss": "losses/test_overlap.py::test_with_sigmoid_off_optax_raises",
    "losses.dice_loss": "losses/test_overlap.py"
    "::test_what_is_neither_there_nor_predicted_costs_nothing_without_smoothing",
    "losses.multiclass_generalized_dice_loss": "losses/test_overlap.py"
    "::test_a_class_that_is_not_there_does_not_drown_the_others",
    "losses.multiclass_hinge_loss": "losses/test_margins.py::test_a_class_out_of_range_is_nan_for_its_example_alone",
    "losses.multiclass_perceptron_loss": "losses/test_margins.py"
    "::test_a_class_out_of_range_is_nan_for_its_example_alone",
    "losses.triplet_margin_loss": "losses/test_embeddings.py::test_with_an_odd_degree_optax_lets_terms_cancel",
    "matrix_inverse_pth_root": "test_linalg.py::test_optax_is_as_near_and_no_nearer",
    "MultiSteps": "combinators/test_accumulating.py"
    "::test_a_gradient_that_is_not_finite_enters_no_mean_here_and_every_mean_in_optax",
    "nnls": "test_linalg.py::test_a_thousand_gradient_steps_of_optax_are_farther_from_the_solution",
    "noisy_sgd": "transforms/test_noise.py::test_the_noise_of_a_leaf_depends_on_its_path_alone",
    "ntxent": "losses/test_embeddings.py::test_without_a_pair_the_loss_and_its_gradient_are_zero",
    "contrib.differentially_private_aggregate": "transforms/test_privacy.py"
    "::test_the_noise_of_a_leaf_does_not_depend_on_the_others",
    "power_iteration": "test_linalg.py::test_huge_and_tiny_matrices_have_an_eigenvalue",
    "tree_map_params": "core/test_mapping.py::test_what_is_kept_in_another_shape_is_no_parameter",
    "polyak_sgd": "papers/test_learning_rate_free_oracles.py"
    "::test_scaling_multiplies_the_polyak_step_and_does_not_divide_it",
    "polynomial_schedule": "schedules/test_arguments.py::test_a_number_out_of_range_is_refused_at_construction",
    "safe_softmax_cross_entropy": "losses/test_classification.py"
    "::test_it_is_optax_function_of_integer_labels_and_its_safe_one",
    "scale_by_backtracking_linesearch": "transforms/test_line_search.py"
    "::test_a_direction_uphill_or_of_length_zero_gives_no_step",
    "scale_by_zoom_linesearch": "transforms/test_line_search.py"
    "::test_a_direction_uphill_or_of_length_zero_gives_no_step",
    "selective_transform": "combinators/test_selecting.py"
    "::test_masked_passes_on_what_only_freezes_and_freeze_stops_what_it_names",
    "skip_large_updates": "combinators/test_guarding.py::test_a_gradient_above_the_bound_is_left_out_as_optax_says",
    "skip_not_finite": "combinators/test_guarding.py::test_the_run_is_bit_for_bit_the_one_without_the_bad_batch",
    "softmax_cross_entropy": "losses/test_classification.py"
    "::test_it_is_optax_function_of_integer_labels_and_its_safe_one",
    "softmax_cross_entropy_with_integer_labels": "losses/test_classification.py"
    "::test_it_is_optax_function_of_integer_labels_and_its_safe_one",
    "tree.cast": "test_tree_functions.py::test_counters_and_keys_are_not_cast",
    "tree.get": "test_tree_functions.py::test_a_field_is_found_in_any_state",
    "tree.get_all_with_path": "test_tree_functions.py::test_several_parts_of_a_name_are_told_apart",
    "tree.norm": "test_tree_functions.py::test_optax_computes_the_same",
    "tree.random_like": "test_tree_functions.py::test_a_key_belongs_to_a_path_and_not_to_a_place",
    "tree.set": "test_tree_functions.py::test_a_part_that_does_not_fit_is_named",
}


@pytest.mark.parametrize("where", sorted({*SHOWN_BY.values(), *COMPARED_BY.values()}))
def test_the_test_that_shows_it_exists(where):
    path, test = where.split("::")
    defined = ast.parse((ROOT / "tests" / path).read_text("utf-8")).body
    assert test in {node.name for node in defined if isinstance(node, ast.FunctionDef)}


# Keyword arguments of an ordinary run in which the two differ; ours is held to its paper by the table of laws.
DIFFERENT: dict[str, dict[str, Any]] = {
    "adan": dict(learning_rate=RATE),
    "amsgrad": dict(learning_rate=RATE),
    "contrib.acprop": dict(learning_rate=RATE),
    "contrib.dadapt_adamw": dict(estim_lr0=1e-2),
    "contrib.galore": dict(learning_rate=RATE, rank=2),
    "contrib.madgrad": dict(learning_rate=RATE, eps=1e-2),
    "contrib.mechanize": dict(),
    "contrib.muon": dict(learning_rate=RATE),
    "contrib.schedule_free_adamw": dict(learning_rate=RATE, warmup_steps=3),
    "contrib.schedule_free_sgd": dict(learning_rate=RATE, warmup_steps=3),
    "contrib.sophia": dict(learning_rate=RATE),
    "radam": dict(learning_rate=RATE),
    "rprop": dict(learning_rate=RATE),
    "yogi": dict(learning_rate=RATE),
    "centralize": dict(),
    "ema": dict(decay=0.9),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFERENT)
def test_steps_differ_where_the_page_says_so(name):
    row, arguments = BY_NAME[name], DIFFERENT[name]
    ours, theirs = row.ours, row.theirs
    if name == "contrib.mechanize":
        ours, theirs = functools.partial(ours, gradtx.sgd(1.0)), functools.partial(theirs, optax.sgd(1.0))
    pair = (run(tx, of_loss="sophia" in name) for tx in (ours(**arguments), theirs(**arguments)))
    assert max(map(distance, *pair)) > TOLERANCE


# The same thing in both, written as the page says.
WRITTEN_SO: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "centralize": (lambda: gradtx.masked(gradtx.centralize(axis=1), "w"), optax.centralize),
    "contrib.normalize": (lambda: gradtx.normalize_by_update_norm(eps=0.0), optax.contrib.normalize),
    "ema": (lambda: gradtx.chain(gradtx.ema(0.9), gradtx.bias_correction(0.9)), lambda: optax.ema(0.9)),
    "inject_hyperparams": (
        lambda: gradtx.tunable(gradtx.adam, learning_rate=RATE),
        lambda: optax.inject_hyperparams(optax.adam)(learning_rate=RATE),
    ),
    "nadam": (lambda: gradtx.adam(RATE), lambda: optax.nadam(RATE, nesterov=False)),
    "scale_by_factored_rms": (
        lambda: gradtx.scale_by_factored_rms(min_dim_size_to_factor=3),
        lambda: optax.scale_by_factored_rms(min_dim_size_to_factor=3),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN_SO)
def test_steps_are_the_same_written_as_the_page_says(name):
    ours, theirs = (run(make()) for make in WRITTEN_SO[name])
    assert max(map(distance, ours, theirs)) < TOLERANCE


NAN = math.nan
ZEROS = jnp.zeros(2)
# What ours gives, and Optax.
GIVES: dict[str, tuple[Callable[[], Any], Any, Callable[[], Any], Any]] = {
    "losses.sparsemax_loss": (
        lambda: losses.sparsemax_loss(0.0, 0.5), 0.0, lambda: optax.losses.sparsemax_loss(0.0, 0.5), 0.25,
    ),
    "warmup_constant_schedule": (
        lambda: schedules.warmup_constant_schedule(0.5, 2.0, 0)(3), 2.0,
        lambda: optax.warmup_constant_schedule(0.5, 2.0, 0)(3), 0.5,
    ),
    "warmup_cosine_decay_schedule": (
        lambda: schedules.warmup_cosine_decay_schedule(0.5, 0.0, 2, 6, 0.25)(6), 0.25,
        lambda: optax.warmup_cosine_decay_schedule(0.5, 0.0, 2, 6, 0.25)(6), 0.0,
    ),
    "projections.projection_box": (
        lambda: projections.projection_box([ZEROS], 1, 2)[0], [1.0, 1.0],
        lambda: optax.projections.projection_box([ZEROS], 1, 2), ValueError,
    ),
    "projections.projection_hypercube": (
        lambda: projections.projection_hypercube([2 + ZEROS])[0], [1.0, 1.0],
        lambda: optax.projections.projection_hypercube([2 + ZEROS]), ValueError,
    ),
    "projections.projection_l1_sphere": (
        lambda: projections.projection_l1_sphere(ZEROS), [0.5, 0.5],
        lambda: optax.projections.projection_l1_sphere(ZEROS), [0.0, 0.0],
    ),
    "projections.projection_l2_sphere": (
        lambda: projections.projection_l2_sphere(ZEROS), [math.sqrt(0.5)] * 2,
        lambda: optax.projections.projection_l2_sphere(ZEROS), [NAN, NAN],
    ),
    "projections.projection_vector": (
        lambda: projections.projection_vector(jnp.ones(2), ZEROS), [0.0, 0.0],
        lambda: optax.projections.projection_vector(jnp.ones(2), ZEROS), [NAN, NAN],
    ),
    "safe_norm": (
        lambda: linalg.safe_norm(jnp.array([3e20, 4e20]), 0.0), 5e20,
        lambda: optax.safe_norm(jnp.array([3e20, 4e20]), 0.0), math.inf,
    ),
    "scale_by_polyak": (
        lambda: first(gradtx.scale_by_polyak(max_learning_rate=10.0), jnp.array([1e-9])), [1e-8],
        lambda: first(optax.scale_by_polyak(max_learning_rate=10.0), jnp.array([1e-9])), [0.0],
    ),
    "tree.clip": (
        lambda: projections.projection_box(jnp.array([-2.0, 0.5, 2.0]), -1, 1), [-1.0, 0.5, 1.0],
        lambda: optax.tree.clip(jnp.array([-2.0, 0.5, 2.0]), -1, 1), [-1.0, 0.5, 1.0],
    ),
    "apply_every": (
        lambda: second(gradtx.accumulate(gradtx.sgd(1.0), 2)), -1.5,
        lambda: second(optax.chain(optax.sgd(1.0), optax.apply_every(2))), -3.0,
    ),
    "second_order.hvp": (
        lambda: curvature.hvp(quartic, jnp.ones(2), jnp.ones(2), jnp.array([1.0, 0.0])), [12.0, 0.0],
        lambda: optax.second_order.hvp(with_targets, jnp.array([1.0, 0.0]), jnp.ones(2), jnp.ones(2), ZEROS), [12.0, 0],
    ),
    "second_order.hessian_diag": (
        lambda: curvature.diagonal(curvature.hessian(quartic, jnp.ones(2), jnp.ones(2)), key=jax.random.key(0))[0],
        [12.0, 12.0],
        lambda: optax.second_order.hessian_diag(with_targets, jnp.ones(2), jnp.ones(2), ZEROS), [12.0, 12.0],
    ),
    "second_order.fisher_diag": (
        lambda: curvature.diagonal(curvature.fisher(each, jnp.ones(1), jnp.array([1.0, 3.0])),
                                   key=jax.random.key(0))[0], [5.0],
        lambda: optax.second_order.fisher_diag(lambda w, x, y: jnp.sum(each(w, x)), jnp.ones(1), jnp.array([1.0, 3.0]),
                                               ZEROS), [16.0],
    ),
}  # fmt: skip


def first(tx: Any, grads: jax.Array) -> jax.Array:
    return tx.update(grads, tx.init(grads), grads, value=jnp.float32(1e-10))[0]


def second(tx: Any) -> jax.Array:
    _, state = tx.update(jnp.float32(1.0), tx.init(jnp.float32(0.0)), jnp.float32(0.0))
    return tx.update(jnp.float32(2.0), state, jnp.float32(0.0))[0]


def quartic(params: jax.Array, batch: jax.Array) -> jax.Array:
    return jnp.sum(batch * params**4)


def with_targets(params: jax.Array, inputs: jax.Array, targets: jax.Array) -> jax.Array:
    return quartic(params, inputs)


def each(params: jax.Array, batch: jax.Array) -> jax.Array:
    return batch * params[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what Optax says is deprecated
@pytest.mark.parametrize("name", GIVES)
def test_values_are_what_the_page_says(name):
    ours, our_value, theirs, their_value = GIVES[name]
    np.testing.assert_allclose(ours(), our_value, rtol=1e-4)
    if their_value is ValueError:
        with pytest.raises(ValueError, match="tree"):
            theirs()
    else:
        np.testing.assert_allclose(theirs(), their_value, rtol=1e-4)


def test_all_that_differs_is_shown():
    """A cell that only points at another line is shown there."""
    shown = {*SHOWN_BY, *DIFFERENT, *WRITTEN_SO, *GIVES}
    pointing = {row.name for row in ROWS if re.match(r"as `\w+`", row.does)}
    different = {row.name for row in ROWS if row.does and row.address and row.section != TYPES} - pointing
    assert not different - shown
    assert not [name for name in shown if not (BY_NAME[name].does or BY_NAME[name].arguments)]

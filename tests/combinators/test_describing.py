"""Describing a transformation: its parts, what they keep and need, and on which leaves they work."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.laws.table import every_unit
from tests.laws.trees import params

SHAPES = {
    "block": [{"kernel": jax.ShapeDtypeStruct((8, 4), jnp.float32), "bias": jax.ShapeDtypeStruct((4,), jnp.float32)}],
    "embedding": jax.ShapeDtypeStruct((10, 8), jnp.bfloat16),
}
PATHS = ("block/0/bias", "block/0/kernel", "embedding")


def row_of(rows, name):
    """The one row whose call begins so."""
    found = [row for row in rows if row.call.startswith(name)]
    assert len(found) == 1, [row.call for row in rows]
    return found[0]


@every_unit
def test_every_unit_is_described_with_all_bytes_of_its_state(unit):
    tx = unit.make()
    rows = gradtx.describe(tx, params())
    state = jax.eval_shape(tx.init, params())
    assert rows.state_bytes == sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert rows[0].path == "" and rows[0].leaves is not None
    assert re.fullmatch(r"part[^\n]*\n(.*\n)*[\d,]+ bytes of state, [\d,]+ of parameters", str(rows))


def test_rows_say_what_was_written_how_far_it_reads_what_it_keeps_and_needs():
    rows = gradtx.describe(gradtx.chain(gradtx.clip_by_global_norm(0.75), gradtx.adamw(2e-3, weight_decay=0.5)), SHAPES)
    assert rows[0].call == "chain(clip_by_global_norm(0.75), adamw(0.002, weight_decay=0.5))"
    assert (rows[0].reads, rows[0].depth, rows[0].needs, rows[0].leaves) == ("tree", 0, (), PATHS)
    clip, decay = row_of(rows, "clip"), row_of(rows, "add_decayed_weights")
    assert (clip.reads, clip.fields, clip.bytes) == ("tree", (), 0)
    assert (decay.reads, decay.needs, decay.path) == ("element", ("params",), "adamw/add_decayed_weights")
    mean = next(row for row in rows if row.path.endswith("numerator/ema"))
    assert mean.path == "adamw/scale_by_adam/numerator/ema"
    assert [field.name for field in mean.fields] == ["mean"]
    assert [array.shape for array in mean.fields[0].arrays] == [(4,), (8, 4), (10, 8)]
    assert mean.bytes == 4 * (4 + 32 + 80) and str(mean.fields[0]) == "mean 3 x float32"
    assert rows.parameter_bytes == 4 * (4 + 32) + 2 * 80


def test_paths_are_those_of_the_state():
    tx = gradtx.chain(
        gradtx.watch(gradtx.tunable(gradtx.adamw, learning_rate=lambda step: 0.1, weight_decay=0.5)),
        gradtx.ema(0.5), gradtx.ema(0.25), optax.adam(0.1),
        gradtx.storage.stored(gradtx.ratio(gradtx.ema(0.9), gradtx.identity()), gradtx.storage.cast("bfloat16")),
    )  # fmt: skip
    in_state = {gradtx.tree.path_name(path) for path, _ in jax.tree_util.tree_flatten_with_path(tx.init(params()))[0]}
    described = {
        "/".join(filter(None, [row.path, field.name])): len(field.arrays)
        for row in gradtx.describe(tx, params()) for field in row.fields
    }  # fmt: skip
    for prefix, count in described.items():
        assert sum(path == prefix or path.startswith(f"{prefix}/") for path in in_state) == count, prefix
    assert sum(described.values()) == len(in_state)


def test_signals_are_named_and_optional_ones_marked():
    @gradtx.transformation(locality="elementwise")
    def boosted():
        def update(update, state, *, boost, key=None):
            return boost * update, state

        return gradtx.GradientTransformation(lambda param: gradtx.core.EmptyState(), update)

    assert row_of(gradtx.describe(gradtx.chain(boosted()), SHAPES), "boosted").needs == ("boost", "key?")


def test_a_foreign_part_is_known_by_its_name_and_its_arrays():
    rows = gradtx.describe(gradtx.chain(gradtx.clip(1.0), optax.scale_by_adam()), SHAPES)
    foreign = row_of(rows, "scale_by_adam(...)")
    assert foreign.reads == "tree"
    assert [(field.name, len(field.arrays)) for field in foreign.fields] == [("count", 1), ("mu", 3), ("nu", 3)]
    assert gradtx.describe(optax.sgd(0.1, 0.9), SHAPES).state_bytes == rows.parameter_bytes


# Which leaves.


def test_parts_of_a_selection_name_the_leaves_that_they_work_on():
    rules = {"slow": gradtx.sgd(0.1), "fast": gradtx.chain(gradtx.ema(0.9), gradtx.freeze("*bias"))}
    rows = gradtx.describe(gradtx.partition(rules, lambda path, leaf: "slow" if path[0] == "e" else "fast"), SHAPES)
    assert rows[0].leaves == PATHS
    assert row_of(rows, "slow: sgd").leaves == row_of(rows, "scale_by_learning_rate").leaves == PATHS[2:]
    assert row_of(rows, "fast: chain").leaves == row_of(rows, "ema").leaves == PATHS[:2]
    assert row_of(rows, "freeze").leaves == PATHS[:1]
    for select in (gradtx.only, gradtx.masked):
        rows = gradtx.describe(gradtx.chain(gradtx.clip(1.0), select(gradtx.adam(0.1), "block*")), SHAPES)
        assert row_of(rows, "adam").leaves == PATHS[:2] and row_of(rows, "clip").leaves == PATHS
    assert "block/0/bias, block/0/kernel" in str(rows)


def test_of_a_selection_of_whole_trees_the_states_say_it_or_it_is_not_known():
    rules = {"a": gradtx.clip_by_global_norm(0.5), "b": gradtx.adam(0.1)}
    rows = gradtx.describe(gradtx.partition(rules, lambda path, leaf: "ab"["block" in path]), SHAPES)
    assert row_of(rows, "a: clip").leaves is None
    assert row_of(rows, "b: adam").leaves == row_of(rows, "scale_by_learning_rate").leaves == PATHS[:2]
    assert "not known" in str(rows)


def test_a_strength_per_layer_names_the_leaves_that_have_one():
    rows = gradtx.describe(gradtx.adamw(0.1, weight_decay={"*kernel": 0.5}), SHAPES)
    assert row_of(rows, "add_decayed_weights({").leaves == PATHS[1:2]


# The rest.


def test_a_wrapped_recipe_of_the_users_own_shows_its_parts():
    @gradtx.transformation
    def mine(rate: float):
        return gradtx.chain(gradtx.ema(0.5), gradtx.scale(rate))

    rows = gradtx.describe(mine(0.25), SHAPES)
    assert [row.call for row in rows] == ["mine(0.25)", "ema(0.5)", "scale(0.25)"]


def test_long_calls_and_many_leaves_are_cut_in_the_table_only():
    many = {f"leaf_{index}": np.ones(1, np.float32) for index in range(9)}
    tx = gradtx.chain(*[gradtx.scale(0.125 + index) for index in range(20)], gradtx.freeze("*[0-7]"))
    rows = gradtx.describe(tx, many)
    assert len(rows[0].call) > 200
    first, *_, freeze, _ = str(rows).splitlines()[1:]
    assert first.split("  ")[0].endswith("...") and freeze.endswith("leaf_0, leaf_1, leaf_2 and 5 more")


@pytest.mark.parametrize(("leaf", "words"), [(print, "function"), ("text", "str")])
def test_leaves_that_are_no_arrays_are_named(leaf, words):
    with pytest.raises(errors.DtypeError, match=r"describe\(sgd\(0.1\), params\).*'b'"):
        gradtx.describe(gradtx.sgd(0.1), {"a": jnp.ones(2), "b": leaf})


def test_what_init_refuses_is_refused():
    with pytest.raises(errors.DtypeError, match="'table'"):
        gradtx.describe(gradtx.adam(0.1), {"table": np.arange(3)})


def test_nothing_runs_on_a_device():
    program = (
        "import gradtx, jax, numpy as np\n"
        "from jax._src import xla_bridge\n"
        "shapes = {'w': jax.ShapeDtypeStruct((10**9, 10**6), 'float32'), 'b': np.ones(3, np.float32)}\n"
        "tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.watch(gradtx.adamw(lambda step: 0.1)))\n"
        "print(gradtx.describe(tx, shapes))\n"
        "print(xla_bridge.backends_are_initialized())\n"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "False"
    assert "8,000,000,000,000,0" in run.stdout


def test_packed_parts_work_on_all_leaves():
    rows = gradtx.describe(gradtx.storage.packed(gradtx.adamw(1e-3)), {"a": jnp.ones(3), "b": jnp.ones(3)})
    assert {row.leaves for row in rows} == {("a", "b")}

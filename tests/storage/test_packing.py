"""Small leaves in vectors: the numbers are those of single leaves, the arrays and loops are few."""

import re

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from benchmarks.steps import Peer, fusions, lowered, traces, transforming
from gradtx import errors, training
from gradtx.storage import Packed, cast, master_weights, pack, packed, quantized, state_bytes, stored, unpack
from gradtx.storage.packing import BY_SIZE
from gradtx.tree import leaf_paths
from tests.laws.trees import types

SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


def tree(count: int = 3, seed: int = 0) -> dict:
    random = np.random.default_rng(seed)
    leaves = {
        f"layer_{index}": {name: jnp.asarray(random.normal(size=shape), jnp.float32) for name, shape in SHAPES.items()}
        for index in range(count)
    }
    half = {name: jnp.asarray(random.normal(size=5), jnp.bfloat16) for name in ("half", "other")}
    return {**leaves, **half, "large": jnp.asarray(random.normal(size=(20, 30)), jnp.float32)}


def matrices(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def by_path(path, leaf):
    return 0.0 if path.endswith("bias") else 0.1 if leaf.ndim > 1 else 0.2


TRANSFORMATIONS = {
    "adamw": gradtx.adamw(1e-2, weight_decay=0.1),
    "a mask": gradtx.adamw(1e-2, weight_decay=0.1, mask=matrices),
    "a strength for each path": gradtx.adamw(1e-2, weight_decay=by_path),
    "a partition": gradtx.partition(
        {"a": gradtx.adam(1e-2), "b": gradtx.sgd(0.1, 0.9)}, lambda path, leaf: "a" if "bias" in path else "b"
    ),
    "frozen leaves": gradtx.only(gradtx.adam(1e-2), "*bias"),
    "a schedule": gradtx.lion(lambda step: 1e-2 / (1 + step)),
    "bfloat16 state": stored(gradtx.adam(1e-2), cast(jnp.bfloat16)),
    "nothing kept": gradtx.sgd(0.1),
}


def run(tx, params, count=2):
    step = jax.jit(lambda params, state, grads: applied(tx, params, state, grads))
    state = tx.init(params)
    for seed in range(count):
        grads = tree(seed=seed + 1)
        params, state = step(params, state, pack_like(params, grads))
    return params, state


def applied(tx, params, state, grads):
    updates, state = tx.update(grads, state, params)
    return gradtx.apply_updates(params, updates), state


def pack_like(params, grads):
    """Packed gradients, as differentiating through ``unpack`` gives them."""
    if not isinstance(params, Packed):
        return grads
    return jax.vjp(unpack, params)[1](grads)[0]


def assert_same(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_packed_steps_are_the_steps_of_single_leaves_bit_for_bit(name):
    tx = TRANSFORMATIONS[name]
    together = packed(tx, below=600)
    expected, _ = run(tx, tree())
    assert_same(run(together, tree())[0], expected)
    assert_same(unpack(run(together, pack(tree(), together))[0]), expected)


def test_leaves_share_a_vector_by_dtype_and_rule_and_keep_names():
    tx = packed(gradtx.ema(0.9), below=600)
    assert leaf_paths(tx.init(tree()).inner.mean) == ["large/large", "small/bfloat16", "small/float32"]
    ruled = packed(gradtx.adamw(1e-3, mask=matrices, weight_decay=0.1), below=600)
    small = pack(tree(), ruled).small
    assert {name: leaf.shape for name, leaf in small.items()} == {
        "bfloat16": (10,), "float32": (12,), "float32_2": (36,),
    }  # fmt: skip
    assert leaf_paths(pack(tree(), tx)) == ["large/large", "small/bfloat16", "small/float32"]


def test_leaves_from_the_bound_on_stay_alone():
    state = packed(gradtx.ema(0.9), below=12).init(tree())
    assert [leaf.shape for leaf in jax.tree.leaves(state)] == [(20, 30), *[(4, 3)] * 3, (10,), (12,)]


def test_clipping_by_the_global_norm_around_packed_sees_the_whole_tree():
    alone = gradtx.chain(gradtx.clip_by_global_norm(0.5), gradtx.adam(1e-2))
    tx = gradtx.chain(gradtx.clip_by_global_norm(0.5), packed(gradtx.adam(1e-2)))
    expected, _ = run(alone, tree())
    assert_same(run(tx, tree())[0], expected)
    actual = unpack(run(tx, pack(tree(), tx))[0])
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        # The sum of squares is taken in another order: the steps of 0.01 differ by eps, and the sum is rounded.
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=3e-7, atol=2e-8)


@pytest.mark.parametrize(
    ("tx", "part", "fix"),
    [
        (gradtx.lamb(1e-3), "scale_by_trust_ratio", "pack only the parts beside it"),
        (gradtx.adafactor(1e-3), "fading_mean_square", "pack only the parts beside it"),
        (gradtx.muon(1e-3), "orthogonalized", "pack only the parts beside it"),
        (gradtx.chain(gradtx.adaptive_grad_clip(0.1), gradtx.sgd(0.1)), "adaptive_grad_clip", "pack only the parts"),
        (gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.sgd(0.1)), "clip_by_global_norm",
         "write chain(clip_by_global_norm(1.0), packed("),
        (gradtx.skip_nonfinite(gradtx.sgd(0.1)), "skip_nonfinite", "write skip_nonfinite(packed(sgd(0.1)))"),
        (gradtx.accumulate(gradtx.sgd(0.1), 2), "accumulate", "write accumulate(packed(sgd(0.1)), 2)"),
        (gradtx.dynamic_loss_scale(gradtx.sgd(0.1)), "dynamic_loss_scale",
         "write dynamic_loss_scale(packed(sgd(0.1)))"),
        (master_weights(gradtx.sgd(0.1), bits=8), "master_weights", "write master_weights(packed(sgd(0.1)), bits=8)"),
        (stored(gradtx.adam(1e-3), quantized()), "stored", f"small leaves apart from large ones: {BY_SIZE}"),
        (stored(gradtx.adam(1e-3), {"*bias": None, "*": cast("bfloat16")}), "stored", "write stored(packed("),
        (packed(gradtx.sgd(0.1)), "packed", "write packed(sgd(0.1))"),
        (optax.adam(1e-3), "foreign", "pack only the parts beside it"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)  # fmt: skip
def test_what_reads_more_than_an_element_is_refused_by_name_with_what_to_write(tx, part, fix):
    with pytest.raises(errors.LayoutError, match=rf"^packed\(.*{part}.*; .*{re.escape(fix)}"):
        packed(tx)


def test_small_leaves_are_packed_beside_large_ones_in_codes_as_the_errors_say():
    names = {"packed": packed, "stored": stored, "quantized": quantized, "adamw": gradtx.adamw}
    tx = eval(BY_SIZE, {**names, "partition": gradtx.partition})
    params = {**tree(), "large": jnp.ones((64, 64))}
    updates, state = tx.update(params, tx.init(params), params)
    assert {leaf.shape for leaf in jax.tree.leaves(state) if leaf.dtype == jnp.int8} == {(64, 64)}
    assert jax.tree.structure(updates) == jax.tree.structure(params)


@pytest.mark.parametrize(
    "around",
    [gradtx.clip_by_block_rms(1.0), optax.clip(1.0), gradtx.masked(gradtx.clip_by_global_norm(1.0), "*bias"),
     gradtx.masked(gradtx.scale(0.5), "*bias"), gradtx.project(lambda params: params),
     gradtx.monitor({"leaves": lambda updates: len(jax.tree.leaves(updates))})],
    ids=["a leaf", "foreign", "a name, whole trees", "a name", "a user's projection", "a user's measure"],
)  # fmt: skip
def test_packed_parameters_are_refused_where_a_part_around_would_take_a_vector_for_a_leaf(around):
    tx = gradtx.chain(around, packed(gradtx.adam(1e-3)))
    with pytest.raises(errors.LayoutError, match="would take a vector of many leaves for one"):
        pack(tree(), tx)
    tx.update(tree(), tx.init(tree()), tree())


def test_packed_parameters_are_refused_where_each_leaf_is_reported_and_not_where_all_are():
    with pytest.raises(errors.LayoutError, match="the part watch"):
        pack(tree(), gradtx.watch(packed(gradtx.sgd(0.1)), per_leaf=True))
    pack(tree(), gradtx.watch(packed(gradtx.sgd(0.1))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: gradtx.lamb(1e-2),
        lambda: gradtx.muon(1e-2),
        lambda: gradtx.chain(gradtx.adaptive_grad_clip(0.01), packed(gradtx.adamw(1e-2))),
        lambda: gradtx.adamw(1e-2, weight_decay=1.0, mask=lambda path, leaf: leaf.ndim > 1),
        lambda: stored(gradtx.adamw(1e-2), quantized()),
    ],
    ids=["a norm of a leaf", "matrices", "a norm around", "a mask", "blocks"],
)
def test_packed_parameters_are_refused_by_what_was_not_packed_for_them(make):
    params = pack(tree(), packed(gradtx.adamw(1e-2)))
    with pytest.raises(errors.LayoutError, match="would take a vector of many leaves for one"):
        make().init(params)
    gradtx.adamw(1e-2).init(params)  # to which all elements are alike


def test_one_that_is_made_anew_at_each_step_has_no_plan_and_is_refused_by_name():
    tx = gradtx.tunable(lambda learning_rate: packed(gradtx.sgd(learning_rate)), learning_rate=0.1)
    with pytest.raises(errors.LayoutError, match="a transformation with packed"):
        pack(tree(), tx)
    with pytest.raises(errors.LayoutError, match="a block would span"):
        stored(tx, quantized())


def test_parameters_packed_for_another_transformation_are_refused():
    with pytest.raises(errors.StructureError, match="write params = pack"):
        packed(gradtx.adamw(1e-3, mask=matrices, weight_decay=0.1)).init(pack(tree(), packed(gradtx.adam(1e-3))))
    with pytest.raises(errors.LayoutError, match="with packed"):
        pack(tree(), gradtx.adam(1e-3))


def test_two_packed_parts_share_the_vectors_of_both():
    tx = gradtx.chain(
        packed(gradtx.ema(0.9)), packed(gradtx.add_decayed_weights(0.1, mask=matrices)), gradtx.scale(-0.1)
    )
    expected, _ = run(tx, tree())
    assert_same(unpack(run(tx, pack(tree(), tx))[0]), expected)


def test_unpack_gives_the_tree_back_with_integers_and_none():
    params = {**tree(40), "table": jnp.arange(3), "nothing": None}
    tx = packed(gradtx.only(gradtx.adam(1e-3), lambda path, leaf: leaf.dtype != jnp.int32))
    assert_same(unpack(pack(params, tx)), params)
    assert_same(jax.jit(unpack)(pack(params, tx)), params)
    assert unpack(params) is params
    assert_same(unpack(jax.tree.map(lambda leaf: leaf * jnp.nan, pack(tree(40), packed(gradtx.ema(0.9)))))["large"],
                tree(40)["large"] * jnp.nan)  # fmt: skip


def test_the_train_step_keeps_parameters_packed_and_its_loss_sees_the_tree():
    def loss(params, batch):
        assert set(params) == set(tree(2))
        return sum(jnp.sum(leaf.astype(jnp.float32) ** 2) for leaf in jax.tree.leaves(params)) * batch

    tx = packed(gradtx.adamw(1e-2), below=600)
    results = []
    for params in (tree(2), pack(tree(2), tx)):
        state = training.create_train_state(params, tx, key=jax.random.key(0))
        step = training.make_train_step(training.from_plain(loss), tx)
        for _ in range(3):
            state, metrics = step(state, jnp.float32(0.5))
        training.make_eval_step(training.from_plain(loss))(state, jnp.float32(0.5))
        results.append(unpack(state.params))
    assert isinstance(state.params, Packed) and jnp.isfinite(metrics["loss"])
    assert_same(results[1], results[0])


def counted(tx, params) -> int:
    peer: Peer = transforming(tx, gradtx.apply_updates)
    assert traces(peer, params) == 1
    return fusions(lowered(peer, params).compile())


def test_loops_and_arrays_of_a_packed_step_do_not_grow_with_the_leaves():
    few, many = ({f"w{index}": jnp.ones(10) for index in range(count)} for count in (3, 12))
    tx = packed(gradtx.adamw(1e-3))
    assert counted(tx, pack(few, tx)) == counted(tx, pack(many, tx)) <= 10
    assert len(jax.tree.leaves(tx.init(few))) == len(jax.tree.leaves(tx.init(many))) <= 9
    assert counted(tx, many) < counted(gradtx.adamw(1e-3), many)


def test_a_packed_state_has_the_bytes_of_single_leaves():
    assert state_bytes(packed(gradtx.adamw(1e-3)), tree()) == state_bytes(gradtx.adamw(1e-3), tree())


def test_a_packed_state_is_restored_by_flax():
    tx = packed(gradtx.adamw(1e-3), below=600)
    _, state = tx.update(tree(), tx.init(tree()), tree())
    restored = flax.serialization.from_bytes(tx.init(tree()), flax.serialization.to_bytes(state))
    assert_same(restored, state)


def test_leaves_that_an_explicit_mesh_shards_stay_alone():
    mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,), devices=jax.devices()[:2])
    spec = jax.sharding.PartitionSpec
    params = {
        name: jax.device_put(jnp.ones(4), jax.sharding.NamedSharding(mesh, spec("d") if name < "c" else spec()))
        for name in "abcd"
    }
    tx = packed(gradtx.ema(0.9))
    assert leaf_paths(tx.init(params).inner.mean) == ["large/a", "large/b", "small/float32"]
    updates, state = jax.jit(tx.update)(params, tx.init(params), params)
    assert jax.typeof(updates["a"]).sharding.spec == spec("d") and jax.typeof(state.inner.mean["large"]["a"]) == (
        jax.typeof(params["a"])
    )


def test_blocks_that_would_span_leaves_and_layouts_by_path_are_refused_around_vectors():
    tx = packed(gradtx.adam(1e-3))
    layouts = {"a block would span": [quantized()]}
    layouts["no path of theirs"] = [{"b*": None, "*": cast("bfloat16")}, lambda path, leaf: cast("bfloat16")]
    for cause, refused in layouts.items():
        for layout in refused:
            with pytest.raises(errors.LayoutError, match=rf"{cause}.*{re.escape(BY_SIZE)}"):
                stored(tx, layout)
    stored(tx, cast("bfloat16"))


def test_the_state_of_other_parameters_is_said_to_be_that_before_any_mesh():
    tx, params = packed(gradtx.adam(1e-3)), {"a": jnp.ones(3), "b": jnp.ones(3)}
    with pytest.raises(errors.StructureError, match=r"without\. the state belongs to other parameters or to another"):
        tx.update(params, tx.init({**params, "large": jnp.ones((100, 100))}), params)


def test_shapes_are_packed_like_the_parameters_that_they_stand_for():
    tx = packed(gradtx.adamw(1e-3), below=600)
    shapes = pack(jax.eval_shape(tree), tx)
    packed_tree = pack(tree(), tx)
    assert jax.tree.structure(shapes) == jax.tree.structure(packed_tree)
    assert types(jax.tree.leaves(shapes)) == types(jax.tree.leaves(packed_tree))
    assert state_bytes(tx, shapes) == state_bytes(tx, tree())


def test_gradients_in_another_dtype_need_the_parameters_beside_them():
    tx = packed(gradtx.sgd(0.1, momentum=0.9))
    params = {"a": jnp.ones(3), "b": jnp.ones(3)}
    grads = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    with pytest.raises(errors.MissingParams, match="by the dtype of the parameters"):
        tx.update(grads, tx.init(params))
    tx.update(grads, tx.init(params), params)

"""A number for each layer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors

PARAMS = {"block": [{"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for _ in range(2)], "head": jnp.ones(2)}
SCALE = {"block/0/*": 0.5, "*bias": 0.25, "head": lambda step: 1.0 + step}


def scaled(tx, params=PARAMS):
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    return [float(np.unique(np.asarray(leaf)).item()) for leaf in jax.tree.leaves(updates)]


def test_the_first_glob_counts_and_a_leaf_without_one_is_passed_on():
    assert scaled(gradtx.per_layer(gradtx.scale, SCALE)) == [0.5, 0.5, 0.25, 1.0, 1.0]


def test_the_order_of_globs_makes_another_transformation():
    one = gradtx.per_layer(gradtx.scale, {"*kernel": 2.0, "block/*": 3.0})
    other = gradtx.per_layer(gradtx.scale, {"block/*": 3.0, "head": 2.0})
    assert scaled(one) == [3.0, 2.0, 3.0, 2.0, 1.0]
    assert scaled(other) == [3.0, 3.0, 3.0, 3.0, 2.0]
    a, b = {"block/0/*": 1.0, "*": 2.0}, {"*kernel": 1.0, "*": 2.0}
    assert gradtx.l1_decay(a) is gradtx.l1_decay(dict(a)) and gradtx.l1_decay(a) is not gradtx.l1_decay(b)
    first, last = gradtx.l1_decay({"*kernel": 1.0, "block*": 2.0}), gradtx.l1_decay({"block*": 2.0, "*kernel": 1.0})
    first.init(PARAMS)
    with pytest.raises(errors.SelectionError, match="earlier glob"):
        last.init(PARAMS)


def test_a_later_change_of_the_mapping_changes_nothing():
    numbers = {"*": 2.0}
    tx = gradtx.per_layer(gradtx.scale, numbers)
    numbers["*"] = 5.0
    assert set(scaled(tx)) == {2.0}


def test_leaves_of_one_number_and_shape_are_traced_once():
    traced = []

    @gradtx.transformation(locality="elementwise")
    def noting(number: errors.Real):
        return gradtx.stateless(lambda update: (traced.append(update.shape), number * update)[1])

    params = [jnp.ones(3) for _ in range(20)]
    tx = gradtx.chain(gradtx.scale(1.0), gradtx.per_layer(noting, {"1*": 2.0, "*": 3.0}))
    jax.jit(tx.update).lower(params, tx.init(params))
    assert traced == [(3,), (3,)]
    traced.clear()
    schedule = lambda step: 1.0 * step  # noqa: E731
    tx = gradtx.chain(gradtx.scale(1.0), gradtx.per_layer(noting, {"1*": schedule, "*": 3.0}))
    jax.jit(tx.update).lower(params, tx.init(params))
    assert traced == [(3,), (3,)]


def test_a_function_is_asked_once_for_each_leaf_of_a_tree():
    asked = []

    def number(path, leaf):
        asked.append((path, leaf.shape, str(leaf.dtype)))
        return 2.0

    tx = gradtx.per_layer(gradtx.scale, number)
    params = {"a": jnp.ones((2, 1), jnp.bfloat16), "b": jnp.ones(3)}
    state = tx.init(params)
    for _ in range(3):
        _, state = tx.update(params, state, params)
    assert asked == [("a", (2, 1), "bfloat16"), ("b", (3,), "float32")]


def test_every_schedule_starts_at_step_zero_and_costs_one_counter():
    tx = gradtx.chain(gradtx.per_layer(gradtx.scale, {"head": lambda s: 1.0 * s, "*": lambda s: 10.0 * s}))
    state = tx.init(PARAMS)
    assert len(jax.tree.leaves(state)) == 1
    for step in range(3):
        updates, state = tx.update(PARAMS, state)
        assert float(updates["head"][0]) == step and float(updates["block"][1]["bias"][0]) == 10.0 * step
    assert jax.tree.leaves(gradtx.per_layer(gradtx.scale, {"*": 2.0}).init(PARAMS)) == []


def test_a_schedule_for_each_layer_computes_no_more_than_one_for_all():
    params = [jnp.ones(4) for _ in range(8)]
    tx = gradtx.per_layer(gradtx.scale, {"*": lambda step: jnp.cos(1.0 * step)})
    compiled = jax.jit(tx.update).lower(params, tx.init(params)).compile().as_text()
    whole = gradtx.scale(lambda step: jnp.cos(1.0 * step))
    reference = jax.jit(whole.update).lower(params, whole.init(params)).compile().as_text()
    assert 0 < compiled.count("cosine(") <= reference.count("cosine(")


def test_a_constructor_may_make_a_chain_and_read_paths():
    def part(rate):
        return gradtx.chain(gradtx.masked(gradtx.scale(rate), "*kernel"), gradtx.scale(-1.0))

    assert scaled(gradtx.per_layer(part, {"block/0/*": 0.5, "head": lambda step: 3.0})) == [-1.0, -0.5, 1.0, 1.0, -1.0]


def test_single_arrays_and_integer_tables_are_leaves_too():
    assert scaled(gradtx.per_layer(gradtx.scale, {"*": 2.0}), jnp.ones(3)) == [2.0]
    params = {"table": jnp.arange(3), "w": jnp.ones(1)}
    tx = gradtx.per_layer(gradtx.scale, {"w": 2.0})
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["w"].tolist() == [2.0] and updates["table"].tolist() == [0, 1, 2]


# Errors.


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"blok/*": 1.0}, "got 'blok/*'. the nearest paths are 'block/"),
        ({"*": 1.0, "head": 2.0}, "got 'head'. of 'head' an earlier glob is the first"),
    ],
)
def test_a_glob_without_a_leaf_fails_at_init_and_names_the_nearest_paths(value, words):
    tx = gradtx.l2_decay(value)
    with pytest.raises(errors.SelectionError) as caught:
        tx.init(PARAMS)
    assert words in str(caught.value) and str(caught.value).startswith("l2_decay({")


@pytest.mark.parametrize("number", [None, "0.1", [0.1], {"*": 0.1}, -1.0, float("nan"), True])
def test_a_function_that_gives_no_number_fails_at_init_with_the_path(number):
    tx = gradtx.l2_decay(lambda path, leaf: number if path == "head" else 0.1)
    with pytest.raises((errors.ArgumentTypeError, errors.ArgumentRangeError), match="at 'head'"):
        tx.init(PARAMS)


def test_a_schedule_that_gives_no_number_fails_at_init():
    with pytest.raises(errors.ArgumentTypeError, match="one real number for a step"):
        gradtx.l2_decay({"*": lambda step: None}).init(PARAMS)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: gradtx.per_layer(gradtx.scale, 0.5), "one number for all needs no layers"),
        (lambda: gradtx.per_layer(gradtx.scale(0.5), {"*": 0.5}), "made already"),
        (lambda: gradtx.per_layer(gradtx.clip_by_global_norm, {"*": 0.5}), "partition"),
        (lambda: gradtx.per_layer(gradtx.ema, {"*": 0.5}).init(PARAMS), "without memory"),
        (lambda: gradtx.per_layer(gradtx.ema, {"*": lambda step: 0.5}).init(PARAMS), "without memory"),
        (lambda: gradtx.per_layer(gradtx.scale, {"*": "x"}), r"in scale\('x'\)\), got str 'x' at '\*'"),
        (lambda: gradtx.adam(lambda path, leaf: 0.1), "learning_rate must be a number or a schedule"),
    ],
)
def test_what_has_no_layers_is_refused(make, words):
    with pytest.raises(errors.ArgumentTypeError, match=words):
        make()


def test_a_schedule_with_a_default_is_still_a_schedule():
    tx = gradtx.l2_decay(lambda step, total=4: step / total)
    assert gradtx.hyperparameters(tx.init(PARAMS)).keys() == {"strength"}


# By depth.


def growing(depth, count):
    return (depth + 1) / count


def test_depth_counts_nodes_that_hold_arrays_with_numbers_as_numbers():
    params = {f"Dense_{index}": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)} for index in range(12)}
    by_glob = gradtx.by_depth(params, lambda depth, count: depth)
    assert by_glob == {f"Dense_{index}/*": index for index in range(12)}
    tx = gradtx.per_layer(gradtx.scale, by_glob)
    updates, _ = tx.update(params, tx.init(params), params)
    assert [float(updates[name]["bias"][0]) for name in params] == list(range(12))


def test_depth_follows_the_order_of_lists_and_fields_and_inner_nodes_come_first():
    params = [{"z": jnp.ones(1), "inner": {"w": jnp.ones(1)}}, {"w": jnp.ones(1)}]
    by_glob = gradtx.by_depth(params, lambda depth, count: float(depth))
    assert by_glob == {"0/inner/*": 0.0, "0/*": 1.0, "1/*": 2.0}
    assert next(iter(by_glob)) == "0/inner/*"
    assert scaled(gradtx.per_layer(gradtx.scale, by_glob), params) == [0.0, 1.0, 2.0]


def test_names_with_wildcards_are_names():
    params = {"a[0]": {"w": jnp.ones(1)}, "a*": {"w": jnp.ones(1)}, "ab": {"w": jnp.ones(1)}}
    by_glob = gradtx.by_depth(params, lambda depth, count: float(depth))
    assert len(set(scaled(gradtx.per_layer(gradtx.scale, by_glob), params))) == 3


def test_layers_can_be_given_in_the_order_of_the_model():
    layers = ["head", "block/1/*", "block/0/*"]
    by_glob = gradtx.by_depth(PARAMS, growing, layers)
    assert by_glob == {"head": 1 / 3, "block/1/*": 2 / 3, "block/0/*": 1.0}
    with pytest.raises(errors.SelectionError, match="nearest paths"):
        gradtx.by_depth(PARAMS, growing, ["tail", *layers])
    with pytest.raises(errors.ArgumentTypeError, match="list of globs"):
        gradtx.by_depth(PARAMS, growing, "block/*")


def test_a_single_array_is_one_layer_and_schedules_have_depth_too():
    assert gradtx.by_depth(jnp.ones(2), growing) == {"*": 1.0}
    tx = gradtx.per_layer(gradtx.scale, gradtx.by_depth(PARAMS, lambda depth, count: lambda step: 1.0 * depth))
    assert scaled(tx) == [0.0, 0.0, 1.0, 1.0, 2.0]

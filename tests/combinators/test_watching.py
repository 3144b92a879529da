"""Watching a transformation: what the numbers are, and that nothing else changes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import gradtx
from benchmarks.steps import bytes_moved, equal_leaves, lowered, parameter_copies, transforming
from gradtx import errors
from gradtx.core import record_of
from tests.laws.trees import gradients, params, types

NAMES = ("gradient_norm", "update_norm", "parameter_norm", "update_ratio", "update_angle")


def exact(grads, updates, weights):
    """The metrics in float64, of all leaves together."""

    def vector(tree):
        flat = [np.asarray(leaf, np.complex128).ravel() for leaf in jax.tree.leaves(tree)]
        whole = np.concatenate([np.zeros(0), *flat])
        return np.concatenate([whole.real, whole.imag])

    g, u, p = map(vector, (grads, updates, weights))
    norms = [np.sqrt(np.sum(x**2)) for x in (g, u, p)]
    ratio = norms[1] / norms[2] if norms[2] else 0.0
    cosine = -(g @ u) / norms[0] / norms[1] if norms[0] and norms[1] else 0.0
    return dict(zip(NAMES, (*norms, ratio, np.degrees(np.arccos(np.clip(cosine, -1, 1)))), strict=True))


def watched(tx, grads, weights, **options):
    """The metrics after one update, and that update."""
    tx = gradtx.watch(tx, **options)
    updates, state = jax.jit(tx.update)(grads, tx.init(weights), weights)
    return {name: float(value) for name, value in gradtx.metrics(state).items()}, updates


def assert_right(found, expected, rtol=1e-5, degrees=0.1):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = {"rtol": 0, "atol": degrees} if name.startswith("update_angle") else {"rtol": rtol, "atol": 1e-38}
        np.testing.assert_allclose(found[name], value, **tolerance, err_msg=name)


OPTIMIZERS = {
    "sgd": gradtx.sgd(0.1),
    "momentum": gradtx.sgd(0.1, momentum=0.9),
    "adamw": gradtx.adamw(1e-3, weight_decay=0.1),
    "clip, adam": gradtx.chain(gradtx.clip_by_global_norm(0.5), gradtx.adam(1e-3)),
    "Optax's adamw": optax.adamw(1e-3),
    "only": gradtx.only(gradtx.sign_sgd(0.1), "w"),
}
every_optimizer = pytest.mark.parametrize("tx", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())


# What the numbers are.


@every_optimizer
def test_the_metrics_are_those_of_float64_at_every_step(tx):
    watch, step = gradtx.watch(tx), jax.jit(gradtx.watch(tx).update)
    weights, state = params(), watch.init(params())
    for seed in range(3):
        grads = gradients(seed=seed)
        updates, state = step(grads, state, weights)
        assert_right(gradtx.metrics(state), exact(grads, updates, weights))
        weights = gradtx.apply_updates(weights, updates)


SHAPES = [(), (1,), (1, 1), (7,), (4095,), (4097,), (70_001,), (2, 3000), (3, 3, 16, 32), (5000, 1), (9001, 2)]


@pytest.mark.parametrize("kind", ["normal", "equal"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_metrics_are_right_for_every_shape(shape, kind):
    random = np.random.default_rng(0)
    draw = random.normal if kind == "normal" else lambda size: np.full(size, 1.1)
    grads, weights = (jnp.asarray(draw(size=shape), jnp.float32) for _ in range(2))
    found, updates = watched(gradtx.sign_sgd(0.1), grads, weights)
    assert_right(found, exact(grads, updates, weights), rtol=3e-5, degrees=0.5)


@pytest.mark.parametrize("power", [-30, -25, -20, -10, 0, 9, 19, 20, 28, 30, 35, 38])
@pytest.mark.parametrize("tx", [gradtx.identity(), gradtx.sign_sgd(0.1)], ids=["identity", "sign"])
def test_norms_neither_overflow_nor_vanish_from_1e_minus_30_to_1e38(tx, power):
    random = np.random.default_rng(1)
    sizes = random.uniform(1.7, 3.0, size=(3, 40)) * random.choice([-1.0, 1.0], size=(3, 40))
    size = 10.0 ** min(power, 37)
    grads = {f"leaf {row}": jnp.asarray(sizes[row] * size, jnp.float32) for row in range(3)} | {"s": jnp.float32(size)}
    found, updates = watched(tx, grads, grads)
    assert_right(found, exact(grads, updates, grads))


def test_a_finite_norm_beyond_float32_is_its_largest_number_and_an_infinite_one_stays_visible():
    largest = float(jnp.finfo(jnp.float32).max)
    found, _ = watched(gradtx.identity(), jnp.full(100, largest), jnp.full(100, largest))
    assert found["gradient_norm"] == found["update_norm"] == found["parameter_norm"] == largest
    assert found["update_angle"] == pytest.approx(180, abs=0.1) and found["update_ratio"] == pytest.approx(1)
    for bad in (jnp.inf, jnp.nan):
        found, _ = watched(gradtx.identity(), jnp.array([1.0, bad]), jnp.ones(2))
        assert not np.isfinite(found["gradient_norm"]) and np.isnan(found["update_angle"])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16], ids=lambda dtype: dtype.__name__)
def test_norms_of_narrow_numbers_are_taken_in_float32(dtype):
    grads = {"w": jnp.full(300, 6e4, dtype), "b": jnp.full(2, 1e-7, dtype)}
    found, updates = watched(gradtx.sgd(0.5), grads, grads)
    assert_right(found, exact(grads, updates, grads))


def test_complex_leaves_count_with_both_parts():
    random = np.random.default_rng(0)
    drawn = [jnp.asarray(random.normal(size=5) + 1j * random.normal(size=5), jnp.complex64) for _ in range(2)]
    for tx in (gradtx.sgd(0.1), gradtx.adam(1e-2), gradtx.stateless(lambda g: 1j * g)):
        found, updates = watched(tx, *drawn)
        assert_right(found, exact(drawn[0], updates, drawn[1]))


def test_angles_name_downhill_across_and_uphill():
    grads = jnp.array([3.0, 0.0])
    turned = gradtx.stateless(lambda updates: jnp.array([0.0, 1.0]) * updates[0])
    for tx, angle in ((gradtx.sgd(1.0), 0), (turned, 90), (gradtx.identity(), 180)):
        assert watched(tx, grads, grads)[0]["update_angle"] == pytest.approx(angle, abs=0.1)


def test_a_norm_of_zero_gives_no_nan():
    zero, one = jnp.zeros(2), jnp.ones(2)
    assert_right(watched(gradtx.sgd(0.1), zero, one)[0], dict(zip(NAMES, (0, 0, 2**0.5, 0, 90), strict=True)))
    nothing_moves, _ = watched(gradtx.set_to_zero(), one, one)
    assert nothing_moves["update_angle"] == 90 and nothing_moves["update_ratio"] == 0
    at_zero, _ = watched(gradtx.sgd(0.1), one, zero)
    assert at_zero["update_ratio"] == 0 and at_zero["update_angle"] == pytest.approx(0, abs=0.1)


def test_an_empty_tree_has_norms_of_zero():
    assert watched(gradtx.sgd(0.1), {}, {})[0] == dict(zip(NAMES, (0, 0, 0, 0, 90), strict=True))


def test_without_parameters_their_norm_and_the_ratio_are_nan_and_the_state_keeps_its_type():
    for per_leaf in (False, True):
        tx = gradtx.watch(gradtx.sgd(0.1), per_leaf=per_leaf)
        state = tx.init(params())
        _, after = jax.jit(tx.update)(gradients(), state)
        assert types(after) == types(state)
        unknown = {name.split("/")[0] for name, value in gradtx.metrics(after).items() if np.isnan(value)}
        assert unknown == {"parameter_norm", "update_ratio"}


def test_before_the_first_update_all_metrics_are_zero():
    state = gradtx.watch(gradtx.adam(1e-3), per_leaf=True).init(params())
    assert set(map(float, gradtx.metrics(state).values())) == {0.0}


def test_integer_leaves_that_are_frozen_do_not_count():
    weights = {"w": jnp.array([3.0, 4.0]), "table": jnp.arange(3)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2), allow_int=True)(weights)
    found, updates = watched(gradtx.only(gradtx.sgd(0.1), "w"), grads, weights, per_leaf=True)
    assert_right(found, exact(grads["w"], updates["w"], weights["w"]) | {
        f"{name}/w": value for name, value in exact(grads["w"], updates["w"], weights["w"]).items()
    })  # fmt: skip
    assert updates["table"].dtype == jnp.int32


def test_each_leaf_is_known_by_its_path():
    weights = {"block": [{"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)}], "head": None, "scale": jnp.ones(())}
    grads = jax.tree.map(lambda leaf: 2.0 + leaf, weights)
    found, updates = watched(gradtx.adam(1e-2), grads, weights, per_leaf=True)
    expected = exact(grads, updates, weights)
    for path, pick in {
        "block/0/kernel": lambda tree: tree["block"][0]["kernel"],
        "block/0/bias": lambda tree: tree["block"][0]["bias"],
        "scale": lambda tree: tree["scale"],
    }.items():
        of_leaf = exact(pick(grads), pick(updates), pick(weights))
        expected |= {f"{name}/{path}": value for name, value in of_leaf.items()}
    assert_right(found, expected)


def test_one_array_alone_has_no_path():
    assert watched(gradtx.sgd(0.1), jnp.ones(2), jnp.ones(2), per_leaf=True)[0].keys() == set(NAMES)


# Where it stands, and what it is called there.


def test_a_watch_sees_what_comes_to_it_and_what_its_own_part_makes_of_it():
    tx = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.watch(gradtx.scale(0.5)), gradtx.scale(7.0))
    _, state = tx.update(jnp.array([30.0, 40.0]), tx.init(jnp.ones(2)), jnp.ones(2))
    found = gradtx.metrics(state)
    assert float(found["gradient_norm"]) == pytest.approx(1.0) and float(found["update_norm"]) == pytest.approx(0.5)


def test_several_watches_are_told_apart_by_their_place_in_the_state():
    inner = gradtx.chain(gradtx.clip_by_global_norm(1.0), gradtx.watch(gradtx.adam(1e-3)))
    both = gradtx.watch(inner)
    assert gradtx.metrics(both.init(params())).keys() == {*NAMES, *(f"inner/watch/{name}" for name in NAMES)}
    rules = {"a": gradtx.watch(gradtx.sgd(0.1)), "b": gradtx.chain(gradtx.watch(gradtx.adam(0.1)))}
    tx = gradtx.partition(rules, lambda path, leaf: "ab"[path == "w"])
    _, state = tx.update(gradients(), tx.init(params()), params())
    found = gradtx.metrics({"opt": state})
    assert found.keys() == {f"opt/{place}/{name}" for place in ("a", "b/watch") for name in NAMES}
    assert float(found["opt/a/gradient_norm"]) == pytest.approx(
        exact(*[{n: x for n, x in gradients().items() if n != "w"}] * 3)["gradient_norm"]
    )
    assert float(found["opt/b/watch/gradient_norm"]) == pytest.approx(
        exact(*[gradients()["w"]] * 3)["gradient_norm"], rel=1e-6
    )


def test_a_state_without_a_watch_has_no_metrics():
    assert gradtx.metrics(gradtx.adam(1e-3).init(params())) == {}


@pytest.mark.parametrize("wrap", [
    lambda tx: optax.chain(optax.clip(1.0), tx),
    lambda tx: gradtx.storage.stored(tx, gradtx.storage.cast("bfloat16")),
    lambda tx: gradtx.tunable(lambda factor: gradtx.chain(tx, gradtx.scale(factor)), factor=0.5),
    lambda tx: gradtx.only(tx, "*"),
    lambda tx: gradtx.total(tx, gradtx.identity()),
], ids=["Optax's chain", "stored", "tunable", "only", "total"])  # fmt: skip
def test_a_watch_within_other_combinators_is_found(wrap):
    tx = wrap(gradtx.watch(gradtx.adam(1e-3), per_leaf=True))
    small = jax.tree.map(lambda leaf: leaf / 100, gradients())
    _, state = tx.update(small, tx.init(params()), params())
    found = gradtx.metrics(state)
    assert float(found["gradient_norm"]) == pytest.approx(exact(*[small] * 3)["gradient_norm"], rel=1e-6)
    assert len(found) == 5 * 4


def test_a_watch_reads_the_whole_tree_and_takes_the_signals_of_its_part():
    @gradtx.transformation(locality="elementwise")
    def boosted():
        return gradtx.GradientTransformation(
            lambda param: gradtx.core.EmptyState(), lambda update, state, *, boost: (boost * update, state)
        )

    tx = gradtx.watch(boosted())
    assert record_of(tx).locality == "tree"
    state = tx.init(params())
    assert float(tx.update(gradients(), state, params(), boost=2.0)[0]["s"]) == pytest.approx(
        2 * float(gradients()["s"])
    )
    with pytest.raises(errors.SignalError, match=r"watch\(boosted\(\)\).*boost"):
        tx.update(gradients(), state, params())


# That nothing else changes.


@every_optimizer
@pytest.mark.parametrize("per_leaf", [False, True])
def test_the_updates_are_bit_for_bit_those_without(tx, per_leaf):
    watch = gradtx.watch(tx, per_leaf=per_leaf)
    for wrap in (jax.jit, lambda function: function):
        plain, plain_state, state = wrap(tx.update), tx.init(params()), watch.init(params())
        watching = wrap(watch.update)
        for seed in range(3):
            expected, plain_state = plain(gradients(seed=seed), plain_state, params())
            updates, state = watching(gradients(seed=seed), state, params())
            jax.tree.map(np.testing.assert_array_equal, updates, expected)
        jax.tree.map(np.testing.assert_array_equal, state.inner, plain_state)


def test_zeros_of_both_signs_subnormal_numbers_and_nan_pass():
    grads = jnp.array([-0.0, 0.0, 1e-42, jnp.nan, -jnp.inf])
    updates = watched(gradtx.identity(), grads, jnp.ones(5))[1]
    assert np.asarray(updates).tobytes() == np.asarray(grads).tobytes()


def test_metrics_have_no_gradient_and_do_not_stand_in_the_way_of_one():
    def after_a_step(rate, tx):
        updates, state = tx(rate).update(jnp.ones(3), tx(rate).init(jnp.ones(3)), jnp.ones(3))
        return jnp.sum(updates) + sum(gradtx.metrics(state).values())

    slope = jax.grad(after_a_step)(0.5, lambda rate: gradtx.watch(gradtx.scale(rate)))
    assert float(slope) == pytest.approx(3.0)


def test_shard_map_watches_each_part_and_its_check_of_variation_holds():
    mesh = jax.make_mesh((2,), ("d",), devices=jax.devices()[:2], axis_types=(jax.sharding.AxisType.Auto,))
    tx = gradtx.watch(gradtx.sgd(0.5))
    grads, weights = jnp.arange(1.0, 9.0), jnp.ones(8)

    def step(grads, weights):
        updates, state = tx.update(grads, tx.init(weights), weights)
        return updates, gradtx.metrics(state)["gradient_norm"][None]

    updates, norms = jax.jit(jax.shard_map(step, mesh=mesh, in_specs=P("d"), out_specs=P("d")))(grads, weights)
    np.testing.assert_allclose(updates, -0.5 * grads)
    np.testing.assert_allclose(norms, [30**0.5, 174**0.5], rtol=1e-6)


@pytest.mark.parametrize("spec", [P("d"), P(None, "d")], ids=str)
def test_the_norm_of_sharded_parameters_gathers_no_parameter(spec):
    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    weights = jax.device_put(jnp.ones((512, 256)), jax.sharding.NamedSharding(mesh, spec))
    tx = gradtx.watch(gradtx.sgd(0.5))
    compiled = jax.jit(tx.update).lower(weights, tx.init(weights), weights).compile()
    gathered = re.findall(r"= \(?\w+\[([\d,]*)\]\S* (?:all-gather|all-to-all)\(", str(compiled.as_text()))
    assert all(np.prod([int(length) for length in shape.split(",")]) <= 512 * 4 for shape in gathered)
    _, state = compiled(weights, tx.init(weights), weights)
    assert float(gradtx.metrics(state)["gradient_norm"]) == pytest.approx(512**0.5 * 16, rel=1e-6)


# What it costs.

LARGE = equal_leaves(4, 100_000)
WATCHED = {"sgd": (gradtx.sgd(1e-3), 2.1), "momentum": (gradtx.sgd(1e-3, momentum=0.9), 3.1),
           "adamw": (gradtx.adamw(1e-3), 5.1)}  # fmt: skip


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are those of the compiler for CPUs")
@pytest.mark.parametrize("what", WATCHED)
def test_watching_reads_gradients_updates_and_parameters_once_more_and_copies_none(what):
    """In bytes of the parameters. With adamw the updates, which two loops use, are also written and read."""
    tx, bound = WATCHED[what]
    plain = lowered(transforming(tx, gradtx.apply_updates), LARGE).compile()
    compiled = lowered(transforming(gradtx.watch(tx), gradtx.apply_updates), LARGE).compile()
    assert bytes_moved(compiled, LARGE) - bytes_moved(plain, LARGE) <= bound
    assert parameter_copies(compiled, LARGE) == 0


def test_small_leaves_are_watched_together():
    small = equal_leaves(64, 100)
    compiled = lowered(transforming(gradtx.watch(gradtx.sgd(1e-3)), gradtx.apply_updates), small).compile()
    assert bytes_moved(compiled, small) <= 5.5
    assert str(compiled.as_text()).count(" fusion(") <= 64 + 40


def test_equal_leaves_are_traced_once():
    weights = {f"leaf {index}": jnp.ones(5000) for index in range(20)}
    tx = gradtx.watch(gradtx.sgd(0.1))
    text = jax.jit(tx.update).lower(weights, tx.init(weights), weights).as_text()
    assert text.count("func.func private @_with_sums") == 1

"""The laws of ``gradtx.core``, each held by every row of the table."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import gradtx
from gradtx import errors
from tests.laws.table import RECIPES, UNITS, every_unit
from tests.laws.trees import SHAPES, assert_close, gradients, params, types
from tests.laws.unit import Unit

every_part = pytest.mark.parametrize("unit", [u for u in UNITS if u not in RECIPES], ids=lambda unit: unit.name)
FLOATS = (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)


@functools.cache
def made(unit: Unit) -> gradtx.GradientTransformation:
    return unit.make()


@functools.cache
def fed(unit: Unit):
    return unit.fed(made(unit))


@functools.cache
def jitted(unit: Unit):
    return jax.jit(fed(unit))


def steps(unit: Unit, update, count: int = 3):
    state, out = made(unit).init(params()), []
    for seed in range(count):
        updates, state = update(gradients(seed=seed, domain=unit.domain), state, params())
        out.append(updates)
    return out, state


# Law 1


@every_unit
def test_eager_and_jit_agree(unit):
    assert_close(steps(unit, fed(unit)), steps(unit, jitted(unit)), unit.magnifies)


@every_unit
def test_scan_agrees_with_single_steps(unit):
    grads = [gradients(seed=seed, domain=unit.domain) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)

    def body(state, grad):
        updates, state = fed(unit)(grad, state, params())
        return state, updates

    state, updates = jax.jit(lambda state: jax.lax.scan(body, state, stacked))(made(unit).init(params()))
    expected, expected_state = steps(unit, jitted(unit))
    assert_close(updates, jax.tree.map(lambda *leaves: jnp.stack(leaves), *expected), unit.magnifies)
    assert_close(state, expected_state, unit.magnifies)


@every_unit
def test_vmap_over_replicas_agrees_with_each_alone(unit):
    grads = [gradients(seed=seed, domain=unit.domain) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grads)
    state = made(unit).init(params())
    replicas = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), state)
    updates, states = jax.jit(jax.vmap(fed(unit), in_axes=(0, 0, None)))(stacked, replicas, params())
    for index, grad in enumerate(grads):
        expected = jitted(unit)(grad, state, params())
        assert_close(jax.tree.map(lambda leaf, index=index: leaf[index], (updates, states)), expected, unit.magnifies)


@every_unit
def test_shard_map_and_pmap_agree_with_one_device(unit):
    if jax.device_count() < 2:
        pytest.fail("the tests need several devices: see tests/conftest.py")
    mesh = jax.make_mesh((2,), ("replica",), devices=jax.devices()[:2])
    grads, state = gradients(domain=unit.domain), made(unit).init(params())
    expected = jitted(unit)(grads, state, params())
    everywhere = PartitionSpec()
    replicated = jax.shard_map(fed(unit), mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    assert_close(jax.jit(replicated)(grads, state, params()), expected, unit.magnifies)
    doubled = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), (grads, state, params()))
    mapped = jax.pmap(fed(unit), devices=jax.devices()[:2])(*doubled)
    assert_close(jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[1]), mapped), expected, unit.magnifies)


# Law 2


@every_unit
def test_the_first_update_sees_step_zero(unit):
    """Numbers given as schedules are asked for step 0 first, and then act as the same numbers given as such."""
    values = in_float32(unit.numbers)
    if not values:
        return
    tx = unit.make(**{name: functools.partial(halved_after_step_zero, value) for name, value in values.items()})
    grads, state = gradients(domain=unit.domain), tx.init(params())
    updates, state = unit.fed(tx)(grads, state, params())
    constant = unit.make(**values)
    assert_close(updates, unit.fed(constant)(grads, constant.init(params()), params())[0])
    assert gradtx.hyperparameters(state).items() >= values.items()
    _, state = unit.fed(tx)(grads, state, params())
    assert gradtx.hyperparameters(state).items() >= in_float32({name: 0.5 * values[name] for name in values}).items()


@every_unit
def test_every_real_number_may_be_a_schedule_but_for_those_of_the_first_state(unit):
    parameters = inspect.signature(unit.constructor).parameters
    given = {name: unit.arguments.get(name, parameter.default) for name, parameter in parameters.items()}
    numbers = {name for name, value in given.items() if isinstance(value, float)}
    assert {name for name in numbers - set(unit.numbers) if not name.startswith("initial_")} == set()


def in_float32(numbers):
    """The same numbers as data, which are float32."""
    return {name: float(np.float32(value)) for name, value in numbers.items()}


def halved_after_step_zero(value, step):
    return value * jnp.where(step == 0, 1.0, 0.5)


# Law 3


@every_unit
def test_the_type_of_the_state_is_a_fixpoint_for_all_dtypes(unit):
    with jax.enable_x64(True):
        for param_dtype in FLOATS:
            for grad_dtype in FLOATS:
                weights, grads = params(param_dtype), gradients(grad_dtype, domain=unit.domain)
                state = jax.eval_shape(made(unit).init, weights)
                _, after = jax.eval_shape(fed(unit), grads, state, weights)
                assert types(after) == types(state), (param_dtype, grad_dtype)


@every_unit
def test_one_trace_serves_all_steps(unit):
    traces = 0

    def update(grads, state, weights):
        nonlocal traces
        traces += 1
        return fed(unit)(grads, state, weights)

    step, state = jax.jit(update), made(unit).init(params())
    for seed in range(3):
        _, state = step(gradients(seed=seed, domain=unit.domain), state, params())
    assert traces == 1


@every_unit
@pytest.mark.parametrize("explicit", [False, True], ids=["auto", "explicit"])
def test_an_update_keeps_the_sharding_of_the_state(unit, explicit):
    axis_type = jax.sharding.AxisType.Explicit if explicit else jax.sharding.AxisType.Auto
    mesh = jax.make_mesh((2,), ("d",), axis_types=(axis_type,), devices=jax.devices()[:2])
    weights = {
        "w": jax.device_put(jnp.ones((4, 2)), NamedSharding(mesh, PartitionSpec("d"))),
        "b": jax.device_put(jnp.ones((2,)), NamedSharding(mesh, PartitionSpec())),
        "s": jax.device_put(jnp.ones(()), NamedSharding(mesh, PartitionSpec())),
    }
    state = made(unit).init(weights)
    _, after = fed(unit)(weights, state, weights)
    for before, now in zip(jax.tree.leaves(state), jax.tree.leaves(after), strict=True):
        assert jax.typeof(before) == jax.typeof(now)
        assert before.sharding.is_equivalent_to(now.sharding, before.ndim)


# Law 4


@every_unit
def test_low_precision_parameters_get_float32_state_and_updates(unit):
    for dtype in (jnp.bfloat16, jnp.float16):
        weights, grads = params(dtype), gradients(dtype, domain=unit.domain)
        state = made(unit).init(weights)
        updates, _ = jitted(unit)(grads, state, weights)
        assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}
        kept = {leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.ndim}
        assert kept <= {jnp.dtype(one) for one in (unit.kept if isinstance(unit.kept, tuple) else [unit.kept])}
        after = gradtx.apply_updates(weights, updates)
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype(dtype)}


@every_unit
def test_the_x64_switch_promotes_nothing(unit):
    with jax.enable_x64(True):
        weights, grads = params(jnp.float32), gradients(jnp.float32, domain=unit.domain)
        state = made(unit).init(weights)
        updates, after = fed(unit)(grads, state, weights)
        for leaf in jax.tree.leaves((updates, after)):
            assert leaf.dtype.itemsize <= 4


# Law 5

LARGEST = float(np.finfo(np.float32).max)
MAGNITUDES = (0.0, 1.1754944e-38, 1e-25, 1e-4, 1.0, 300.0, 1e20, 1e30, LARGEST)


@every_part
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32], ids=lambda dtype: dtype.__name__)
def test_finite_gradients_give_finite_steps_that_are_not_wrongly_zero(unit, dtype):
    """Up to 1e30; up to the largest number of all where updates do not grow like the gradients, as sums of them do.

    ``test_numerics.py`` has the recipes, for every pair of dtypes.
    """
    passes_sizes_on = False
    for magnitude in MAGNITUDES:
        if magnitude > float(jnp.finfo(dtype).max) or 0 < magnitude < float(jnp.finfo(dtype).tiny):
            continue  # this dtype cannot hold the value
        if magnitude == LARGEST and passes_sizes_on:
            continue
        weights, state = params(dtype), made(unit).init(params(dtype))
        grads = {name: jnp.full(shape, magnitude, dtype) for name, shape in SHAPES.items()}
        for _ in range(2):
            updates, state = jitted(unit)(grads, state, weights)
            weights = gradtx.apply_updates(weights, updates)
            for leaf in jax.tree.leaves((updates, state, weights)):
                assert np.all(np.isfinite(np.asarray(leaf, np.float64))), magnitude
        if magnitude == 1e30:
            passes_sizes_on = any(np.any((abs(leaf) > 1e26) & (abs(leaf) < 1e34)) for leaf in jax.tree.leaves(updates))
        smallest = float(jnp.finfo(jnp.float32).tiny)
        if unit.oracle is not None and magnitude > 0:
            exact = exact_steps(unit, float(jnp.asarray(magnitude, dtype)), 2)
            if abs(exact) >= smallest * 4:
                assert np.all(np.asarray(updates["b"]) != 0), magnitude


def exact_steps(unit: Unit, gradient: float, count: int) -> float:
    """The size of the update after equal gradients, from the float64 oracle; parameters at zero."""
    state, update = {}, np.zeros(1)
    for t in range(1, count + 1):
        update, state = unit.exact(state, np.full(1, gradient), np.zeros(1), t)
    return float(np.abs(update).max())


@every_unit
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf], ids=str)
def test_what_is_not_finite_stays_visible(unit, value):
    bounded = {"set_to_zero", "zero_nans"} if np.isnan(value) else {"set_to_zero", "clip", "scale_by_sign"}
    bounded |= {"hutchinson_estimator_diag_hessian", "previous_mean_square"}  # not made from the present gradients
    if unit.name in bounded or (unit.sign and not np.isnan(value)):
        return
    grads = gradients(domain=unit.domain) | {"w": jnp.full(SHAPES["w"], value)}
    updates, _ = jitted(unit)(grads, made(unit).init(params()), params())
    if unit.guards:
        assert not any(np.any(np.asarray(update)) for update in jax.tree.leaves(updates))
        return
    assert not np.isfinite(np.asarray(updates["w"])).any()


# Law 7


@every_unit
def test_updates_have_the_gradients_structure_and_shapes(unit):
    grads = gradients(domain=unit.domain)
    updates, _ = jitted(unit)(grads, made(unit).init(params()), params())
    assert jax.tree.structure(updates) == jax.tree.structure(grads)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, grads)


@every_unit
def test_leaves_that_are_none_pass_through(unit):
    weights, grads = {**params(), "n": None}, {**gradients(domain=unit.domain), "n": None}
    updates, state = fed(unit)(grads, made(unit).init(weights), weights)
    assert updates["n"] is None
    assert types(state) == types(made(unit).init(weights))


@every_unit
def test_none_in_the_gradients_alone_is_an_error(unit):
    with pytest.raises(errors.StructureError, match="without 'w'"):
        fed(unit)({**gradients(), "w": None}, made(unit).init(params()), params())


@every_unit
def test_empty_leaves_work(unit):
    weights = {**params(), "w": jnp.zeros((0, 3))}
    grads = {**gradients(domain=unit.domain), "w": jnp.zeros((0, 3))}
    updates, state = fed(unit)(grads, made(unit).init(weights), weights)
    assert updates["w"].shape == (0, 3)
    assert all(np.all(np.isfinite(np.asarray(leaf, np.float64))) for leaf in jax.tree.leaves((updates, state)))


@every_unit
def test_an_empty_tree_works(unit):
    updates, state = fed(unit)({}, made(unit).init({}), {})
    assert updates == {} and types(state) == types(made(unit).init({}))


# Law 8


@every_unit
def test_standard_signals_are_accepted_and_misspelt_ones_are_not(unit):
    state, key = made(unit).init(params()), jax.random.key(0)
    fed(unit)(gradients(domain=unit.domain), state, params(), value=1.0, grad=gradients(), key=key)
    with pytest.raises(errors.SignalError, match="did you mean 'value'"):
        fed(unit)(gradients(domain=unit.domain), state, params(), valeu=1.0)


@every_unit
def test_a_missing_signal_names_the_part(unit):
    for name in unit.signals:
        others = {other: value for other, value in unit.signals.items() if other != name}
        for tx in (made(unit), gradtx.chain(gradtx.identity(), made(unit))):
            with pytest.raises(errors.SignalError, match=f"{unit.constructor.__name__}.* needs the signal {name}"):
                tx.update(gradients(domain=unit.domain), tx.init(params()), params(), **others)


# Law 9


@every_unit
def test_a_state_can_be_donated_with_its_parameters(unit):
    weights = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params())
    state = made(unit).init(weights)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((weights, state))]
    assert len(set(buffers)) == len(buffers)

    def step(weights, state, grads):
        updates, state = fed(unit)(grads, state, weights)
        return gradtx.apply_updates(weights, updates), state

    step = jax.jit(step, donate_argnums=(0, 1))
    for seed in range(2):
        weights, state = step(weights, state, gradients(seed=seed, domain=unit.domain))
    jax.block_until_ready((weights, state))


# Law 10


@every_unit
def test_tunable_numbers_are_data(unit):
    """Changing all of them traces nothing and acts as building anew; ``vmap`` runs over them."""
    values, others = in_float32(unit.numbers), in_float32({name: 0.75 * value for name, value in unit.numbers.items()})
    if not values:
        return

    def build(**numbers):
        return unit.make(**numbers)

    tx, traces = gradtx.tunable(build, **values), 0

    def update(grads, state, weights):
        nonlocal traces
        traces += 1
        return unit.fed(tx)(grads, state, weights)

    step, state, grads = jax.jit(update), tx.init(params()), gradients(domain=unit.domain)
    changed = gradtx.set_hyperparameters(state, **others)
    for numbers, given in ((values, state), (others, changed)):
        constant = unit.make(**numbers)
        expected, _ = unit.fed(constant)(grads, constant.init(params()), params())
        assert_close(step(grads, given, params())[0], expected)
    assert traces == 1
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), state, changed)
    updates, _ = jax.vmap(unit.fed(tx), in_axes=(None, 0, None))(grads, both, params())
    assert_close(jax.tree.map(lambda leaf: leaf[1], updates), expected)


# Law 11


@pytest.mark.parametrize(
    ("unit", "bad"),
    [
        pytest.param(unit, bad, id=f"{unit.name}-{index}-{next(iter(bad.arguments))}")
        for unit in UNITS
        for index, bad in enumerate(unit.bad)
    ],
)
def test_bad_arguments_fail_at_construction(unit, bad):
    with pytest.raises(bad.error) as caught:
        unit.make(**bad.arguments)
    message = str(caught.value)
    assert bad.words in message
    assert message.startswith(f"{unit.constructor.__name__}(") and message.endswith(f"[{caught.value.code}]")


@every_unit
def test_equal_arguments_give_the_same_object(unit):
    assert unit.make() == unit.make()


@every_unit
def test_missing_parameters_name_the_part(unit):
    record = gradtx.core.record_of(made(unit))
    state = made(unit).init(params())
    if not record.needs_params:
        fed(unit)(gradients(domain=unit.domain), state)
        return
    part = record.needs_params[0].rpartition(":")[2] or record.name
    with pytest.raises(errors.MissingParams, match=part) as caught:
        fed(unit)(gradients(domain=unit.domain), state)
    assert "tx.update(grads, state, params)" in str(caught.value)


@every_unit
def test_gradients_of_another_tree_fail_with_both_structures(unit):
    state = made(unit).init(params())
    with pytest.raises(errors.StructureError, match="without 'b'"):
        fed(unit)({name: leaf for name, leaf in gradients().items() if name != "b"}, state, params())
    with pytest.raises(errors.StructureError, match=r"one leaf float32\[1,224,224,1\].*differentiate"):
        fed(unit)(jnp.ones((1, 224, 224, 1)), state, params())
    for shape in ((1,), (), (2, 1), (2, 2)):
        with pytest.raises(errors.ShapeError, match="at 'b'"):
            fed(unit)({**gradients(), "b": jnp.ones(shape)}, state, params())


DTYPELESS = {"identity", "set_to_zero", "freeze", "chain of nothing"}


@every_unit
def test_leaves_that_are_no_floating_point_numbers_fail_with_their_path(unit):
    if unit.name in DTYPELESS:
        return
    for leaf, words in ((jnp.arange(2), "int32"), (jnp.array([True]), "bool"), (print, "eqx.filter")):
        with pytest.raises(errors.DtypeError, match="'w'.*" if leaf is not print else words):
            made(unit).init({**params(), "w": leaf})


@every_unit
def test_complex_leaves_work_or_are_refused(unit):
    grads = {name: (leaf + 1j * leaf).astype(jnp.complex64) for name, leaf in gradients(domain=unit.domain).items()}
    if unit.real:
        with pytest.raises((errors.DtypeError, errors.LayoutError), match="complex"):
            fed(unit)(grads, made(unit).init(grads), grads)
        return
    state = made(unit).init(grads)
    updates, after = fed(unit)(grads, state, grads)
    assert types(after) == types(state)
    assert all(np.all(np.isfinite(np.asarray(leaf))) for leaf in jax.tree.leaves((updates, after)))


@pytest.mark.parametrize("unit", RECIPES, ids=lambda unit: unit.name)
def test_a_compiled_step_lowers_for_every_platform(unit):
    def step(weights, state, grads):
        updates, state = fed(unit)(grads, state, weights)
        return gradtx.apply_updates(weights, updates), state

    arguments = jax.eval_shape(lambda: (params(), made(unit).init(params()), gradients()))
    exported = jax.export.export(jax.jit(step), platforms=["cpu", "cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")

"""Claims that every schedule keeps, row by row of the table."""

import inspect
import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import gradtx
from gradtx import schedules
from tests.schedules.table import ROWS, Row

LAST = 2**31 - 1
BEYOND = (2**31, 2**70, np.int64(2**40), np.uint64(2**63), np.float32(3e9), math.inf, jnp.uint32(2**32 - 1))
PYTHON_KINDS = [int, float]
NUMPY_KINDS = [np.int64, np.int32, np.uint8, np.float64, np.float16, ml_dtypes.bfloat16, np.array]
JAX_KINDS = [jnp.int8, jnp.int32, jnp.uint32, jnp.float32, jnp.bfloat16, lambda step: jnp.array(step)]
every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def assert_exact(row: Row, values: np.ndarray, steps: np.ndarray, total: int):
    exact, largest = row.exact(steps.astype(np.float64), total)
    tiny = np.finfo(np.float32).tiny
    unit = np.spacing(np.maximum(np.float32(largest), tiny)).astype(np.float64)
    errors = np.abs(np.asarray(values, np.float64) - exact) / unit
    errors[np.abs(exact) < tiny] = 0  # float32 arithmetic may make 0 of what is below its normal numbers
    worst = int(np.argmax(errors))
    assert errors[worst] <= row.ulp, f"{errors[worst]:.2f} ULP off {exact[worst]} at step {steps[worst]} of {total}"


@every_row
@pytest.mark.parametrize("total", [100, 4096, 99_991, 16_777_213])
def test_values_are_exact_to_few_ulp(row, total):
    inside = np.random.default_rng(0).integers(0, total, 3000)
    steps = np.unique(np.concatenate([np.arange(40), inside, total - np.arange(40), total + np.arange(40)]))
    assert_exact(row, jax.jit(row.make(total))(jnp.asarray(steps, jnp.int32)), steps, total)


@every_row
@pytest.mark.parametrize("total", range(1, 11))
def test_few_steps_are_finite_and_exact(row, total):
    steps = np.arange(total + 8)
    assert_exact(row, jax.jit(row.make(total))(jnp.asarray(steps, jnp.int32)), steps, total)


@every_row
def test_one_by_one_jitted_and_mapped_agree(row):
    schedule, steps = row.make(10), jnp.arange(12)
    together = np.asarray(schedule(steps))
    for values in (
        [schedule(step) for step in range(12)],
        [jax.jit(schedule)(step) for step in range(12)],
        jax.vmap(schedule)(steps),
        jax.jit(jax.vmap(schedule))(steps),
        jax.lax.scan(lambda carry, step: (carry, schedule(step)), 0, steps)[1],
    ):
        np.testing.assert_allclose(np.asarray(values), together, rtol=5e-7, atol=5e-7 * np.max(np.abs(together)))


@every_row
@pytest.mark.parametrize("kind", PYTHON_KINDS + NUMPY_KINDS + JAX_KINDS)
def test_a_step_may_be_any_kind_of_number(row, kind):
    schedule = row.make(10)
    for step in (0, 3, 9, 10, 100):
        value = schedule(kind(step))
        assert value.dtype == jnp.float32 and value.shape == () and not value.weak_type
        assert value == schedule(step)


@every_row
def test_steps_out_of_range_are_clamped(row):
    schedule = row.make(1000)
    for step in (-1, -(2**70), np.int64(-(2**40)), -0.5, -math.inf, jnp.int32(-7), jnp.float32(-1e30), jnp.int8(-1)):
        assert schedule(step) == schedule(0)
    for step in (*BEYOND, jnp.float32(3e9)):
        assert schedule(step) == schedule(LAST)


@every_row
def test_64_bit_mode_promotes_nothing(row):
    with jax.enable_x64(True):
        schedule = row.make(1000)
        for step in (7, np.int64(7), jnp.int64(7), jnp.float64(7.0), jnp.arange(7, 8)):
            assert schedule(step).dtype == jnp.float32
            assert jax.jit(schedule)(step).dtype == jnp.float32
        assert schedule(jnp.int64(-(2**40))) == schedule(0)
        assert schedule(jnp.int64(2**40)) == schedule(LAST)


@every_row
def test_a_schedule_is_traced_once_for_all_steps(row):
    schedule, traces = row.make(1000), 0

    @jax.jit
    def value(step):
        nonlocal traces
        traces += 1
        return schedule(step)

    for step in range(5):
        value(jnp.int32(step))
    assert traces == 1


@every_row
def test_a_schedule_serves_as_a_static_argument(row):
    assert jax.jit(lambda f, step: f(step), static_argnums=0)(row.make(5), 2) == row.make(5)(2)


@every_row
def test_a_step_that_is_no_number_is_refused(row):
    for step in (None, "3", 1j, {}, lambda step: step):
        with pytest.raises(TypeError, match="step must be a real number"):
            row.make(5)(step)


@pytest.mark.parametrize("seed", range(2))
def test_values_are_those_of_optax(seed):
    random = np.random.default_rng(seed)
    init, peak, end = (float(value) for value in random.uniform(0.1, 1.0, 3))
    warm, total, begin = (int(value) for value in random.integers((1, 50, 0), (40, 200, 20)))
    steps = jnp.arange(total + 30)
    for ours, theirs in [
        (schedules.linear_schedule(init, end, total, begin), optax.linear_schedule(init, end, total, begin)),
        (schedules.cosine_decay_schedule(init, total, end, 2.0), optax.cosine_decay_schedule(init, total, end, 2.0)),
        (schedules.warmup_constant_schedule(init, peak, warm), optax.warmup_constant_schedule(init, peak, warm)),
        (
            schedules.warmup_cosine_decay_schedule(init, peak, warm, total, end),
            optax.warmup_cosine_decay_schedule(init, peak, warm, total, end),
        ),
        (
            schedules.join_schedules([optax.linear_schedule(init, peak, warm), optax.constant_schedule(end)], [warm]),
            optax.join_schedules([optax.linear_schedule(init, peak, warm), optax.constant_schedule(end)], [warm]),
        ),
        (
            schedules.polynomial_schedule(init, end, 2.5, total, begin),
            optax.polynomial_schedule(init, end, 2.5, total, begin),
        ),
        (
            schedules.exponential_decay(init, total, 0.5, begin, end_value=0.4 * init),
            optax.exponential_decay(init, total, 0.5, begin, end_value=0.4 * init),
        ),
        (
            schedules.exponential_decay(init, total, 2.0, begin, True, 3 * init),
            optax.exponential_decay(init, total, 2.0, begin, True, 3 * init),
        ),
        (
            schedules.warmup_exponential_decay_schedule(init, peak, warm, total, 0.5, begin),
            optax.warmup_exponential_decay_schedule(init, peak, warm, total, 0.5, begin),
        ),
        (
            schedules.piecewise_constant_schedule(init, {total: 0.1, warm: 0.5}),
            optax.piecewise_constant_schedule(init, {total: 0.1, warm: 0.5}),
        ),
        *(
            (
                schedules.piecewise_interpolate_schedule(kind, init, {total: 0.25, warm: 2.0}),
                optax.piecewise_interpolate_schedule(kind, init, {total: 0.25, warm: 2.0}),
            )
            for kind in ("linear", "cosine")
        ),
        (
            schedules.linear_onecycle_schedule(total, peak, 0.2, 0.7, 10.0, 5.0),
            optax.linear_onecycle_schedule(total, peak, 0.2, 0.7, 10.0, 5.0),
        ),
        (
            schedules.cosine_onecycle_schedule(total, peak, 0.2, 10.0, 5.0),
            optax.cosine_onecycle_schedule(total, peak, 0.2, 10.0, 5.0),
        ),
        *(
            (
                schedules.sgdr_schedule([cycle, {**cycle, "peak_value": 0.5 * peak, "decay_steps": 2 * total}]),
                optax.sgdr_schedule([cycle, {**cycle, "peak_value": 0.5 * peak, "decay_steps": 2 * total}]),
            )
            for cycle in [dict(init_value=init, peak_value=peak, warmup_steps=min(warm, 30), decay_steps=total)]
        ),
    ]:
        np.testing.assert_allclose(ours(steps), jax.vmap(theirs)(steps), rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize(
    "name",
    [name for name in dir(optax.schedules) if name[0] != "_" and name.endswith(("schedule", "schedules", "decay"))],
)
def test_every_schedule_of_optax_has_its_parameters_in_order(name):
    ours, theirs = (inspect.signature(getattr(room, name)).parameters for room in (schedules, optax.schedules))
    assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()]


def test_restarts_are_those_of_sgdr():
    """Loshchilov and Hutter 2017, equation 5, one step after the other."""
    since, length = 0, 3
    restarts = schedules.cosine_restarts_schedule(0.3, 3, growth=2, alpha=0.1)
    for step in range(50):
        exact = 0.03 + 0.5 * (0.3 - 0.03) * (1 + math.cos(math.pi * since / length))
        assert float(restarts(step)) == pytest.approx(exact, rel=3e-7)
        since += 1
        if since == length:
            since, length = 0, 2 * length


def test_a_huge_growth_of_restarts_stays_finite():
    restarts = schedules.cosine_restarts_schedule(0.3, 2**30, growth=LAST)
    assert np.isfinite(restarts(jnp.array([0, 2**30 - 1, 2**30, LAST]))).all()
    assert restarts(2**30) == np.float32(0.3)


def test_the_rate_of_the_transformer_is_that_of_the_paper():
    width, warm = 512, 4000
    ours = schedules.warmup_inverse_sqrt_schedule((width * warm) ** -0.5, warm)
    for number in (1, 100, 4000, 4001, 100_000):
        assert float(ours(number - 1)) == pytest.approx(width**-0.5 * min(number**-0.5, number * warm**-1.5), rel=3e-7)


def test_growth_stops_at_the_largest_number():
    for start, bound in ((0.1, np.finfo(np.float32).max), (-0.1, np.finfo(np.float32).min)):
        assert schedules.exponential_decay(start, 1, 10.0)(LAST) == bound
        assert schedules.exponential_decay(start, 1, 10.0)(30) == np.float32(start * 1e30)


def test_a_long_decay_does_not_add_up_the_rounding_of_its_rate():
    exact = 0.1 * np.longdouble(0.999) ** 50_000
    ours = schedules.exponential_decay(0.1, 1, 0.999)(50_000)
    theirs = optax.exponential_decay(0.1, 1, 0.999)(50_000)
    assert abs(float(ours) / float(exact) - 1) < 3e-7
    assert abs(float(theirs) / float(exact) - 1) > 1e-4


def test_no_stair_comes_late():
    for steps in (3, 7, 49, 1000, 12_345):
        stairs = schedules.exponential_decay(1.0, steps, 0.5, staircase=True)
        for number in range(1, 30):
            assert stairs(number * steps - 1) == 0.5 ** (number - 1)
            assert stairs(number * steps) == 0.5**number


@pytest.mark.parametrize("total", range(1, 11))
def test_one_cycle_ends_where_it_should_however_few_steps_it_has(total):
    for ours in (
        schedules.linear_onecycle_schedule(total, 0.5, div_factor=4.0, final_div_factor=2.0),
        schedules.cosine_onecycle_schedule(total, 0.5, div_factor=4.0, final_div_factor=2.0),
    ):
        values = np.asarray(ours(jnp.arange(total + 1)))
        assert values[-1] == 0.0625
        assert np.all((values >= 0.0625) & (values <= 0.5))
    late = optax.linear_onecycle_schedule(1, 0.5)(1)
    assert late != pytest.approx(0.5 / 25 / 1e4)  # two of its boundaries fall on one step, and a factor is lost


def test_a_stable_phase_does_not_know_how_long_the_run_will_be():
    short, long = (schedules.warmup_stable_decay_schedule(0.0, 0.1, 3, stable, 30 + stable) for stable in (20, 500))
    np.testing.assert_array_equal(short(jnp.arange(24)), long(jnp.arange(24)))


def test_ends_are_exact():
    for total in (1, 3, 41, 49, 1000, 123_457):
        dip = schedules.warmup_cosine_decay_schedule(0.7, 0.1, 0, total, 0.3)
        for schedule, begin, end in [
            (schedules.linear_schedule(0.1, 0.7, total), 0.1, 0.7),
            (schedules.cosine_decay_schedule(0.1, total), 0.1, 0.0),
            (schedules.linear_warmup(dip, 2, init_value=0.9), 0.9, 0.3),
        ]:
            for call in (schedule, jax.jit(schedule)):
                assert call(0) == np.float32(begin)
                assert call(total + 2) == np.float32(end)


def test_a_cosine_stays_exact_where_one_plus_its_cosine_cancels():
    total = 1_000_000
    last = np.float32(np.sin(np.pi / 2 / total) ** 2)
    ours = schedules.cosine_decay_schedule(1.0, total)(total - 1)
    assert abs(ours - last) <= 2 * np.spacing(last)
    assert optax.cosine_decay_schedule(1.0, total)(total - 1) == 0  # exactly it is 2.5e-12


def test_a_warm_up_does_not_change_what_follows():
    inner = schedules.cosine_decay_schedule(0.3, 20)
    warmed = schedules.linear_warmup(inner, 5, init_value=0.1)
    np.testing.assert_array_equal(warmed(jnp.arange(5, 40)), inner(jnp.arange(35)))
    np.testing.assert_array_equal(schedules.linear_warmup(inner, 0)(jnp.arange(40)), inner(jnp.arange(40)))


def test_joined_schedules_are_never_asked_for_a_negative_step():
    seen = []

    def second(step):
        seen.append(int(step))
        return 0.5

    joined = schedules.join_schedules([schedules.constant_schedule(0.1), second], [10])
    assert [float(joined(step)) for step in (0, 9, 10, 12)] == [np.float32(0.1), np.float32(0.1), 0.5, 0.5]
    assert seen == [0, 0, 0, 2]


def test_equal_arguments_give_the_same_function():
    assert schedules.cosine_decay_schedule(0.1, 10) is schedules.cosine_decay_schedule(0.1, 10)
    assert schedules.cosine_decay_schedule(0.1, 10) is not schedules.cosine_decay_schedule(0.2, 10)
    parts = [schedules.constant_schedule(0.1), schedules.linear_schedule(0.1, 0.0, 5)]
    assert schedules.join_schedules(parts, [3]) is schedules.join_schedules(tuple(parts), (3,))
    assert gradtx.adam(schedules.linear_warmup(parts[1], 3)) == gradtx.adam(schedules.linear_warmup(parts[1], 3))


def test_a_traced_value_is_not_baked_in():
    def value(peak, step):
        cycle = dict(init_value=0.0, peak_value=peak, warmup_steps=2, decay_steps=10)
        made = [
            schedules.warmup_cosine_decay_schedule(0.0, peak, 2, 10, peak / 10),
            schedules.cosine_decay_schedule(peak, 10, peak),
            schedules.polynomial_schedule(peak, 0.1, 1 + peak, 20),
            schedules.exponential_decay(peak, 5, peak, end_value=peak / 100),
            schedules.step_decay(peak, 2, peak),
            schedules.inverse_time_decay(peak, 5, peak),
            schedules.inverse_sqrt_decay(peak, 5),
            schedules.piecewise_constant_schedule(peak, {2: peak}),
            schedules.piecewise_interpolate_schedule("cosine", peak, {5: peak}),
            schedules.linear_onecycle_schedule(10, peak, div_factor=1 + peak),
            schedules.cosine_onecycle_schedule(10, peak, div_factor=1 + peak),
            schedules.cosine_restarts_schedule(peak, 10, alpha=peak),
            schedules.sgdr_schedule([cycle]),
            schedules.warmup_exponential_decay_schedule(0.0, peak, 2, 5, peak),
            schedules.warmup_inverse_sqrt_schedule(peak, 2),
            schedules.warmup_stable_decay_schedule(0.0, peak, 1, 1, 10, peak / 10),
        ]
        return sum(schedule(step) for schedule in made)

    jitted = jax.jit(value)
    for peak in (0.5, 0.25):
        assert jitted(peak, 2) == pytest.approx(value(peak, 2))
        assert jitted(jnp.bfloat16(peak), 10).dtype == jnp.float32


def test_a_schedule_drives_an_optimizer():
    schedule = schedules.warmup_cosine_decay_schedule(0.0, 0.5, 2, 6, 0.25)
    tx, params = gradtx.sgd(schedule), {"w": jnp.zeros(2)}
    state = tx.init(params)
    for step in range(8):
        updates, state = tx.update({"w": jnp.ones(2)}, state, params)
        np.testing.assert_array_equal(updates["w"], -schedule(step))

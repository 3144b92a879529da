"""Claims about arguments that no schedule can be made from."""

import functools
import math

import numpy as np
import pytest

from gradtx import errors, schedules

constant = schedules.constant_schedule(0.1)
cosine = functools.partial(schedules.cosine_decay_schedule, 0.1)
line = functools.partial(schedules.linear_schedule, 0.1, 0.0)
warm_cosine = functools.partial(schedules.warmup_cosine_decay_schedule, 0.0, 0.1)
join = schedules.join_schedules
stable = functools.partial(schedules.warmup_stable_decay_schedule, 0.0, 0.1)


class Lambda:
    def __call__(self, step):
        return 0.1


RANGE = [
    lambda: cosine(0),
    lambda: cosine(-3),
    lambda: cosine(2**31),
    lambda: cosine(10, exponent=-1.0),
    lambda: cosine(10, alpha=math.nan),
    lambda: line(0),
    lambda: line(-1),
    lambda: line(10, -1),
    lambda: line(10, 2**31),
    lambda: schedules.constant_schedule(math.inf),
    lambda: schedules.constant_schedule(1e39),  # infinite in float32
    lambda: schedules.linear_schedule(math.nan, 0.0, 10),
    lambda: schedules.linear_warmup(constant, -1),
    lambda: schedules.linear_warmup(constant, 2**31),
    lambda: schedules.linear_warmup(constant, 3, math.inf),
    lambda: schedules.warmup_constant_schedule(0.0, 0.1, -1),
    lambda: warm_cosine(0, 0),
    lambda: warm_cosine(10, 10),
    lambda: warm_cosine(11, 10),
    lambda: warm_cosine(-1, 10),
    lambda: warm_cosine(0, 2**31),
    lambda: join([], []),
    lambda: join([constant], [3]),
    lambda: join([constant, constant], []),
    lambda: join([constant] * 3, [5, 5]),
    lambda: join([constant] * 3, [5, 3]),
    lambda: join([constant] * 2, [-1]),
    lambda: join([constant] * 2, [2**31]),
    lambda: schedules.polynomial_schedule(0.1, 0.0, 0.0, 10),
    lambda: schedules.polynomial_schedule(0.1, 0.0, -1.0, 10),
    lambda: schedules.polynomial_schedule(0.1, 0.0, 2.0, 0),
    lambda: schedules.polynomial_schedule(0.1, 0.0, 2.0, 2**31),
    lambda: schedules.polynomial_schedule(0.1, 0.0, 1e-50, 10),
    lambda: schedules.exponential_decay(0.1, 0, 0.5),
    lambda: schedules.exponential_decay(0.1, 10, 0.0),
    lambda: schedules.exponential_decay(0.1, 10, -0.5),
    lambda: schedules.exponential_decay(0.1, 10, math.nan),
    lambda: schedules.exponential_decay(0.1, 10, 0.5, -1),
    lambda: schedules.exponential_decay(0.1, 10, 0.5, end_value=math.inf),
    lambda: schedules.step_decay(0.1, 0),
    lambda: schedules.step_decay(0.1, 10, 0.0),
    lambda: schedules.inverse_time_decay(0.1, 0),
    lambda: schedules.inverse_time_decay(0.1, 10, -1.0),
    lambda: schedules.inverse_time_decay(0.1, 10, transition_begin=2**31),
    lambda: schedules.inverse_sqrt_decay(0.1, 0),
    lambda: schedules.warmup_inverse_sqrt_schedule(0.1, 0),
    lambda: schedules.warmup_exponential_decay_schedule(0.0, 0.1, -1, 10, 0.5),
    lambda: schedules.warmup_exponential_decay_schedule(0.0, 0.1, 2, 0, 0.5),
    lambda: schedules.piecewise_constant_schedule(0.1, {-1: 0.5}),
    lambda: schedules.piecewise_constant_schedule(0.1, {1: -0.5}),
    lambda: schedules.piecewise_constant_schedule(0.1, {1: math.nan}),
    lambda: schedules.piecewise_constant_schedule(0.1, {2**31: 0.5}),
    lambda: schedules.piecewise_constant_schedule(0.1, {1: 1e30, 2: 1e30}),
    lambda: schedules.piecewise_interpolate_schedule("square", 0.1),
    lambda: schedules.piecewise_interpolate_schedule("linear", 0.1, {1: 1e30, 2: 1e30}),
    lambda: schedules.linear_onecycle_schedule(0, 0.1),
    lambda: schedules.linear_onecycle_schedule(10, 0.1, 30),
    lambda: schedules.linear_onecycle_schedule(10, 0.1, 0.9),
    lambda: schedules.linear_onecycle_schedule(10, 0.1, div_factor=0.0),
    lambda: schedules.linear_onecycle_schedule(10, 0.1, div_factor=1e-30, final_div_factor=1e-30),
    lambda: schedules.cosine_onecycle_schedule(-1, 0.1),
    lambda: schedules.cosine_onecycle_schedule(10, 0.1, final_div_factor=-1.0),
    lambda: schedules.cosine_restarts_schedule(0.1, 0),
    lambda: schedules.cosine_restarts_schedule(0.1, 10, 0),
    lambda: schedules.cosine_restarts_schedule(0.1, 2**31),
    lambda: schedules.sgdr_schedule([]),
    lambda: schedules.sgdr_schedule([dict(init_value=0.0, peak_value=0.1, warmup_steps=5, decay_steps=5)]),
    lambda: stable(5, 5, 10),
    lambda: stable(-1, 5, 10),
    lambda: stable(5, 5, 2**31),
    lambda: stable(1, 1, 10, shape="sqrt"),
    lambda: schedules.render_schedule(constant, 0),
    lambda: schedules.render_schedule(constant, 10, width=3),
    lambda: schedules.render_schedule(constant, 10, height=1),
    lambda: schedules.render_schedule({}, 10),
    lambda: schedules.plot_schedule(constant, 2**31),
]

TYPE = [
    lambda: cosine(10.0),
    lambda: cosine(None),
    lambda: cosine("10"),
    lambda: cosine(True),
    lambda: cosine([10]),
    lambda: schedules.cosine_decay_schedule("0.1", 10),
    lambda: schedules.cosine_decay_schedule(constant, 10),
    lambda: schedules.cosine_decay_schedule(None, 10),
    lambda: schedules.cosine_decay_schedule(0.1),
    lambda: schedules.cosine_decay_schedule(0.1, 10, alfa=0.1),
    lambda: schedules.constant_schedule([0.1]),
    lambda: schedules.constant_schedule(np.zeros(2)),
    lambda: line(2.5),
    lambda: schedules.linear_warmup(Lambda, 10),
    lambda: schedules.linear_warmup(0.1, 10),
    lambda: schedules.linear_warmup(None, 10),
    lambda: schedules.linear_warmup(constant, 2.5),
    lambda: join(constant, []),
    lambda: join([constant, 0.1], [3]),
    lambda: join([constant, Lambda], [3]),
    lambda: join([constant, None], [3]),
    lambda: join([constant] * 2, 3),
    lambda: join([constant] * 2, [3.0]),
    lambda: join([constant] * 2, [True]),
    lambda: join([constant] * 2, {3: 0.1}),
    lambda: schedules.polynomial_schedule(0.1, 0.0, "2", 10),
    lambda: schedules.exponential_decay(0.1, 10.0, 0.5),
    lambda: schedules.exponential_decay(0.1, 10, 0.5, staircase=1),
    lambda: schedules.exponential_decay(0.1, 10, constant),
    lambda: schedules.piecewise_constant_schedule(0.1, [100, 200]),
    lambda: schedules.piecewise_constant_schedule(0.1, {1.5: 0.1}),
    lambda: schedules.piecewise_constant_schedule(0.1, {True: 0.1}),
    lambda: schedules.piecewise_constant_schedule(0.1, {"1": 0.1}),
    lambda: schedules.piecewise_constant_schedule(0.1, {1: "0.1"}),
    lambda: schedules.piecewise_constant_schedule(0.1, {1: constant}),
    lambda: schedules.linear_onecycle_schedule(10.0, 0.1),
    lambda: schedules.linear_onecycle_schedule(10),
    lambda: schedules.cosine_onecycle_schedule(10, None),
    lambda: schedules.cosine_restarts_schedule(0.1, 10, 1.5),
    lambda: schedules.sgdr_schedule(dict(init_value=0.0, peak_value=0.1, warmup_steps=0, decay_steps=5)),
    lambda: schedules.sgdr_schedule(3),
    lambda: schedules.sgdr_schedule([constant]),
    lambda: schedules.sgdr_schedule([dict(init_value=0.0, peak_value=0.1, decay_steps=5)]),
    lambda: stable(1, 1, 10.0),
    lambda: schedules.render_schedule(0.1, 10),
    lambda: schedules.render_schedule({"a": 0.1}, 10),
    lambda: schedules.render_schedule(constant, 10.0),
    lambda: schedules.render_schedule(constant, 10, width=20.5),
    lambda: schedules.render_schedule(constant, 10, widht=20),
    lambda: schedules.plot_schedule(None, 10),
]


@pytest.mark.parametrize("make", RANGE)
def test_a_number_out_of_range_is_refused_at_construction(make):
    with pytest.raises(errors.ArgumentRangeError, match=r"\[argument-range\]$"):
        make()


@pytest.mark.parametrize("make", TYPE)
def test_an_argument_of_the_wrong_kind_is_refused_at_construction(make):
    with pytest.raises(errors.ArgumentTypeError, match=r"\[argument-type\]$"):
        make()


@pytest.mark.parametrize(
    "schedule", [lambda step: None, lambda step: "0.1", lambda step: cosine, lambda step: np.ones(3), lambda step: 1j]
)
def test_a_schedule_that_returns_no_number_is_refused_where_it_is_called(schedule):
    for made in (schedules.linear_warmup(schedule, 3), join([constant, schedule], [3])):
        with pytest.raises(errors.ArgumentTypeError, match="must return one real number"):
            made(0)


def test_messages_say_what_to_write_instead():
    for make, message in [
        (
            lambda: join([constant, 0.1], [3]),
            r"schedules\[1\] must be .* got float 0.1.* write constant_schedule\(0.1\)",
        ),
        (lambda: join([constant] * 3, [5, 3]), r"must increase, got \(5, 3\)\. .* boundaries=\[5, 8\]"),
        (lambda: warm_cosine(100, 50), r"decay_steps counts all steps.* write decay_steps=150"),
        (lambda: cosine(2**31), r"at most 2147483647, got 2147483648"),
        (lambda: stable(10, 50, 40), r"decay_steps counts all steps.* write decay_steps=100"),
        (
            lambda: schedules.linear_onecycle_schedule(10, 0.1, 0.9),
            r"pct_final must be at least pct_start, got 0.85.* write pct_final=0.95",
        ),
        (
            lambda: schedules.piecewise_constant_schedule(0.1, [1, 2]),
            r"must be a dictionary {step: scale}, got list \[1, 2\].*=dict\(zip\(steps, scales\)\)",
        ),
        (
            lambda: schedules.sgdr_schedule([dict(init_value=0.0, peak_value=0.1, warmup_steps=9, decay_steps=5)]),
            r"^sgdr_schedule\(.*decay_steps must be greater than warmup_steps",
        ),
    ]:
        with pytest.raises(errors.GradtxError, match=message):
            make()


def test_a_schedule_object_with_a_call_method_serves():
    assert schedules.linear_warmup(Lambda(), 2)(5) == np.float32(0.1)


def test_numpy_counts_and_boundaries_serve():
    assert cosine(np.int64(10))(10) == 0
    assert join([constant, cosine(4)], np.array([3])) is join([constant, cosine(4)], [3])

"""Schedules: functions from the step to a value. Whatever takes a number takes one of them instead.

The step is any real number or an array of them (Python, NumPy, JAX, traced or not); it is counted in int32, and one
that is negative or too large means the first or the last. The value is float32 of the step's shape, in 64-bit mode
too. Equal arguments give the same function.

What follows the loss instead of the step is a transformation, :func:`gradtx.reduce_on_plateau`.
"""

from gradtx.schedules.constant import constant_schedule
from gradtx.schedules.cosine import cosine_decay_schedule
from gradtx.schedules.exponential import exponential_decay, step_decay
from gradtx.schedules.inverse import inverse_sqrt_decay, inverse_time_decay
from gradtx.schedules.joining import join_schedules
from gradtx.schedules.linear import linear_schedule
from gradtx.schedules.one_cycle import cosine_onecycle_schedule, linear_onecycle_schedule
from gradtx.schedules.pictures import plot_schedule, render_schedule
from gradtx.schedules.piecewise import piecewise_constant_schedule, piecewise_interpolate_schedule
from gradtx.schedules.polynomial import polynomial_schedule
from gradtx.schedules.restarts import cosine_restarts_schedule, sgdr_schedule
from gradtx.schedules.stable import warmup_stable_decay_schedule
from gradtx.schedules.step import Schedule
from gradtx.schedules.warming_up import (
    linear_warmup,
    warmup_constant_schedule,
    warmup_cosine_decay_schedule,
    warmup_exponential_decay_schedule,
    warmup_inverse_sqrt_schedule,
)

__all__ = [
    "Schedule",
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "cosine_restarts_schedule",
    "exponential_decay",
    "inverse_sqrt_decay",
    "inverse_time_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "linear_warmup",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "plot_schedule",
    "polynomial_schedule",
    "render_schedule",
    "sgdr_schedule",
    "step_decay",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
    "warmup_inverse_sqrt_schedule",
    "warmup_stable_decay_schedule",
]

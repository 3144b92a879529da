"""Schedules: functions from the step to a value. Whatever takes a number takes one of them instead.

The step is any real number or an array of them (Python, NumPy, JAX, traced or not); it is counted in int32, and one
that is negative or too large means the first or the last. The value is float32 of the step's shape, in 64-bit mode
too. Equal arguments give the same function.
"""

from gradtx.schedules.constant import constant_schedule
from gradtx.schedules.cosine import cosine_decay_schedule
from gradtx.schedules.joining import join_schedules
from gradtx.schedules.linear import linear_schedule
from gradtx.schedules.step import Schedule
from gradtx.schedules.warming_up import linear_warmup, warmup_constant_schedule, warmup_cosine_decay_schedule

__all__ = [
    "Schedule",
    "constant_schedule",
    "cosine_decay_schedule",
    "join_schedules",
    "linear_schedule",
    "linear_warmup",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
]

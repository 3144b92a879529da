"""Falling again and again: cosines with warm restarts."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.schedules.cosine import on_cosine
from gradtx.schedules.joining import join_schedules
from gradtx.schedules.piecewise import piece_of
from gradtx.schedules.step import LAST_STEP, Schedule, Value, as_step, as_value, check_countable
from gradtx.schedules.warming_up import warmup_cosine_decay_schedule


@errors.checked
def cosine_restarts_schedule(
    init_value: Value, decay_steps: errors.Count, growth: errors.Count = 1, alpha: Value = 0.0
) -> Schedule:
    """Half cosines from ``init_value`` towards ``alpha init_value``, for ever, each ``growth`` times as long.

    ``f(t) = init_value (alpha + (1 - alpha) (1/2 + 1/2 cos(pi s / T_i)))``, ``s`` steps after the last restart, with
    ``T_0 = decay_steps`` and ``T_{i+1} = growth T_i``. A restart comes instead of the step that would end the cosine.

    Args:
        init_value: Value at step 0 and at every restart.
        decay_steps: Steps of the first cosine, at least 1.
        growth: Steps of a cosine over those of the one before, a whole number.
        alpha: Value that a cosine falls to, as a fraction of the first.

    Raises:
        ArgumentTypeError, ArgumentRangeError: a value is not finite, or a count is not a whole number in range.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5, with ``growth`` for ``T_mult``.

    >>> from gradtx import schedules
    >>> f = schedules.cosine_restarts_schedule(1.0, decay_steps=10, growth=2)
    >>> [round(float(f(step)), 4) for step in (0, 5, 9, 10, 20, 29, 30)]
    [1.0, 0.5, 0.0245, 1.0, 0.5, 0.0062, 1.0]
    """
    check_countable("cosine_restarts_schedule", decay_steps=decay_steps, growth=growth)
    init_value = as_value(init_value)
    end_value = init_value * as_value(alpha)
    lengths, restarts = [decay_steps], []
    while growth > 1 and sum(lengths) <= LAST_STEP:
        restarts.append(sum(lengths))
        lengths.append(min(growth * lengths[-1], LAST_STEP))  # steps beyond that are not told apart

    def schedule(step):
        step = as_step(step)
        if growth == 1:
            return on_cosine(step % decay_steps, init_value, end_value, decay_steps)
        cycle = piece_of(step, restarts)
        begin, length = (jnp.array(counts, jnp.int32)[cycle] for counts in ([0, *restarts], lengths))
        return on_cosine(step - begin, init_value, end_value, length)

    return schedule


@errors.checked
def sgdr_schedule(cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """One :func:`warmup_cosine_decay_schedule` after the other, each with arguments of its own.

    The ``decay_steps`` of each count all steps of its cycle; after the last cycle its last value stays. For cycles of
    one kind, :func:`cosine_restarts_schedule` is shorter.

    Args:
        cosine_kwargs: For each cycle the arguments as a dictionary, at least one.

    Raises:
        ArgumentTypeError: no list of dictionaries, or an argument that is missing, unknown or no number.
        ArgumentRangeError: no cycle, or an argument out of its range.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, equation 5; warm-up as in :func:`linear_warmup`.

    >>> from gradtx import schedules
    >>> cycle = dict(init_value=0.0, peak_value=1.0, warmup_steps=2, decay_steps=10)
    >>> f = schedules.sgdr_schedule([cycle, {**cycle, "peak_value": 0.5, "warmup_steps": 0}])
    >>> [float(f(step)) for step in (0, 2, 6, 10, 15, 20, 1000)]
    [0.0, 1.0, 0.5, 0.5, 0.25, 0.0, 0.0]
    """
    cycles = list(cosine_kwargs) if isinstance(cosine_kwargs, Iterable) else [cosine_kwargs]
    if isinstance(cosine_kwargs, Mapping) or not all(isinstance(cycle, Mapping) for cycle in cycles):
        raise errors.ArgumentTypeError(
            f"sgdr_schedule({errors.show(cosine_kwargs)})",
            expected="cosine_kwargs must be a list of dictionaries",
            got=f"{type(cosine_kwargs).__name__} {errors.show(cosine_kwargs)}",
            cause="even one cycle comes in a list",
            fix="write sgdr_schedule([dict(init_value=0.0, peak_value=0.1, warmup_steps=0, decay_steps=1000)])",
        )
    schedules = [warmup_cosine_decay_schedule(**cycle) for cycle in cycles]
    ends = np.cumsum([cycle["decay_steps"] for cycle in cycles], dtype=np.int64)
    return join_schedules(schedules, [int(end) for end in ends[:-1]])

"""Exact steps of the scaling on a plateau, in the form of ``tests.papers.oracles``."""

import math
from collections.abc import Iterable

from tests.papers.oracles import Array, State, Step


def scales(
    values: Iterable[float],
    *,
    factor: float = 0.1,
    patience: int = 10,
    rtol: float = 1e-4,
    atol: float = 0.0,
    cooldown: int = 0,
    accumulation_size: int = 1,
    min_scale: float = 0.0,
) -> list[float]:
    """The scale of each update, told as a story: what is known, what is waited for."""
    scale, best, waited, resting, window, found = 1.0, None, 0, 0, [], []
    for value in values:
        if math.isfinite(value):
            window.append(value)
        if len(window) == accumulation_size:
            mean, window = math.fsum(window) / accumulation_size, []
            progress = best is None or best - mean > rtol * abs(best) + atol
            if progress:
                best, waited = mean, 0
            elif resting == 0:
                waited += 1
            resting = max(resting - 1, 0)
            if waited == patience:
                scale, waited, resting = max(scale * factor, min_scale), 0, cooldown
        found.append(scale)
    return found


def reduce_on_plateau(
    state: State,
    g: Array,
    p: Array,
    t: int,
    *,
    value: float,
    factor: float,
    patience: int,
    cooldown: int,
    rtol: float = 0.0,
    atol: float = 0.0,
    accumulation_size: int = 1,
    min_scale: float = 0.0,
) -> Step:
    """With one value for ever, whatever it is: the first mean is progress, none after it is."""
    without = t // accumulation_size - 1
    reductions = 0 if without < patience else 1 + (without - patience) // (patience + cooldown)
    return max(factor**reductions, min_scale) * g, {}

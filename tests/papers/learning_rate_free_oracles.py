"""One exact step of methods that find their learning rate, in float64, from the papers' equations.

As in ``tests/papers/oracles.py``, but ``g`` and ``p`` are lists of arrays, the leaves of a tree, because these methods
take norms over all of them; :func:`cocob` alone is elementwise and has the form of that module.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.papers.oracles import Array, State, Step, weight_seen

Trees = list[Array]


def dot(x: Trees, y: Trees) -> float:
    return math.fsum(float(np.sum(a * b)) for a, b in zip(x, y, strict=True))


def norm(x: Trees) -> float:
    return math.sqrt(dot(x, x))


def each(function: Callable[..., Array], *trees: Trees) -> Trees:
    return [function(*leaves) for leaves in zip(*trees, strict=True)]


def zeros(g: Trees) -> Trees:
    return each(np.zeros_like, g)


def cocob(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float = 1.0, alpha: float = 100.0, eps: float = 1e-8
) -> Step:
    """Orabona and Tommasi 2017, arXiv:1705.07795, algorithm 2, whose ``g_t`` is the negative gradient."""
    start = state.get("start", p)
    down = -learning_rate * g
    largest = np.maximum(state.get("largest", np.full_like(g, eps)), np.abs(down))
    absolute = state.get("absolute_sum", np.zeros_like(g)) + np.abs(down)
    reward = np.maximum(state.get("reward", np.zeros_like(g)) + (p - start) * down, 0.0)
    total = state.get("gradient_sum", np.zeros_like(g)) + down
    new = start + total / (largest * np.maximum(absolute + largest, alpha * largest)) * (largest + reward)
    names = {"start": start, "largest": largest, "absolute_sum": absolute, "reward": reward, "gradient_sum": total}
    return new - p, names


def polyak_sgd(
    state: State, g: Trees, p: Trees, t: int, *, value: float, max_learning_rate: float = 1.0, scaling: float = 1.0,
    f_min: float = 0.0, eps: float = 0.0, variant: str = "sps",
) -> tuple[Trees, State]:  # fmt: skip
    """Loizou et al. 2021, arXiv:2002.10542 (SPS_max), times ``scaling``."""
    gap = max(value - f_min, 0.0) if variant == "sps+" else value - f_min
    rate = scaling * min(gap / (dot(g, g) + eps), max_learning_rate)
    return each(lambda x: -rate * x, g), {}


def dog(
    state: State, g: Trees, p: Trees, t: int, *, learning_rate: float = 1.0, init_step: Any = ("heuristic", 1e-6),
    eps: float = 1e-8,
) -> tuple[Trees, State]:  # fmt: skip
    """Ivgi, Hinder and Carmon 2023, arXiv:2302.12022 (DoG)."""
    kind, size = init_step
    start = state.get("start", p)
    first = {"distance": size, "heuristic": size * (1.0 + norm(start)), "learning_rate": 0.0}[kind]
    distance = max(state.get("distance", first), norm(each(np.subtract, p, start)))
    squares = state.get("squares", 0.0) + dot(g, g)
    rate = size if kind == "learning_rate" and t == 1 else distance / math.sqrt(squares + eps)
    return each(lambda x: -learning_rate * rate * x, g), {"start": start, "distance": distance, "squares": squares}


def dowg(
    state: State, g: Trees, p: Trees, t: int, *, learning_rate: float = 1.0, init_estim_sq_dist: float | None = None,
    eps: float = 1e-4,
) -> tuple[Trees, State]:  # fmt: skip
    """Khaled, Mishchenko and Jin 2023, arXiv:2305.16284, algorithm 1."""
    start = state.get("start", p)
    first = eps if init_estim_sq_dist is None else init_estim_sq_dist
    apart = each(np.subtract, p, start)
    square = max(state.get("square", first), dot(apart, apart))
    weighted = state.get("weighted", 0.0) + square * dot(g, g)
    rate = learning_rate * square / (math.sqrt(weighted) + eps)
    return each(lambda x: -rate * x, g), {"start": start, "square": square, "weighted": weighted}


def prodigy(
    state: State, g: Trees, p: Trees, t: int, *, learning_rate: float = 1.0, betas: Any = (0.9, 0.999),
    beta3: float | None = None, eps: float = 1e-8, estim_lr0: float = 1e-6, estim_lr_coef: float = 1.0,
    weight_decay: float = 0.0, safeguard_warmup: bool = False, bias_correction: bool = True,
) -> tuple[Trees, State]:  # fmt: skip
    """Mishchenko and Defazio 2023, arXiv:2306.06101, the Adam version of Prodigy."""
    b1, b2 = betas
    b3 = math.sqrt(b2) if beta3 is None else beta3
    rate = learning_rate * (math.sqrt(weight_seen(b2, t)) / weight_seen(b1, t) if bias_correction else 1.0)
    d, start = state.get("d", estim_lr0), state.get("start", p)
    m = each(lambda m, g: b1 * m + (1.0 - b1) * d * g, state.get("m", zeros(g)), g)
    v = each(lambda v, g: b2 * v + (1.0 - b2) * d * d * g * g, state.get("v", zeros(g)), g)
    r = b3 * state.get("r", 0.0) + (1.0 - b3) * rate * d * d * dot(g, each(np.subtract, start, p))
    weight = 1.0 if safeguard_warmup else rate
    s = each(lambda s, g: b3 * s + (1.0 - b3) * weight * d * d * g, state.get("s", zeros(g)), g)
    size = math.fsum(float(np.sum(np.abs(x))) for x in s)
    new = max(d, estim_lr_coef * r / size)
    update = each(lambda m, v, p: -rate * d * (m / (np.sqrt(v) + d * eps) + weight_decay * p), m, v, p)
    return update, {"d": new, "start": start, "m": m, "v": v, "r": r, "s": s}


def dadapt_adamw(
    state: State, g: Trees, p: Trees, t: int, *, learning_rate: float = 1.0, betas: Any = (0.9, 0.999),
    eps: float = 1e-8, estim_lr0: float = 1e-6, weight_decay: float = 0.0, bias_correction: bool = True,
) -> tuple[Trees, State]:  # fmt: skip
    """Defazio and Mishchenko 2023, arXiv:2301.07733, algorithm 5 (D-Adapt Adam), with a decoupled decay."""
    b1, b2 = betas
    b3 = math.sqrt(b2)
    rate = learning_rate * (math.sqrt(weight_seen(b2, t)) / weight_seen(b1, t) if bias_correction else 1.0)
    d = state.get("d", estim_lr0)
    m = each(lambda m, g: b1 * m + (1.0 - b1) * d * rate * g, state.get("m", zeros(g)), g)
    v = each(lambda v, g: b2 * v + (1.0 - b2) * g * g, state.get("v", zeros(g)), g)
    below = each(lambda v: np.sqrt(v) + eps, v)
    old = state.get("s", zeros(g))
    r = b3 * state.get("r", 0.0) + (1.0 - b3) * d * rate * dot(g, each(np.divide, old, below))
    s = each(lambda s, g: b3 * s + (1.0 - b3) * d * rate * g, old, g)
    new = max(d, r / ((1.0 - b3) * math.fsum(float(np.sum(np.abs(x))) for x in s)))
    update = each(lambda m, w, p: -m / w - rate * d * weight_decay * p, m, below, p)
    return update, {"d": new, "m": m, "v": v, "r": r, "s": s}


def momo(
    state: State, g: Trees, p: Trees, t: int, *, value: float, learning_rate: float = 1.0, beta: float = 0.9,
    lower_bound: float = 0.0, weight_decay: float = 0.0, adapt_lower_bound: bool = False,
) -> tuple[Trees, State]:  # fmt: skip
    """Schaipp et al. 2023, arXiv:2305.07583, algorithm 1, started with the first gradient."""
    share = 1.0 if t == 1 else 1.0 - beta
    new = _averaged(state, g, p, value, share)
    below = each(np.ones_like, g)
    return _model_step(new, p, below, 1.0, learning_rate, lower_bound, weight_decay, adapt_lower_bound)


def momo_adam(
    state: State, g: Trees, p: Trees, t: int, *, value: float, learning_rate: float = 1e-2, b1: float = 0.9,
    b2: float = 0.999, eps: float = 1e-8, lower_bound: float = 0.0, weight_decay: float = 0.0,
    adapt_lower_bound: bool = False,
) -> tuple[Trees, State]:  # fmt: skip
    """Schaipp et al. 2023, arXiv:2305.07583, algorithm 2."""
    new = _averaged(state, g, p, value, 1.0 - b1)
    new["v"] = each(lambda v, g: b2 * v + (1.0 - b2) * g * g, state.get("v", zeros(g)), g)
    below = each(lambda v: np.sqrt(v / weight_seen(b2, t)) + eps, new["v"])
    weight = weight_seen(b1, t)
    return _model_step(new, p, below, weight, learning_rate, lower_bound, weight_decay, adapt_lower_bound)


def _averaged(state: State, g: Trees, p: Trees, value: float, share: float) -> dict[str, Any]:
    return {
        "m": each(lambda m, g: (1.0 - share) * m + share * g, state.get("m", zeros(g)), g),
        "f": (1.0 - share) * state.get("f", 0.0) + share * value,
        "c": (1.0 - share) * state.get("c", 0.0) + share * dot(g, p),
        "bound": state.get("bound"),
    }


def _model_step(
    new: dict[str, Any], p: Trees, below: Trees, weight: float, rate: float, lower_bound: float, decay: float,
    adapts: bool,
) -> tuple[Trees, State]:  # fmt: skip
    """The minimum of ``max((f + <m, y> - c) / w, bound) + decay / 2 |y|_D^2 + |y - p|_D^2 / 2 rate`` over ``y``.

    Found from scratch: on the tangent, on the bound, or where both meet, by the multiplier ``s`` of the tangent.
    """
    m, f, c = new["m"], new["f"], new["c"]
    bound = lower_bound if new["bound"] is None else new["bound"]
    grown = 1.0 + rate * decay
    square = dot(m, each(np.divide, m, below))
    if adapts:
        level = grown * (f - c) + dot(m, p)
        if level < grown * weight * bound:
            bound = max(level / (2.0 * weight * grown), lower_bound)

    def point(share: float) -> Trees:
        """The minimum with this share of the tangent: ``D (y - p) / rate + decay D y + share m / w = 0``."""
        return each(lambda p, m, d: (p - rate * share * m / weight / d) / grown, p, m, below)

    def above(share: float) -> float:
        """How far the tangent stands above the bound there."""
        return (f + dot(m, point(share)) - c) / weight - bound

    if above(1.0) >= 0.0:
        share = 1.0
    elif above(0.0) <= 0.0 or square == 0.0:
        share = 0.0
    else:
        share = above(0.0) / (above(0.0) - above(1.0))
    tau = rate * share / weight
    if adapts:
        bound = max((f + dot(m, p) - c - 0.5 * tau * square) / weight, lower_bound)
    update = each(np.subtract, point(share), p)
    return update, {**new, "bound": bound}


def mechanize(
    state: State, g: Trees, p: Trees, t: int, *, base: Callable[..., tuple[Trees, State]], weight_decay: float = 1e-2,
    eps: float = 1e-8, s_init: float = 1e-6, num_betas: int = 6,
) -> tuple[Trees, State]:  # fmt: skip
    """Cutkosky, Defazio and Mehta 2023, arXiv:2306.00144, algorithm 1, with the clipping of the reward in Optax."""
    moved = state.get("moved", zeros(g))
    scales = state.get("scales", [s_init] * num_betas)
    old = math.fsum(scales)
    step, inner = base(state.get("inner", {}), g, p, t)
    share = weight_decay * old * norm(g) / (norm(p) + eps)
    h = -dot(each(lambda g, p: g + share * p, g, p), moved)
    new: dict[str, Any] = {"moved": each(np.add, moved, step), "inner": inner, "scales": [], "m": [], "v": [], "r": []}
    for index in range(num_betas):
        beta = 1.0 - 0.1 ** (index + 1)
        m, v, r = (state.get(name, [0.0] * num_betas)[index] for name in "mvr")
        r = beta * r + scales[index] * min(max(h, -m), m)
        m = max(beta * m, abs(h) + eps)
        v = beta**2 * v + h**2
        new["scales"].append((s_init / num_betas * m + max(r, 0.0)) / (math.sqrt(v) + eps))
        for name, number in zip("mvr", (m, v, r), strict=True):
            new[name].append(number)
    scale = math.fsum(new["scales"])
    return each(lambda a, b: scale * a - old * b, new["moved"], moved), new

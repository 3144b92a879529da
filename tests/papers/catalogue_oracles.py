"""One exact step of each adaptive method of the catalogue, as in ``tests/papers/oracles.py``."""

import math
from typing import Any

import numpy as np

from tests.papers import adaptive_oracles
from tests.papers.adaptive_oracles import clip_by_block_rms, ema, norm, scale_by_trust_ratio
from tests.papers.oracles import Array, State, Step, moving_average, quotient, squared_magnitude, weight_seen


def _signed(state: State, name: str, g: Array) -> Array:
    return state.get(name, np.zeros_like(g))


def _real(state: State, name: str, g: Array, value: float = 0.0) -> Array:
    return state.get(name, np.full_like(g.real, value))


# ---------------------------------------------------------------------------------------------------------------------
# What was known before this gradient.


def difference(state: State, g: Array, p: Array, t: int) -> Step:
    """``g_t - g_{t-1}``, with ``g_0 = g_1``."""
    return g - (g if t == 1 else state["last"]), {"last": g}


def scale_by_optimistic_gradient(
    state: State, g: Array, p: Array, t: int, *, alpha: float = 1.0, beta: float = 1.0
) -> Step:
    """Mokhtari, Ozdaglar and Pattathil 2020, arXiv:1901.08511: ``(alpha + beta) g_t - beta g_{t-1}``."""
    last = g if t == 1 else state["last"]
    return (alpha + beta) * g - beta * last, {"last": g}


def previous_mean_square(state: State, g: Array, p: Array, t: int, *, decay: float, corrected: bool = False) -> Step:
    """``v_{t-1}`` of a moving average from ``v_1 = g_1^2``, or from 0 and corrected."""
    v, squares = _real(state, "mean_square", g), squared_magnitude(g)
    if corrected:
        before = np.ones_like(v) if t == 1 else v / weight_seen(decay, t - 1)
        return before, {"mean_square": moving_average(v, squares, decay)}
    if t == 1:
        return np.full_like(v, np.inf), {"mean_square": squares}
    return v, {"mean_square": moving_average(v, squares, decay)}


def at_least(state: State, g: Array, p: Array, t: int, *, minimum: float) -> Step:
    """``max(x, minimum)``."""
    return np.maximum(g, minimum), {}


def scale_by_adopt(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.9999, eps: float = 1e-6,
    nesterov: bool = False, use_clipping: bool = True,
) -> Step:  # fmt: skip
    """Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2; the paper's ``t`` is ours less one, ``c_t = t^(1/4)``."""
    squares = squared_magnitude(g)
    if t == 1:
        return np.zeros_like(g), {"mean": np.zeros_like(g), "mean_square": squares}
    scaled = g / np.maximum(np.sqrt(state["mean_square"]), eps)
    if use_clipping:
        scaled = np.clip(scaled, -((t - 1) ** 0.25), (t - 1) ** 0.25)
    mean = moving_average(_signed(state, "mean", g), scaled, b1)
    new_state = {"mean": mean, "mean_square": moving_average(state["mean_square"], squares, b2)}
    return moving_average(mean, scaled, b1) if nesterov else mean, new_state


def scale_by_acprop(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-16,
    eps_root: float = 1e-16,
) -> Step:  # fmt: skip
    """Zhuang et al. 2021, arXiv:2110.05454 (ACProp), and its code: ``g_t / sqrt(s_{t-1})``, ``s`` of ``(g_t - m_t)^2``.

    ``s`` without what ``eps_root`` has added to it, ``eps_root (1 - b2^(t-1)) / (1 - b2)``: see
    :func:`acprop_to_the_letter`.
    """
    mean, s = moving_average(_signed(state, "mean", g), g, b1), _real(state, "mean_square", g)
    new_state = {"mean": mean, "mean_square": moving_average(s, squared_magnitude(g - mean), b2)}
    if t == 1:
        return g, new_state
    return quotient(g, np.sqrt(s / weight_seen(b2, t - 1) + eps_root / (1.0 - b2)) + eps), new_state


def acprop_to_the_letter(gradients: Array, b1: float, b2: float, eps: float) -> Array:
    """Zhuang et al. 2021, arXiv:2110.05454 (ACProp): ``s_t = b2 s_{t-1} + (1 - b2) (g_t - m_t)^2 + eps``."""
    m, s, found = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        found.append(g if t == 1 else g / (np.sqrt(s / (1 - b2 ** (t - 1))) + eps))
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
    return np.stack(found)


# ---------------------------------------------------------------------------------------------------------------------
# Other second moments.


def rectifier(decay: float, t: int, threshold: float) -> float:
    """Liu et al. 2020, arXiv:1908.03265, algorithm 2: ``r_t``, or 0 where the step is not adaptive.

    ``rho_t = rho_inf - 2 t b^t / (1 - b^t)`` in float64 keeps nine digits of the 2 / (1 - b) that cancel.
    """
    limit = 2.0 / (1.0 - decay) - 1.0
    rho = limit - 2.0 * t * decay**t / weight_seen(decay, t)
    if rho < threshold or rho <= 4.0:
        return 0.0
    return math.sqrt((rho - 4.0) * (rho - 2.0) * limit / ((limit - 4.0) * (limit - 2.0) * rho))


def rectification(state: State, g: Array, p: Array, t: int, *, decay: float, threshold: float = 5.0) -> Step:
    """A denominator over ``r_t``, or 1."""
    r = rectifier(decay, t, threshold)
    return g / r if r else np.ones_like(g), {}


def scale_by_radam(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
    eps_root: float = 0.0, threshold: float = 5.0, nesterov: bool = False,
) -> Step:  # fmt: skip
    """Liu et al. 2020, arXiv:1908.03265, algorithm 2."""
    mean = moving_average(_signed(state, "mean", g), g, b1)
    second = moving_average(_real(state, "mean_square", g), squared_magnitude(g), b2)
    forward = mean / weight_seen(b1, t)
    if nesterov:
        forward = b1 * mean / weight_seen(b1, t + 1) + (1.0 - b1) * g / weight_seen(b1, t)
    r, new_state = rectifier(b2, t, threshold), {"mean": mean, "mean_square": second}
    if not r:
        return forward, new_state
    return r * quotient(forward, np.sqrt(second / weight_seen(b2, t) + eps_root) + eps), new_state


def scale_by_belief(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-16,
    eps_root: float = 1e-16, nesterov: bool = False,
) -> Step:  # fmt: skip
    """Zhuang et al. 2020, arXiv:2010.07468, algorithm 2.

    ``s`` without what ``eps_root`` has added to it, ``eps_root (1 - b2^t) / (1 - b2)``: see
    :func:`adabelief_to_the_letter`.
    """
    mean = moving_average(_signed(state, "mean", g), g, b1)
    s = moving_average(_real(state, "mean_square", g), squared_magnitude(g - mean), b2)
    forward = mean / weight_seen(b1, t)
    if nesterov:
        forward = b1 * mean / weight_seen(b1, t + 1) + (1.0 - b1) * g / weight_seen(b1, t)
    below = np.sqrt(s / weight_seen(b2, t) + eps_root / (1.0 - b2)) + eps
    return quotient(forward, below), {"mean": mean, "mean_square": s}


def adabelief_to_the_letter(gradients: Array, b1: float, b2: float, eps: float) -> Array:
    """Zhuang et al. 2020, arXiv:2010.07468, algorithm 2, the ``eps`` of the sum and that of the root being one."""
    m, s, found = np.zeros_like(gradients[0]), np.zeros_like(gradients[0]), []
    for t, g in enumerate(gradients, 1):
        m = b1 * m + (1 - b1) * g
        s = b2 * s + (1 - b2) * (g - m) ** 2 + eps
        found.append(m / (1 - b1**t) / (np.sqrt(s / (1 - b2**t)) + eps))
    return np.stack(found)


def additive_mean_square(state: State, g: Array, p: Array, t: int, *, decay: float, initial_value: float = 0.0) -> Step:
    """Zaheer et al. 2018, NeurIPS 31, algorithm 2: ``v - (1 - b2) sign(v - g^2) g^2``."""
    v, squares = _real(state, "mean_square", g, initial_value), squared_magnitude(g)
    v = v - (1.0 - decay) * np.sign(v - squares) * squares
    return v, {"mean_square": v}


def scale_by_yogi(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-3,
    eps_root: float = 0.0, initial_accumulator_value: float = 1e-6, bias_correction: bool = True,
) -> Step:  # fmt: skip
    """Zaheer et al. 2018, NeurIPS 31, algorithm 2; with the corrections of Adam."""
    mean = moving_average(_signed(state, "mean", g), g, b1)
    v, kept = additive_mean_square(state, g, p, t, decay=b2, initial_value=initial_accumulator_value)
    w1, w2 = (weight_seen(b1, t), weight_seen(b2, t)) if bias_correction else (1.0, 1.0)
    return quotient(mean / w1, np.sqrt(v / w2 + eps_root) + eps), {"mean": mean} | kept


# ---------------------------------------------------------------------------------------------------------------------
# Several memories.


def scale_by_ademamix(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.999, b3: float = 0.9999,
    alpha: float = 6.0, eps: float = 1e-8, eps_root: float = 0.0,
) -> Step:  # fmt: skip
    """Pagliardini, Ablin and Grangier 2024, arXiv:2409.03137, algorithm 1, at constant ``alpha`` and ``b3``."""
    fast = moving_average(_signed(state, "mean", g), g, b1)
    slow = moving_average(_signed(state, "mean_2", g), g, b3)
    second = moving_average(_real(state, "mean_square", g), squared_magnitude(g), b2)
    above = fast / weight_seen(b1, t) + alpha * slow
    below = np.sqrt(second / weight_seen(b2, t) + eps_root) + eps
    return quotient(above, below), {"mean": fast, "mean_2": slow, "mean_square": second}


def scale_by_simplified_ademamix(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.99, b2: float = 0.95, alpha: float = 0.0,
    eps: float = 1e-8, eps_root: float = 0.0,
) -> Step:  # fmt: skip
    """Morwani et al. 2025, arXiv:2502.02431 (Simplified AdEMAMix)."""
    m = b1 * _signed(state, "momentum", g) + g
    second = moving_average(_real(state, "mean_square", g), squared_magnitude(g), b2)
    below = np.sqrt(second / weight_seen(b2, t) + eps_root) + eps
    return quotient(m + alpha * g, below), {"momentum": m, "mean_square": second}


def scale_by_adan(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.98, b2: float = 0.92, b3: float = 0.99,
    eps: float = 1e-8, eps_root: float = 0.0,
) -> Step:  # fmt: skip
    """Xie et al. 2022, arXiv:2208.06677, algorithm 1, whose ``beta_i`` are ``1 - b_i``; corrected."""
    beta1, beta2, beta3 = 1.0 - b1, 1.0 - b2, 1.0 - b3
    last = g if t == 1 else state["last"]
    m = (1.0 - beta1) * _signed(state, "mean", g) + beta1 * g
    v = (1.0 - beta2) * _signed(state, "mean_2", g) + beta2 * (g - last)
    n = (1.0 - beta3) * _real(state, "mean_square", g) + beta3 * squared_magnitude(g + (1.0 - beta2) * (g - last))
    above = m / weight_seen(b1, t) + (1.0 - beta2) * v / weight_seen(b2, t)
    update = quotient(above, np.sqrt(n / weight_seen(b3, t) + eps_root) + eps)
    return update, {"mean": m, "mean_2": v, "mean_square": n, "last": g}


# ---------------------------------------------------------------------------------------------------------------------
# Steps that measure themselves.


def scale_by_own_rms(state: State, g: Array, p: Array, t: int, *, decay: float = 0.9, eps: float = 1e-6) -> Step:
    """Zeiler 2012, arXiv:1212.5701, algorithm 1, lines 5 and 6."""
    d = _real(state, "mean_square_step", g)
    u = np.sqrt(d + eps) * g
    return u, {"mean_square_step": moving_average(d, squared_magnitude(u), decay)}


def scale_by_adadelta(state: State, g: Array, p: Array, t: int, *, rho: float = 0.9, eps: float = 1e-6) -> Step:
    """Zeiler 2012, arXiv:1212.5701, algorithm 1."""
    v = moving_average(_real(state, "mean_square", g), squared_magnitude(g), rho)
    u, kept = scale_by_own_rms(state, quotient(g, np.sqrt(v + eps)), p, t, decay=rho, eps=eps)
    return u, {"mean_square": v} | kept


def scale_by_rprop(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, eta_minus: float = 0.5, eta_plus: float = 1.2,
    min_step_size: float = 1e-6, max_step_size: float = 50.0,
) -> Step:  # fmt: skip
    """Igel and Huesken 2000, iRprop-: where the sign has changed, the gradient counts as 0."""
    size = np.full_like(g, learning_rate) if t == 1 else state["step_size"]
    product = _signed(state, "last", g) * np.sign(g)
    grown, shrunk = np.minimum(eta_plus * size, max_step_size), np.maximum(eta_minus * size, min_step_size)
    size = np.where(product > 0, grown, np.where(product < 0, shrunk, size))
    counted = np.where(product < 0, 0.0, np.sign(g))
    return size * counted, {"step_size": size, "last": counted}


def scale_by_madgrad(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, momentum: float = 0.9, eps: float = 1e-6
) -> Step:
    """Defazio and Jelassi 2022, arXiv:2101.11075, algorithm 1, with ``k = t - 1`` and ``c = 1 - momentum``."""
    weight, start = learning_rate * math.sqrt(t), state.get("start", p)
    s = _signed(state, "sum", g) + weight * g
    v = _real(state, "sum_of_squares", g) + weight * squared_magnitude(g)
    z = start - quotient(s, np.cbrt(v) + eps)
    return (1.0 - momentum) * (z - p), {"sum": s, "sum_of_squares": v, "start": start}


# ---------------------------------------------------------------------------------------------------------------------
# Numbers of one leaf, rows and columns.


def scale_by_param_block_norm(state: State, g: Array, p: Array, t: int, *, min_scale: float = 1e-3) -> Step:
    """``g max(||p||, min_scale)``."""
    return g * np.maximum(norm(p), min_scale), {}


def scale_by_param_block_rms(state: State, g: Array, p: Array, t: int, *, min_scale: float = 1e-3) -> Step:
    """Shazeer and Stern 2018, arXiv:1804.04235, section 8: ``g max(RMS(p), min_scale)``."""
    return g * np.maximum(np.sqrt(np.mean(squared_magnitude(p))), min_scale), {}


def normalize_by_past_norm(
    state: State, g: Array, p: Array, t: int, *, decay: float = 0.25, eps: float = 1e-8, eps_root: float = 0.0
) -> Step:
    """Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1, with ``v`` by its root."""
    now = np.sum(squared_magnitude(g))
    v = now if t == 1 else moving_average(state["norm"] ** 2, now, decay)
    return quotient(g, np.sqrt(v + eps_root) + eps), {"norm": np.sqrt(v)}


def scale_by_novograd(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 0.25, eps: float = 1e-8,
    eps_root: float = 0.0, weight_decay: float = 0.0,
) -> Step:  # fmt: skip
    """Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1."""
    scaled, kept = normalize_by_past_norm(state, g, p, t, decay=b2, eps=eps, eps_root=eps_root)
    m = b1 * _signed(state, "momentum", g) + (scaled + weight_decay * p)
    return m, {"momentum": m} | kept


def step_and_shrink(state: State, g: Array, p: Array, t: int, *, learning_rate: float) -> Step:
    """Bernstein et al. 2020, arXiv:2002.03432, algorithm 1, lines 5 and 6, of the step ``g``."""
    length = math.sqrt(1.0 + learning_rate**2)
    return -learning_rate / length * g - (1.0 - 1.0 / length) * p, {}


def scale_by_distance_over_gradients(
    state: State, g: Array, p: Array, t: int, *, reps_rel: float = 1e-6, eps: float = 1e-8, global_scale: float = 1.0
) -> Step:
    """Ivgi, Hinder and Carmon 2023, arXiv:2302.12022 (L-DoG), of one layer."""
    start = state.get("start", p)
    first = reps_rel * (1.0 + norm(start).item())
    distance = max(float(state.get("distance", 0.0)), first, norm(p - start).item())
    length = math.hypot(float(state.get("gradient_norm", 0.0)), norm(g).item())
    update = quotient(global_scale * distance * g, np.asarray(math.sqrt(length**2 + eps)))
    return update, {"distance": np.asarray(distance), "gradient_norm": np.asarray(length), "start": start}


def covered_sum_of_squares(state: State, g: Array, p: Array, t: int, *, decay: float | None = None) -> Step:
    """Anil et al. 2019, arXiv:1901.11150, algorithm 2 (SM3-II), with rows and columns, ..., as cover; of vectors, all.

    With a ``decay`` the old counts by it, the new by ``1 - decay``.
    """
    squares = squared_magnitude(g)
    if g.ndim < 2:
        cover, old = None, _real(state, "cover", g)
    else:
        cover = state.get("cover", [np.zeros(size) for size in g.shape])
        old = np.empty(g.shape)
        for index in np.ndindex(*g.shape):
            old[index] = min(float(np.ravel(c)[i]) for c, i in zip(cover, index, strict=True))
    v = old + squares if decay is None else decay * old + (1.0 - decay) * squares
    if cover is None:
        return v, {"cover": v}
    return v, {"cover": [np.array([v.take(i, k).max() for i in range(g.shape[k])]) for k in range(g.ndim)]}


def scale_by_sm3(
    state: State, g: Array, p: Array, t: int, *, b1: float = 0.9, b2: float = 1.0, eps: float = 1e-8
) -> Step:
    """Anil et al. 2019, arXiv:1901.11150, algorithm 2 (SM3-II), with ``eps`` under the root and an average of steps."""
    v, kept = covered_sum_of_squares(state, g, p, t, decay=None if b2 == 1.0 else b2)
    mean, averaged = ema(state, quotient(g, np.sqrt(v + eps)), p, t, decay=b1)
    return mean, kept | averaged


def fading_mean_square(
    state: State, g: Array, p: Array, t: int, *, decay_rate: float = 0.8, step_offset: int = 0, factored: bool = True,
    min_dim_size_to_factor: int = 128, eps: float = 1e-30,
) -> Step:  # fmt: skip
    """Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5, ``beta_2t = 1 - t^-decay_rate``.

    ``R 1_m`` and ``1_n^T C`` of its algorithm 4 are sums; we keep means. Leaves are matrices, or kept whole.
    """
    share, squares = max(t - step_offset, 1) ** -decay_rate, squared_magnitude(g) + eps
    if g.ndim != 2 or not factored or min(g.shape) < min_dim_size_to_factor:
        v = (1.0 - share) * _real(state, "row", g) + share * squares
        return v, {"row": v}
    n, m = g.shape
    rows = (1.0 - share) * m * state.get("row", np.zeros((n, 1))) + share * squares.sum(axis=1, keepdims=True)
    columns = (1.0 - share) * n * state.get("column", np.zeros((1, m))) + share * squares.sum(axis=0, keepdims=True)
    return rows @ columns / rows.sum(), {"row": rows / m, "column": columns / n}


def scale_by_factored_rms(
    state: State, g: Array, p: Array, t: int, *, epsilon: float = 1e-30, **arguments: Any
) -> Step:
    """Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5: ``g / sqrt(v)``."""
    v, kept = fading_mean_square(state, g, p, t, eps=epsilon, **arguments)
    return quotient(g, np.sqrt(v)), kept


# ---------------------------------------------------------------------------------------------------------------------
# Recipes.


def radam(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any) -> Step:
    """Liu et al. 2020, arXiv:1908.03265, algorithm 2."""
    update, new_state = scale_by_radam(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def adabelief(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any) -> Step:
    """Zhuang et al. 2020, arXiv:2010.07468, algorithm 2."""
    update, new_state = scale_by_belief(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def yogi(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any) -> Step:
    """Zaheer et al. 2018, NeurIPS 31, algorithm 2."""
    update, new_state = scale_by_yogi(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def adan(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, eps_root: float = 1e-8,
    weight_decay: float = 0.0, **arguments: Any,
) -> Step:  # fmt: skip
    """Xie et al. 2022, arXiv:2208.06677, algorithm 1, with the decay of Loshchilov and Hutter 2019."""
    update, new_state = scale_by_adan(state, g, p, t, eps_root=eps_root, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def novograd(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, eps: float = 1e-6, **arguments: Any
) -> Step:
    """Ginsburg et al. 2019, arXiv:1905.11286, algorithm 1."""
    update, new_state = scale_by_novograd(state, g, p, t, eps=eps, **arguments)
    return -learning_rate * update, new_state


def adopt(state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any) -> Step:
    """Taniguchi et al. 2024, arXiv:2411.02853, algorithm 2."""
    update, new_state = scale_by_adopt(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def acprop(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 0.0, **arguments: Any
) -> Step:
    """Zhuang et al. 2021, arXiv:2110.05454 (ACProp)."""
    update, new_state = scale_by_acprop(state, g, p, t, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def ademamix(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, alpha: float = 5.0, weight_decay: float = 0.0,
    **arguments: Any,
) -> Step:  # fmt: skip
    """Pagliardini, Ablin and Grangier 2024, arXiv:2409.03137, algorithm 1."""
    update, new_state = scale_by_ademamix(state, g, p, t, alpha=alpha, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def simplified_ademamix(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, weight_decay: float = 0.0, **arguments: Any
) -> Step:
    """Morwani et al. 2025, arXiv:2502.02431 (Simplified AdEMAMix)."""
    update, new_state = scale_by_simplified_ademamix(state, g, p, t, **arguments)
    return -learning_rate * (update + weight_decay * p), new_state


def optimistic_gradient_descent(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, **arguments: Any
) -> Step:
    """Daskalakis et al. 2018, arXiv:1711.00141 (optimistic mirror descent): ``2 g_t - g_{t-1}``, with two weights."""
    update, new_state = scale_by_optimistic_gradient(state, g, p, t, **arguments)
    return -learning_rate * update, new_state


def optimistic_adam_v2(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, alpha: float = 1.0, beta: float = 1.0,
    nesterov: bool = True, **arguments: Any,
) -> Step:  # fmt: skip
    """Daskalakis et al. 2018, arXiv:1711.00141, algorithm 1, with two weights."""
    adam, kept = adaptive_oracles.scale_by_adam(state, g, p, t, nesterov=nesterov, **arguments)
    update, last = scale_by_optimistic_gradient(state, adam, p, t, alpha=alpha, beta=beta)
    return -learning_rate * update, kept | last


def optimistic_adam(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, optimism: float | None = None, **arguments: Any
) -> Step:
    """Daskalakis et al. 2018, arXiv:1711.00141, algorithm 1: ``2 eta a_t - eta a_{t-1}``, the weights apart."""
    beta = learning_rate if optimism is None else optimism
    return optimistic_adam_v2(state, g, p, t, learning_rate=1.0, alpha=learning_rate, beta=beta, **arguments)


def sm3(state: State, g: Array, p: Array, t: int, *, learning_rate: float, momentum: float = 0.9) -> Step:
    """Anil et al. 2019, arXiv:1901.11150, algorithm 2 (SM3-II)."""
    update, new_state = scale_by_sm3(state, g, p, t, b1=momentum)
    return -learning_rate * update, new_state


def adafactor(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float | None = None, decay_offset: int = 0,
    multiply_by_parameter_scale: bool = True, clipping_threshold: float | None = 1.0, momentum: float | None = None,
    weight_decay_rate: float | None = None, eps: float = 1e-30, **arguments: Any,
) -> Step:  # fmt: skip
    """Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5, ``rho_t`` being the learning rate; parts left out.

    The momentum is that of its section 6, the decay that of its peers.
    """
    update, kept = scale_by_factored_rms(state, g, p, t, epsilon=eps, step_offset=decay_offset, **arguments)
    if clipping_threshold is not None:
        update, _ = clip_by_block_rms({}, update, p, t, threshold=clipping_threshold)
    update = update * (1.0 if learning_rate is None else learning_rate)
    if multiply_by_parameter_scale:
        update, _ = scale_by_param_block_rms({}, update, p, t)
    if momentum is not None:
        update, averaged = ema(state, update, p, t, decay=momentum)
        kept = kept | averaged
    return -(update + (weight_decay_rate or 0.0) * p), kept


def fromage(state: State, g: Array, p: Array, t: int, *, learning_rate: float, min_norm: float = 1e-6) -> Step:
    """Bernstein et al. 2020, arXiv:2002.03432, algorithm 1."""
    step, _ = scale_by_trust_ratio({}, g, p, t, min_norm=min_norm)
    return step_and_shrink({}, step, p, t, learning_rate=learning_rate)


def adadelta(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float = 1.0, weight_decay: float = 0.0,
    **arguments: Any,
) -> Step:  # fmt: skip
    """Zeiler 2012, arXiv:1212.5701, algorithm 1, of the gradient of a loss with an L2 term."""
    update, new_state = scale_by_adadelta(state, g + weight_decay * p, p, t, **arguments)
    return -learning_rate * update, new_state


def rprop(state: State, g: Array, p: Array, t: int, **arguments: Any) -> Step:
    """Igel and Huesken 2000, iRprop-."""
    update, new_state = scale_by_rprop(state, g, p, t, **arguments)
    return -update, new_state


def madgrad(state: State, g: Array, p: Array, t: int, *, weight_decay: float = 0.0, **arguments: Any) -> Step:
    """Defazio and Jelassi 2022, arXiv:2101.11075, algorithm 1, of the gradient of a loss with an L2 term."""
    return scale_by_madgrad(state, g + weight_decay * p, p, t, **arguments)

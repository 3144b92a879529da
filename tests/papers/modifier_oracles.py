"""One exact step of methods since Adam, of what modifies an optimizer, and of averages of parameters.

As in ``tests/papers/oracles.py``. A modifier takes ``base``, the oracle of the optimizer that it is around, with that
one's arguments given.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.papers import adaptive_oracles
from tests.papers.adaptive_oracles import norm
from tests.papers.oracles import Array, State, Step, moving_average, quotient, squared_magnitude, weight_seen

Base = Callable[[State, Array, Array, int], Step]


def adam_moments(state: State, g: Array, t: int, b1: float, b2: float) -> tuple[Array, Array, dict[str, Array]]:
    """Kingma and Ba 2015, arXiv:1412.6980, algorithm 1: both corrected moments."""
    mean = moving_average(state.get("mean", np.zeros_like(g)), g, b1)
    second = moving_average(state.get("mean_square", np.zeros_like(g.real)), squared_magnitude(g), b2)
    return mean / weight_seen(b1, t), second / weight_seen(b2, t), {"mean": mean, "mean_square": second}


# ---------------------------------------------------------------------------------------------------------------------
# Since Adam.


def stable_adamw(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, b1: float = 0.9, b2: float = 0.99,
    eps: float = 1e-8, weight_decay: float = 1e-4,
) -> Step:  # fmt: skip
    """Wortsman et al. 2023, arXiv:2304.13013, algorithm 2: ``eta_t = alpha_t / max(1, RMS_t)``."""
    v, u, new_state = adam_moments(state, g, t, b1, b2)
    rms = np.sqrt(np.mean(squared_magnitude(g) / np.maximum(u, eps**2)))
    eta = learning_rate / max(1.0, rms)
    return -eta * weight_decay * p - eta * quotient(v, np.sqrt(u) + eps), new_state


def adam_atan2(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, b1: float = 0.9, b2: float = 0.999,
    a: float = 1.27, b: float = 1.0, weight_decay: float = 0.0,
) -> Step:  # fmt: skip
    """Everett et al. 2024, arXiv:2407.05872 (Adam-atan2): ``a atan2(m, b sqrt(v))``."""
    m, v, new_state = adam_moments(state, g, t, b1, b2)
    return -learning_rate * (a * np.arctan2(m, b * np.sqrt(v)) + weight_decay * p), new_state


def block_mean_square(
    state: State, g: Array, p: Array, t: int, *, decay: float, axes: tuple[int, ...] | None = None
) -> Step:
    """Zhang et al. 2024, arXiv:2406.16793, algorithm 1: ``v = b2 v + (1 - b2) mean(g o g)`` of one block."""
    mean = np.mean(squared_magnitude(g), axis=axes, keepdims=True)
    v = moving_average(state.get("mean_square", np.zeros_like(mean)), mean, decay)
    return np.broadcast_to(v, g.shape), {"mean_square": v}


def adam_mini(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, b1: float = 0.9, b2: float = 0.999,
    eps: float = 1e-8, weight_decay: float = 1e-4, axes: tuple[int, ...] | None = None,
) -> Step:  # fmt: skip
    """Zhang et al. 2024, arXiv:2406.16793, algorithms 1 and 2; ``axes`` are those within a block, all of a vector's."""
    m, _, kept = adam_moments(state, g, t, b1, 0.0)
    v, second = block_mean_square(state, g, p, t, decay=b2, axes=axes)
    step = quotient(m, np.sqrt(v / weight_seen(b2, t)) + eps)
    return -learning_rate * (step + weight_decay * p), {"mean": kept["mean"], **second}


def add_corrected_decay(
    state: State, g: Array, p: Array, t: int, *, weight_decay: float, learning_rate: float, max_learning_rate: float
) -> Step:
    """Defazio 2025, arXiv:2506.02285, algorithm 1: ``lambda_t = lambda gamma_t / gamma_max``."""
    return g + weight_decay * learning_rate / max_learning_rate * p, {}


def adamc(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, max_learning_rate: float, b1: float = 0.9,
    b2: float = 0.999, eps: float = 1e-8, weight_decay: float = 1e-4,
) -> Step:  # fmt: skip
    """Defazio 2025, arXiv:2506.02285, algorithm 1, of a normalized layer."""
    m, v, new_state = adam_moments(state, g, t, b1, b2)
    decay = weight_decay * learning_rate / max_learning_rate
    return -learning_rate * (quotient(m, np.sqrt(v) + eps) + decay * p), new_state


def laprop(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, b1: float = 0.9, b2: float = 0.999,
    eps: float = 1e-15, weight_decay: float = 0.0,
) -> Step:  # fmt: skip
    """Ziyin, Wang and Ueda 2020, arXiv:2002.04839, algorithm 1."""
    n = moving_average(state.get("mean_square", np.zeros_like(g.real)), squared_magnitude(g), b2)
    scaled = quotient(g, np.sqrt(n / weight_seen(b2, t)) + eps)
    m = moving_average(state.get("mean", np.zeros_like(g)), scaled, b1)
    return -learning_rate * (m / weight_seen(b1, t) + weight_decay * p), {"mean_square": n, "mean": m}


def qhm(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, beta: float = 0.999, nu: float = 0.7
) -> Step:
    """Ma and Yarats 2019, arXiv:1810.06801, equations 3 and 4."""
    mean = moving_average(state.get("mean", np.zeros_like(g)), g, beta)
    return -learning_rate * ((1.0 - nu) * g + nu * mean), {"mean": mean}


def aggmo(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, betas: Sequence[float] = (0.0, 0.9, 0.99)
) -> Step:
    """Lucas et al. 2019, arXiv:1804.00325, equation 3, with the sign of the velocities turned.

    Of several decays that are not 0 the velocities are ``momentum``, ``momentum_2``, ...
    """
    total, new_state, seen = np.zeros_like(g), {}, 0
    for beta in betas:
        seen += beta != 0
        name = "momentum" if seen < 2 else f"momentum_{seen}"
        velocity = g if beta == 0 else beta * state.get(name, np.zeros_like(g)) + g
        new_state |= {} if beta == 0 else {name: velocity}
        total = total + velocity
    return -learning_rate * total / len(betas), new_state


def tiger(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, beta: float = 0.965, weight_decay: float = 0.01
) -> Step:
    """Su 2023, kexue.fm/archives/9512, equation 1."""
    mean = moving_average(state.get("mean", np.zeros_like(g)), g, beta)
    return -learning_rate * (quotient(mean, np.abs(mean)) + weight_decay * p), {"mean": mean}


def factored_mean_square(state: State, g: Array, p: Array, t: int, *, decay: float, eps: float = 1e-30) -> Step:
    """Shazeer and Stern 2018, arXiv:1804.04235, algorithm 2, with means in place of sums: ``v = R C / sum(R)``."""
    squares = squared_magnitude(g) + eps
    if g.ndim < 2:
        v = moving_average(state.get("row", np.zeros_like(squares)), squares, decay)
        return v, {"row": v}
    new = {"row": squares.sum(axis=-1, keepdims=True), "column": squares.sum(axis=-2, keepdims=True)}
    sizes = {"row": g.shape[-1], "column": g.shape[-2]}
    sums = {
        name: moving_average(state.get(name, np.zeros_like(value)) * sizes[name], value, decay)
        for name, value in new.items()
    }
    v = sums["row"] * sums["column"] / sums["row"].sum(axis=-2, keepdims=True)
    return v, {name: value / sizes[name] for name, value in sums.items()}


def came(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float, b1: float = 0.9, b2: float = 0.999,
    b3: float = 0.9999, eps: float = 1e-30, eps_instability: float = 1e-16, clipping_threshold: float = 1.0,
    weight_decay: float = 0.0,
) -> Step:  # fmt: skip
    """Luo et al. 2023, arXiv:2307.02047, algorithm 2, with ``trust_row`` and ``trust_column`` for R and C.

    Vectors take ``m``.
    """
    v, kept = factored_mean_square(state, g, p, t, decay=b2, eps=eps)
    u = g / np.sqrt(v)
    u = u / max(1.0, math.sqrt(np.mean(squared_magnitude(u))) / clipping_threshold)
    m = moving_average(state.get("mean", np.zeros_like(g)), u, b1)
    new_state, step = {**kept, "mean": m}, m
    if g.ndim >= 2:
        before = {name: state[f"trust_{name}"] for name in ("row", "column") if f"trust_{name}" in state}
        s, trust = factored_mean_square(before, u - m, p, t, decay=b3, eps=eps_instability)
        new_state |= {f"trust_{name}": value for name, value in trust.items()}
        step = m / np.sqrt(s)
    return -learning_rate * (step + weight_decay * p), new_state


# ---------------------------------------------------------------------------------------------------------------------
# Gradients and steps modified.


def cautious(
    state: State, g: Array, p: Array, t: int, *, base: Base, before_learning_rate: bool = False,
    smallest_share: float = 1e-3,
) -> Step:  # fmt: skip
    """Liang et al. 2024, arXiv:2411.16085, algorithm 1, with the mean of the mask as in its code."""
    u, new_state = base(state, g, p, t)
    agree = (u * np.conj(g)).real * (1.0 if before_learning_rate else -1.0) > 0
    return u * agree / max(agree.mean(), smallest_share), new_state


def add_cautiously_decayed_weights(state: State, g: Array, p: Array, t: int, *, weight_decay: float = 0.0) -> Step:
    """Chen et al. 2025, arXiv:2510.12402, algorithm 1: ``u + lambda 1(u x >= 0) x``."""
    return g + weight_decay * ((g * np.conj(p)).real >= 0) * p, {}


def correct_by_last(state: State, g: Array, p: Array, t: int, *, gamma: float = 0.025, beta: float = 0.95) -> Step:
    """Yuan et al. 2024, arXiv:2411.10438, equation 3.10 and remark 3.3; at the first step both gradients are one."""
    last = state["last"] if t > 1 else g
    return g + gamma * beta / (1.0 - beta) * (g - last), {"last": g}


def mars(
    state: State, g: Array, p: Array, t: int, *, base: Base, gamma: float = 0.025, beta: float = 0.95,
    max_norm: float | None = 1.0,
) -> Step:  # fmt: skip
    """Yuan et al. 2024, arXiv:2411.10438, algorithm 1: ``c / ||c||`` where ``||c|| > 1``, of one leaf."""
    c, kept = correct_by_last(state, g, p, t, gamma=gamma, beta=beta)
    if max_norm is not None and norm(c).item() > max_norm:
        c = c * max_norm / norm(c)
    u, new_state = base(state, c, p, t)
    return u, {**kept, **new_state}


def amplify_slow(state: State, g: Array, p: Array, t: int, *, alpha: float = 0.98, lamb: float = 2.0) -> Step:
    """Lee et al. 2024, arXiv:2405.20233, algorithm 2: the memory starts as the first gradient, as in its code."""
    mean = moving_average(state["mean"], g, alpha) if t > 1 else g
    return g + lamb * mean, {"mean": mean}


def grokfast(state: State, g: Array, p: Array, t: int, *, base: Base, alpha: float = 0.98, lamb: float = 2.0) -> Step:
    """Lee et al. 2024, arXiv:2405.20233, algorithm 2, in front of ``base``."""
    amplified, kept = amplify_slow(state, g, p, t, alpha=alpha, lamb=lamb)
    u, new_state = base(state, amplified, p, t)
    return u, {**kept, **new_state}


def orthogonal_gradient(state: State, g: Array, p: Array, t: int) -> Step:
    """Prieto et al. 2025, arXiv:2501.04697, section 5.1, with the norm of the gradient kept; 0 for a parallel one."""
    if not np.any(p):
        return g, {}
    h = g - np.vdot(p, g).real / np.vdot(p, p).real * p
    if norm(h).item() <= 1e-6 * norm(g).item():
        return np.zeros_like(g), {}
    return h * norm(g) / norm(h), {}


# ---------------------------------------------------------------------------------------------------------------------
# Two gradients in one step; the loss of the tests is ``sum |p|^2``.


def sam(state: State, g: Array, p: Array, t: int, *, base: Base, value_fn: Any, rho: float = 0.05) -> Step:
    """Foret et al. 2021, arXiv:2010.01412, equation 2, with the gradient ``2 p`` of the tests' loss."""
    del value_fn
    return base(state, 2.0 * (p + rho * quotient(g, norm(g))), p, t)


def asam(
    state: State, g: Array, p: Array, t: int, *, base: Base, value_fn: Any, rho: float = 0.5, eta: float = 0.01
) -> Step:
    """Kwon et al. 2021, arXiv:2102.11600, algorithm 1: ``rho T^2 g / ||T g||``, ``T = |p| + eta``."""
    del value_fn
    scale = np.abs(p) + eta
    return base(state, 2.0 * (p + rho * quotient(scale**2 * g, norm(scale * g))), p, t)


# ---------------------------------------------------------------------------------------------------------------------
# Averages.


def exponential_average(state: State, g: Array, p: Array, t: int, *, base: Base, decay: float = 0.999) -> Step:
    """Tarvainen and Valpola 2017, arXiv:1703.01780, equation 1, of the parameters after the update."""
    u, new_state = base(state, g, p, t)
    return u, {"average": moving_average(state.get("average", p), p + u, decay), **new_state}


def uniform_average(state: State, g: Array, p: Array, t: int, *, base: Base, start: int = 0, every: int = 1) -> Step:
    """Izmailov et al. 2018, arXiv:1803.05407, algorithm 1: the mean over ``p_{start + every n}``, n = 1, 2, ..."""
    u, new_state = base(state, g, p, t)
    n, new = max(t - start, 0) // every, p + u
    if n <= 1 and t <= start + every:
        average = new
    elif (t - start) % every == 0:
        average = (state["average"] * (n - 1) + new) / n
    else:
        average = state["average"]
    return u, {"average": average, **new_state}


def lookahead(
    state: State, g: Array, p: Array, t: int, *, base: Base, sync_period: int, slow_step_size: float,
    reset_state: bool = False,
) -> Step:  # fmt: skip
    """Zhang et al. 2019, arXiv:1907.08610, algorithm 1."""
    u, new_state = base(state, g, p, t)
    slow = state.get("slow", p)
    if t % sync_period:
        return u, {"slow": slow, **new_state}
    slow = slow + slow_step_size * (p + u - slow)
    if reset_state:
        new_state = {name: np.zeros_like(value) for name, value in new_state.items()}
    return slow - p, {"slow": slow, **new_state}


def schedule_free(
    state: State, g: Array, p: Array, t: int, *, base: Base, learning_rate: float, b1: float = 0.9,
    weight_lr_power: float = 2.0,
) -> Step:  # fmt: skip
    """Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5, at a constant rate, where ``c = 1 / t``."""
    return interpolated(state, g, p, t, base=base, share=1.0 / t, old_share=1.0 / max(t - 1, 1), between=b1)


def primal_average(
    state: State, g: Array, p: Array, t: int, *, base: Base, mu_x: float = 0.99, mu_y: float = 0.9
) -> Step:
    """Defazio et al. 2025, arXiv:2512.17131 (GPA)."""
    return interpolated(state, g, p, t, base=base, share=1.0 - mu_x, old_share=1.0 - mu_x, between=mu_y)


def interpolated(
    state: State, g: Array, p: Array, t: int, *, base: Base, share: float, old_share: float, between: float
) -> Step:
    """The step of ``y = (1 - between) z + between x`` with ``z <- z + u``, ``x <- (1 - share) x + share z``.

    All three are seen from the old ``y``, where small numbers keep their digits; ``ahead`` is the new ``z`` minus the
    old ``x``.
    """
    u, new_state = base(state, g, p, t)
    apart = (1.0 - old_share) * state.get("ahead", np.zeros_like(g))
    z, x = between * apart, -(1.0 - between) * apart
    ahead = apart + u
    z = z + u
    x = (1.0 - share) * x + share * z
    return (1.0 - between) * z + between * x, {"ahead": ahead, **new_state}


def schedule_free_sgd(state: State, g: Array, p: Array, t: int, *, learning_rate: float = 1.0, b1: float = 0.9) -> Step:
    """Defazio et al. 2024, arXiv:2405.15682, equations 3 to 5."""

    def base(state: State, g: Array, p: Array, t: int) -> Step:
        return -learning_rate * g, {}

    return schedule_free(state, g, p, t, base=base, learning_rate=learning_rate, b1=b1)


def schedule_free_adamw(
    state: State, g: Array, p: Array, t: int, *, learning_rate: float = 0.0025, b1: float = 0.9, b2: float = 0.999,
    eps: float = 1e-8, weight_decay: float = 0.0,
) -> Step:  # fmt: skip
    """Defazio et al. 2024, arXiv:2405.15682, algorithm 1, at a constant rate."""

    def base(state: State, g: Array, p: Array, t: int) -> Step:
        return adaptive_oracles.adamw(
            state, g, p, t, learning_rate=learning_rate, b1=0.0, b2=b2, eps=eps, weight_decay=weight_decay
        )

    update, new_state = schedule_free(state, g, p, t, base=base, learning_rate=learning_rate, b1=b1)
    new_state.pop("mean")
    return update, new_state


ORACLES: dict[str, Callable[..., Step]] = {
    oracle.__name__: oracle
    for oracle in (
        stable_adamw, adam_atan2, adam_mini, adamc, laprop, qhm, aggmo, tiger, came, schedule_free_sgd,
        schedule_free_adamw,
    )
}  # fmt: skip
"""The recipes, by the name of the unit."""

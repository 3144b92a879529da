"""Step sizes from how far the parameters have come: distance over gradients, and Polyak's from how far the loss has."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import (
    Counter,
    EmptyState,
    GradientTransformation,
    PositionTree,
    SignedScalar,
    first_step,
    next_step,
    transformation,
)
from gradtx.transforms.signals import one_number
from gradtx.transforms.whole_trees import copied, divided_by, minus, scaled_tree_norm, tree_norm, wide_zero
from gradtx.tree import squared_norm

InitStep = tuple[Literal["distance", "learning_rate", "heuristic"], float]
"""How the first step is set: by a distance, by a learning rate, or by a share of the parameters' size."""


class ScaleByDoGState(NamedTuple):
    step: Counter
    distance: SignedScalar
    gradient_norm: SignedScalar
    start: PositionTree


@transformation(locality="tree")
def scale_by_dog(init_step: InitStep = ("heuristic", 1e-6), eps: errors.Epsilon = 1e-8) -> GradientTransformation:
    """``u = r / sqrt(G + eps) g``: the largest distance from the start so far over the root of all squared gradients.

    ``r <- max(r, ||p - p_0||)``, ``G <- G + ||g||^2``, the norms over all leaves. The first ``r`` is ``("distance",
    r)``, or ``("heuristic", a)``: ``a (1 + ||p_0||)``; ``("learning_rate", eta)`` gives the first step the rate ``eta``
    and lets ``r`` begin at 0. The square roots are kept instead of the squares, so gradients of any size are divided
    right. ``init`` wants the parameters as they are. Average the parameters, as the authors do. State: one float32
    number per parameter.

    Source: Ivgi, Hinder and Carmon 2023, arXiv:2302.12022 (DoG).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_dog(("distance", 0.5), eps=0.0)
    >>> params = jnp.array([1.0, 1.0])
    >>> [round(float(u), 4) for u in tx.update(jnp.array([3e30, 4e30]), tx.init(params), params)[0]]
    [0.3, 0.4]
    """
    kind, size = _checked(init_step)

    def init(params):
        first = {"distance": size, "heuristic": size * (1.0 + tree_norm(params)), "learning_rate": 0.0}[kind]
        zero = wide_zero(params)
        return ScaleByDoGState(first_step(), zero + first, zero + 0.0, copied(params))

    def update(updates, state, params):
        distance = jnp.maximum(state.distance, _apart(params, state.start))
        gradient_norm = _hypot(state.gradient_norm, tree_norm(updates))
        below = _hypot(gradient_norm, jnp.sqrt(jnp.asarray(eps, gradient_norm.dtype)))
        scaled = divided_by(updates, below, distance)
        if kind == "learning_rate":
            scaled = jax.tree.map(lambda s, u: jnp.where(state.step == 0, size * u, s), scaled, updates)
        return scaled, ScaleByDoGState(next_step(state.step), distance, gradient_norm, state.start)

    return GradientTransformation(init, update)


class ScaleByDoWGState(NamedTuple):
    distance: SignedScalar
    weighted_norm: SignedScalar
    start: PositionTree


@transformation(locality="tree")
def scale_by_dowg(
    init_estim_sq_dist: errors.Positive | None = None, eps: errors.Epsilon = 1e-4
) -> GradientTransformation:
    """``u = r^2 / (sqrt(V) + eps) g``: as :func:`scale_by_dog`, with gradients weighted by the distance of their step.

    ``r <- max(r, ||p - p_0||)``, ``V <- V + r^2 ||g||^2``, the norms over all leaves; ``r^2`` starts at
    ``init_estim_sq_dist``, or at ``eps`` without one. ``init`` wants the parameters as they are. State: one float32
    number per parameter.

    Source: Khaled, Mishchenko and Jin 2023, arXiv:2305.16284, algorithm 1; its ``eps`` as in Optax.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_dowg(init_estim_sq_dist=0.25, eps=0.0)
    >>> params = jnp.array([1.0, 1.0])
    >>> [round(float(u), 4) for u in tx.update(jnp.array([3e30, 4e30]), tx.init(params), params)[0]]
    [0.3, 0.4]
    """

    def init(params):
        return ScaleByDoWGState(wide_zero(params), wide_zero(params), copied(params))

    def update(updates, state, params):
        first = jnp.sqrt(jnp.asarray(eps if init_estim_sq_dist is None else init_estim_sq_dist, state.distance.dtype))
        so_far = jnp.maximum(state.distance, _apart(params, state.start))
        distance = jnp.maximum(so_far, first)
        weighted_norm = _hypot(state.weighted_norm, distance * tree_norm(updates))
        scaled = divided_by(updates, weighted_norm + eps, jnp.square(distance))
        return scaled, ScaleByDoWGState(distance, weighted_norm, state.start)

    return GradientTransformation(init, update)


@transformation(locality="tree")
def scale_by_polyak(
    f_min: errors.Real = 0.0,
    max_learning_rate: errors.NonNegative = 1.0,
    eps: errors.Epsilon = 0.0,
    variant: Literal["sps", "sps+"] = "sps",
) -> GradientTransformation:
    """``u = min((value - f_min) / (||g||^2 + eps), max_learning_rate) g``, the norm over all leaves.

    The signal ``value`` is the loss at the parameters, ``f_min`` the lowest that it can be: 0 for a model that fits all
    its data. ``"sps+"`` takes no step where ``value`` is below ``f_min``, ``"sps"`` one uphill. A zero gradient gives
    no step. Norms are right over the whole range of float32 (Optax takes no step where ``||g||^2`` is below 2e-16).

    Raises ``SignalError`` for a ``value`` that is missing or not one real number.

    Source: Loizou et al. 2021, arXiv:2002.10542 (SPS_max, c = 1); Garrigos, Gower and Schaipp 2023,
    arXiv:2307.14528, on ``sps+``.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_polyak()
    >>> tx.update(jnp.array([6.0, 8.0]), tx.init(None), value=25.0)[0].tolist()
    [1.5, 2.0]
    """

    def init(params):
        del params
        return EmptyState()

    def update(updates, state, *, value):
        h, length = scaled_tree_norm(updates)
        gap = one_number("value", value).astype(length.dtype) - f_min
        gap = jnp.maximum(gap, 0.0) if variant == "sps+" else gap
        square = length * length + (eps * h * h) * (h * h)
        step = (gap * h * h) / jnp.where(square == 0, 1.0, square)
        share = jnp.minimum(step, max_learning_rate / h / h)
        return jax.tree.map(lambda u: (u * _like(h * h, u)) * _like(share, u), updates), state

    return GradientTransformation(init, update)


def _checked(init_step: Any) -> tuple[str, float]:
    kinds = ("distance", "learning_rate", "heuristic")
    if isinstance(init_step, tuple) and len(init_step) == 2 and init_step[0] in kinds:
        size = errors.as_float(init_step[1])
        if size is not None and size in errors.Interval(0.0, open_low=True):
            return init_step[0], size
    raise errors.ArgumentRangeError(
        errors.UNNAMED,
        expected="init_step must be one of 'distance', 'learning_rate', 'heuristic', and a positive number",
        got=errors.show(init_step),
        cause="it says how the first step is set, and how large",
        fix="write init_step=('heuristic', 1e-6)",
    )


def _apart(params: Any, start: Any) -> jax.Array:
    """``||p - p_0||`` in one pass, of equal shapes; parameters are never so far apart that squares overflow."""
    return jnp.sqrt(squared_norm(jax.tree.map(minus, params, start)))


def _like(number: jax.Array, leaf: jax.Array) -> jax.Array:
    return number.astype(leaf.real.dtype)


def _hypot(x: jax.Array, y: jax.Array) -> jax.Array:
    """``sqrt(x^2 + y^2)``, at most the largest finite number for finite ones."""
    found = jnp.hypot(x, y)
    finite = jnp.isfinite(x) & jnp.isfinite(y)
    return jnp.where(finite, jnp.minimum(found, jnp.finfo(found.dtype).max), found)

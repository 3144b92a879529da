"""The loss and its gradient at a point and along a line, over one batch or many."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from gradtx.curvature import vectors
from gradtx.curvature.differentiation import Vector
from gradtx.curvature.loss_form import scalar_of
from gradtx.curvature.operators import Layout, Point, named
from gradtx.tree import widen


class Slope(NamedTuple):
    """Value and gradient at a point, and the standard error of the gradient's mean over the examples."""

    value: float
    gradient: Vector
    error: float
    """``sqrt(sum_b n_b |g_b - g|^2 / (B - 1) / N)`` from B batches; NaN where there is one batch."""


def slope(loss: Partial, at: Point) -> Slope:
    """One pass over the data; means and squared deviations run along (Welford 1962), so nothing cancels."""
    mean: Vector | None = None
    value = spread = 0.0
    seen = 0
    for batch, examples in zip(at.data.batches, at.data.examples, strict=True):
        with named(at.call):
            one_value, one = _value_and_gradient(loss, at.chosen, at.others, batch, layout=at.layout)
        seen += examples
        share = examples / seen
        value += share * (float(one_value) - value)
        if mean is None:
            mean = one
            continue
        away = vectors.combine([1.0, -1.0], [one, mean])
        spread += examples * (1 - share) * vectors.norm(away) ** 2
        mean = vectors.combine([1.0, share], [mean, away])
    assert mean is not None
    parts = len(at.data.batches)
    error = float(np.sqrt(spread / (parts - 1) / seen)) if parts > 1 else float("nan")
    return Slope(value, vectors.placed(mean, at.chosen), error)


def value_along(loss: Partial, at: Point, direction: Vector, step: float) -> float:
    """``L(w + t d)``, the sum rounded to the parameters' dtype as a step would be."""
    return value_of_sum(loss, at, (at.chosen, direction), (1.0, step))


def value_of_sum(loss: Partial, at: Point, terms: tuple[Vector, ...], weights: Sequence[float]) -> float:
    """``L(sum_i weights_i terms_i)``; weights are arguments of what is compiled, so a grid compiles one program."""
    total = sum(at.data.examples)
    value = 0.0
    for batch, examples in zip(at.data.batches, at.data.examples, strict=True):
        with named(at.call):
            one = _value(loss, at.chosen, at.others, batch, terms, tuple(map(float, weights)), layout=at.layout)
        value += examples / total * float(one)
    return value


def stepped(at: Point, direction: Vector, step: float) -> Vector:
    """``w + t d`` in the parameters' dtypes."""
    return summed(at, (at.chosen, direction), (1.0, step))


def summed(at: Point, terms: tuple[Vector, ...], weights: Sequence[float]) -> Vector:
    """``sum_i weights_i terms_i`` in the parameters' dtypes."""
    return vectors.placed(_sum(at.chosen, terms, tuple(map(float, weights))), at.chosen)


@functools.partial(jax.jit, static_argnames="layout")
def _value_and_gradient(loss: Partial, chosen: Vector, others: Any, batch: Any, *, layout: Layout) -> Any:
    def f(leaves: Vector) -> jax.Array:
        return scalar_of(loss(layout.merge(leaves, others), batch))

    value, gradient = jax.value_and_grad(f)(chosen)
    return value, tuple(map(widen, gradient))


@functools.partial(jax.jit, static_argnames="layout")
def _value(
    loss: Partial, like: Vector, others: Any, batch: Any, terms: tuple[Vector, ...], weights: tuple[Any, ...], *,
    layout: Layout,
) -> jax.Array:  # fmt: skip
    return scalar_of(loss(layout.merge(_sum(like, terms, weights), others), batch))


@jax.jit
def _sum(like: Vector, terms: tuple[Vector, ...], weights: tuple[Any, ...]) -> Vector:
    def one(leaf: jax.Array, *parts: jax.Array) -> jax.Array:
        weighted = [weight * widen(part) for weight, part in zip(weights, parts, strict=True)]
        return functools.reduce(jnp.add, weighted).astype(leaf.dtype)

    return tuple(map(one, like, *terms))

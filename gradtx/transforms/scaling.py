"""Multiplying updates: by a number, a schedule, the learning rate; by nothing and by zero; taking the sign."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from gradtx import errors
from gradtx.core import PASS, ZERO, GradientTransformation, compose, stateless, transformation


@transformation
def identity() -> GradientTransformation:
    """``u = g``: passes updates on, whatever their dtype, and keeps no state."""
    return compose({}, lambda parts: PASS)


@transformation
def set_to_zero() -> GradientTransformation:
    """``u = 0``: freezes, whatever the dtype, and keeps no state; a rule for :func:`gradtx.partition`."""
    return compose({}, lambda parts: ZERO)


@transformation(locality="elementwise")
def scale(step_size: errors.Real) -> GradientTransformation:
    """``u = step_size * g``; a schedule gives the value of the step.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale(-0.5)
    >>> tx.update(jnp.array([2.0, -4.0]), tx.init(jnp.zeros(2)))[0].tolist()
    [-1.0, 2.0]
    """
    return stateless(lambda update: step_size * update)


@transformation
def scale_by_schedule(step_size_fn: Callable[[Any], Any]) -> GradientTransformation:
    """``u = f(step) * g`` with ``f = step_size_fn``, whose first step is 0; the same as ``scale(step_size_fn)``."""
    return scale(step_size_fn)


@transformation(locality="elementwise")
def scale_by_learning_rate(learning_rate: errors.NonNegative, *, flip_sign: bool = True) -> GradientTransformation:
    """``u = -learning_rate * g``, a step downhill; ``flip_sign=False`` keeps the sign."""
    return stateless(lambda update: (-learning_rate if flip_sign else learning_rate) * update)


@transformation(locality="elementwise")
def scale_by_sign() -> GradientTransformation:
    """``u = sign(g)``; ``g / |g|`` for complex ``g``. The sign of 0 is 0.

    Source: Bernstein et al. 2018, arXiv:1802.04434, algorithm 1.
    """
    return stateless(jnp.sign)

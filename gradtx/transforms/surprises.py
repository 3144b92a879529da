"""Second moments of what was not expected: gradients about their own average, and squares that enter by their sign."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators import chain, ratio
from gradtx.core import GradientTransformation, NonNegativeTree, Pair, compose, record_of, transformation
from gradtx.transforms import moments
from gradtx.transforms.adaptive import first_moment
from gradtx.transforms.magnitudes import bounded_for_squares, over_root
from gradtx.transforms.moments import ema, finite_square, mean_square, square_root


@transformation
def scale_by_belief(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-16,
    eps_root: errors.Epsilon = 1e-16,
    *,
    nesterov: bool = False,
) -> GradientTransformation:
    """``u = m^ / (sqrt(s^) + eps)``: Adam with the mean square of ``g - m`` in place of that of ``g``.

    Steps are long where gradients are as their average ``m`` says, short where they surprise. ``s <- b2 * s + (1 - b2)
    * (g - m)^2 + eps_root`` with the new ``m``; what ``eps_root`` adds to the corrected ``s^`` is ``eps_root / (1 -
    b2)`` at every step, and is added there. ``nesterov`` makes ``m^`` that of :func:`scale_by_adam`. State: a
    dictionary, with two float32 numbers per parameter.

    Source: Zhuang et al. 2020, arXiv:2010.07468, algorithm 2.
    """
    parts = {
        "ema": ema(b1),
        "bias_correction": moments.bias_correction(b1, steps_ahead=1 if nesterov else 0),
        "deviation": chain(mean_square(b2), moments.bias_correction(b2), square_root(eps=eps_root / (1.0 - b2))),
    } | ({"now": moments.bias_correction(b1)} if nesterov else {})

    def body(parts: Mapping[str, Pair]) -> Pair:
        def init(params):
            return {name: part.init(params) for name, part in parts.items()}

        def update(updates, state, params, signals):
            new = {}

            def apply(name: str, x: jax.Array) -> Any:
                found, new[name] = parts[name].update(x, state[name], params, signals)
                return found

            g = bounded_for_squares(updates)
            mean = apply("ema", g)
            forward = apply("bias_correction", mean)
            if nesterov:
                forward = b1 * forward + (1.0 - b1) * apply("now", g)
            return over_root(forward, apply("deviation", g - mean), eps), new

        return Pair(init, update)

    return compose({name: record_of(part) for name, part in parts.items()}, body)


class AdditiveMeanSquareState(NamedTuple):
    mean_square: NonNegativeTree


@transformation(locality="elementwise")
def additive_mean_square(
    decay: errors.Decay, *, initial_value: errors.NonNegativeNumber = 0.0
) -> GradientTransformation:
    """``u = v <- v - (1 - decay) * sign(v - |g|^2) * |g|^2`` from ``v = initial_value``: a step of one size up or down.

    A moving average forgets a rare large gradient as fast as ``v`` is large; this at the rate of the gradients that
    follow, so learning rates grow slowly. Squares saturate. State: one float32 number per parameter.

    Source: Zaheer et al. 2018, NeurIPS 31, Adaptive methods for nonconvex optimization, algorithm 2.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.additive_mean_square(0.5, initial_value=4.0)
    >>> tx.update(jnp.array([1.0, 3.0]), tx.init(jnp.zeros(2)))[0].tolist()
    [3.5, 8.5]
    """

    def init(param):
        return AdditiveMeanSquareState(jnp.full_like(param.real, initial_value))

    def update(update, state):
        v, squares = state.mean_square, finite_square(update)
        moved = v - (1.0 - decay) * jnp.sign(v - squares) * squares
        largest = jnp.finfo(moved.dtype).max
        mean_square = jnp.where(jnp.isfinite(squares), jnp.clip(moved, 0.0, largest), moved)
        return mean_square, AdditiveMeanSquareState(mean_square)

    return GradientTransformation(init, update)


@transformation
def scale_by_yogi(
    b1: errors.Decay = 0.9,
    b2: errors.Decay = 0.999,
    eps: errors.Epsilon = 1e-3,
    eps_root: errors.Epsilon = 0.0,
    initial_accumulator_value: errors.NonNegativeNumber = 1e-6,
    *,
    bias_correction: bool = True,
) -> GradientTransformation:
    """``u = m^ / (sqrt(v^ + eps_root) + eps)``: Adam whose second moment is :func:`additive_mean_square`.

    ``v`` starts at ``initial_accumulator_value``, ``m`` at 0. (Optax starts ``m`` there too, which pushes every
    parameter the same way.) ``m^ = m / (1 - b1^t)`` and ``v^ = v / (1 - b2^t)``, as in TensorFlow and Optax; without
    ``bias_correction``, ``m^ = m`` and ``v^ = v`` as in the paper. State: two float32 numbers per parameter.

    Source: Zaheer et al. 2018, NeurIPS 31, Adaptive methods for nonconvex optimization, algorithm 2.
    """
    return ratio(
        first_moment(b1, nesterov=False, bias_correction=bias_correction),
        chain(
            additive_mean_square(b2, initial_value=initial_accumulator_value),
            *([moments.bias_correction(b2)] if bias_correction else []),
            square_root(eps=eps_root),
        ),
        eps=eps,
    )

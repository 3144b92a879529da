"""Transformations of the same input, joined into one: their ratio and their sum."""

import functools
import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.chaining import parts_by_name
from gradtx.core import GradientTransformation, Nested, Pair, compose, record_of, transformation
from gradtx.tree import cut


class RatioState(NamedTuple):
    numerator: Nested
    denominator: Nested


@transformation
def ratio(
    numerator: GradientTransformation, denominator: GradientTransformation, *, eps: errors.Epsilon = 1e-8
) -> GradientTransformation:
    """``u = n(g) / (d(g) + eps)``, elementwise: the fan-out behind every adaptive method.

    ``numerator`` and ``denominator`` both see the gradient ``g``, limited to ``|g| <= 2^63`` where a square would
    overflow float32. ``0 / 0`` is 0. With ``eps = 0`` a denominator below ``2^-63``, the root of the smallest normal
    number, counts as that number: it is the root of squares that have vanished. Shapes and dtypes as the gradient's.

    >>> import gradtx, jax.numpy as jnp
    >>> sign = gradtx.ratio(gradtx.identity(), gradtx.chain(gradtx.mean_square(0.0), gradtx.square_root()), eps=0.0)
    >>> updates, _ = sign.update(jnp.array([-3.0, 0.0, 1e30]), sign.init(jnp.zeros(3)))
    >>> updates.tolist()
    [-1.0, 0.0, 1.0]
    """

    def body(parts: Mapping[str, Pair]) -> Pair:
        above, below = parts["numerator"], parts["denominator"]

        def init(params):
            return RatioState(above.init(params), below.init(params))

        def update(updates, state, params, signals):
            updates = jax.tree.map(_limit, updates)
            over, above_state = above.update(updates, state.numerator, params, signals)
            under, below_state = below.update(updates, state.denominator, params, signals)
            quotient = jax.tree.map(lambda n, d: _divide(n, d, eps), over, under)
            return quotient, RatioState(above_state, below_state)

        return Pair(init, update)

    return compose({"numerator": record_of(numerator), "denominator": record_of(denominator)}, body)


def _limit(g: jax.Array) -> jax.Array:
    """A finite ``g`` cut at 2^63 in float32: the square, 2^126, can still be divided by a weight of 1/4."""
    return cut(g, 2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 1))


def _divide(n: jax.Array, d: jax.Array, eps: Any) -> jax.Array:
    """``n / (d + eps)``, where a denominator below the root of the smallest normal number counts as that root."""
    smallest_root = 2.0 ** -(jnp.finfo(d.dtype).maxexp // 2 - 1)
    if isinstance(eps, float | int) and eps >= smallest_root:
        return n / (d + eps)
    return n / jnp.maximum(d + eps, smallest_root)


@transformation
def total(*transforms: GradientTransformation) -> GradientTransformation:
    """``u = t_1(g) + t_2(g) + ...``: each of ``transforms`` sees the gradient ``g``, and their updates are added.

    A weight is a part like any other: ``total(chain(ema(b), scale(v)), scale(1 - v))`` is quasi-hyperbolic momentum
    (Ma and Yarats 2019, arXiv:1810.06801, algorithm 1). The state is a dictionary with the names that
    :func:`gradtx.chain` gives. Shapes and dtypes as the gradient's.

    Raises ``ArgumentTypeError`` for what is no transformation, and without any.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.total(gradtx.identity(), gradtx.chain(gradtx.ema(0.5), gradtx.scale(4.0)))
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.zeros(1)))[0].tolist()
    [3.0]
    """
    if not transforms:
        raise errors.ArgumentTypeError(
            "total()", expected="at least one transformation", got="none", cause="a list of parts was empty",
            fix="write set_to_zero() where nothing is meant to be added",
        )  # fmt: skip

    def body(parts: Mapping[str, Pair]) -> Pair:
        def init(params):
            return {name: part.init(params) for name, part in parts.items()}

        def update(updates, state, params, signals):
            terms, new_state = [], {}
            for name, part in parts.items():
                term, new_state[name] = part.update(updates, state[name], params, signals)
                terms.append(term)
            return jax.tree.map(lambda *leaves: functools.reduce(operator.add, leaves), *terms), new_state

        return Pair(init, update)

    return compose(parts_by_name(transforms), body)

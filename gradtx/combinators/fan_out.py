"""Transformations of the same input, joined into one: their ratio, the angle of their ratio, and their sum."""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.chaining import parts_by_name
from gradtx.core import GradientTransformation, Nested, Pair, compose, record_of, transformation
from gradtx.tree import cut, square, widen


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

    return _joined(numerator, denominator, lambda n, d: _divide(n, d, eps))


@transformation
def atan2_ratio(numerator: GradientTransformation, denominator: GradientTransformation) -> GradientTransformation:
    """``u = atan2(n(g), d(g))``, elementwise: bounded by ``pi / 2``, and for small ratios the ratio, without an eps.

    It does not change with the scale of the gradients. ``numerator`` and ``denominator`` see ``g`` as in :func:`ratio`,
    ``atan2(0, 0)`` is 0, and a denominator below ``2^-63`` counts as that number. A complex ``n`` keeps its direction:
    ``u = n / |n| * atan2(|n|, d)``.

    Source: Everett et al. 2024, arXiv:2407.05872 (Adam-atan2).

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.atan2_ratio(gradtx.identity(), gradtx.absolute_value())
    >>> updates, _ = tx.update(jnp.array([3.0, 0.0, -1e30]), tx.init(jnp.zeros(3)))
    >>> [round(float(u), 4) for u in updates]
    [0.7854, 0.0, -0.7854]
    """
    return _joined(numerator, denominator, _angle)


def _joined(
    numerator: GradientTransformation,
    denominator: GradientTransformation,
    quotient: Callable[[jax.Array, jax.Array], jax.Array],
) -> GradientTransformation:
    def body(parts: Mapping[str, Pair]) -> Pair:
        above, below = parts["numerator"], parts["denominator"]

        def init(params):
            return RatioState(above.init(params), below.init(params))

        def update(updates, state, params, signals):
            updates = jax.tree.map(widen, updates)
            over, above_state = above.update(jax.tree.map(_limit, updates), state.numerator, params, signals)
            again = jax.tree.map(_limit_again, updates)
            under, below_state = below.update(again, state.denominator, params, signals)
            return jax.tree.map(quotient, over, under), RatioState(above_state, below_state)

        return Pair(init, update)

    return compose({"numerator": record_of(numerator), "denominator": record_of(denominator)}, body)


def _limit(g: jax.Array) -> jax.Array:
    """A finite ``g`` cut at 2^63 in float32: the square, 2^126, can still be divided by a weight of 1/4."""
    return cut(g, 2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 1))


def _limit_again(g: jax.Array) -> jax.Array:
    """:func:`_limit` in other operations: XLA's CPU backend would keep one result for two uses in memory, 2 passes."""
    if jnp.iscomplexobj(g):
        return jax.lax.complex(_limit_again(g.real), _limit_again(g.imag))
    bound = 2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 1)
    return jnp.where(jnp.isfinite(g) & (jnp.abs(g) > bound), jnp.sign(g) * bound, g)


def _divide(n: jax.Array, d: jax.Array, eps: Any) -> jax.Array:
    """``n / (d + eps)``, where a denominator below the root of the smallest normal number counts as that root."""
    smallest_root = _smallest_root(d)
    if isinstance(eps, float | int) and eps >= smallest_root:
        return n / (d + eps)
    return n / jnp.maximum(d + eps, smallest_root)


def _angle(n: jax.Array, d: jax.Array) -> jax.Array:
    d = jnp.maximum(d, _smallest_root(d))
    if jnp.iscomplexobj(n):
        return jnp.where(jnp.isfinite(n), jnp.sign(n) * jnp.arctan2(jnp.abs(n), d), n)
    return jnp.where(jnp.isfinite(n), jnp.arctan2(n, d), n)  # the angle of infinities would be finite


def _smallest_root(d: jax.Array) -> float:
    return 2.0 ** -(jnp.finfo(d.dtype).maxexp // 2 - 1)


class StableRatioState(NamedTuple):
    numerator: Nested
    denominator: Nested
    then: Nested


@transformation
def stable_ratio(
    numerator: GradientTransformation,
    denominator: GradientTransformation,
    then: GradientTransformation,
    *,
    eps: errors.Epsilon = 1e-8,
) -> GradientTransformation:
    """``u = then(n(g) / (d(g) + eps)) / max(1, RMS(g / max(d(g), eps)))``: :func:`ratio`, shorter for a surprise.

    Where the gradients of a leaf are larger than the ``d`` that remembers them, the whole step of that leaf, also what
    ``then`` adds to it, is as much shorter. Otherwise as in :func:`ratio`.

    Source: Wortsman et al. 2023, arXiv:2304.13013, algorithm 2.

    >>> import gradtx, jax.numpy as jnp
    >>> root = gradtx.chain(gradtx.mean_square(0.75), gradtx.square_root())
    >>> tx = gradtx.stable_ratio(gradtx.identity(), root, gradtx.identity())
    >>> tx.update(jnp.array([4.0, -4.0]), tx.init(jnp.zeros(2)))[0].tolist()
    [1.0, -1.0]
    """
    parts = {"numerator": record_of(numerator), "denominator": record_of(denominator), "then": record_of(then)}

    def body(parts: Mapping[str, Pair]) -> Pair:
        above, below, after = parts["numerator"], parts["denominator"], parts["then"]

        def init(params):
            return StableRatioState(above.init(params), below.init(params), after.init(params))

        def update(updates, state, params, signals):
            updates = jax.tree.map(widen, updates)
            over, above_state = above.update(jax.tree.map(_limit, updates), state.numerator, params, signals)
            again = jax.tree.map(_limit_again, updates)
            under, below_state = below.update(again, state.denominator, params, signals)
            quotient = jax.tree.map(lambda n, d: _divide(n, d, eps), over, under)
            steps, after_state = after.update(quotient, state.then, params, signals)
            steps = jax.tree.map(lambda u, g, d: u / _surprise(g, d, eps), steps, jax.tree.map(_limit, updates), under)
            return steps, StableRatioState(above_state, below_state, after_state)

        return Pair(init, update)

    return compose(parts, body, reads="leaf")


def _surprise(g: jax.Array, d: jax.Array, eps: Any) -> jax.Array:
    """``max(1, RMS(g / max(d, eps)))``."""
    relative = square(g / jnp.maximum(d, jnp.maximum(eps, _smallest_root(d))))
    return jnp.maximum(1.0, jnp.sqrt(jnp.sum(relative) / max(g.size, 1)))


@transformation
def total(*transforms: GradientTransformation) -> GradientTransformation:
    """``u = t_1(g) + t_2(g) + ...``: each of ``transforms`` sees the gradient ``g``, and their updates are added.

    A weight is a part like any other: ``total(chain(ema(b), scale(v)), scale(1 - v))`` is quasi-hyperbolic momentum
    (Ma and Yarats 2019, arXiv:1810.06801, equations 3 and 4). The state is a dictionary with the names that
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

    return compose(parts_by_name(transforms), body, kind="between")

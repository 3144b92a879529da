"""Vectors of millions of entries that stay where the parameters are: tuples of arrays, one for each selected leaf.

They are never flattened into one array, so each keeps its parameter's sharding. Sums are float32 (or wider) on the
devices; the few numbers that come out are float64 on the host.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from gradtx import errors
from gradtx.curvature.differentiation import Vector, inner
from gradtx.tree import strong, wide_dtype

AT_ONCE = 8
"""Vectors that one compiled function takes: enough to read the new vector rarely, few enough to compile quickly."""


def size(vector: Vector) -> int:
    """The number of entries."""
    return sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in vector)


def dot(x: Vector, y: Vector) -> float:
    """``<x, y>``."""
    return float(_dot(x, y))


def norm(x: Vector) -> float:
    """``|x|``, also where the squares of the entries overflow or vanish."""
    largest, rest = map(float, _norm(x))
    return largest * rest


def combine(weights: Sequence[float], vectors: Sequence[Vector]) -> Vector:
    """``sum_i weights[i] vectors[i]``, a few vectors at a time."""
    total = None
    for some, ws in _groups(vectors, weights):
        total = _combine(some, ws, total)
    assert total is not None
    return total


def add_to(total: Vector, weight: float, vector: Vector) -> Vector:
    """``total + weight vector``; ``total`` is given up."""
    return _combine((vector,), [float(weight)], total)


def project_out(x: Vector, basis: Sequence[Vector]) -> Vector:
    """``x`` without its parts along an orthonormal ``basis``: two passes (Daniel et al. 1976), as one may cancel."""
    for _ in range(2):
        for some, ones in _groups(basis, [1.0] * len(basis)):
            x = _project_out(some, ones, x)
    return x


def random(key: jax.Array, like: Vector) -> Vector:
    """Independent standard normal entries, the same in every sharding; their direction is uniform on the sphere."""
    drawn = []
    for index, leaf in enumerate(like):
        entries = jax.random.normal(jax.random.fold_in(key, index), leaf.shape, wide_dtype(leaf.dtype))
        drawn.append(entries)
    return placed(tuple(drawn), like)


def perturbed(key: jax.Array, x: Vector, scale: float) -> Vector:
    """``x`` with random changes of the size of its own rounding, ``eps (|x_i| + scale)`` with random signs."""
    drawn = []
    for index, leaf in enumerate(x):
        sign = jax.random.rademacher(jax.random.fold_in(key, index), leaf.shape, wide_dtype(leaf.dtype))
        drawn.append(sign)
    return placed(_perturbed(x, tuple(drawn), scale), x)


def placed(vector: Vector, like: Vector) -> Vector:
    """``vector`` on the devices of ``like``, leaf by leaf; nothing moves that is there already."""

    def place(leaf: Any, beside: Any) -> Any:
        if isinstance(leaf, Tracer) or isinstance(beside, Tracer) or not isinstance(beside, jax.Array):
            return leaf
        return leaf if leaf.sharding == beside.sharding else jax.device_put(leaf, beside.sharding)

    return tuple(place(leaf, beside) for leaf, beside in zip(vector, like, strict=True))


def check_key(call: Any, key: Any) -> jax.Array:
    """One typed random key, from a typed or a raw one."""
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == np.uint32 and key.shape in ((2,), (4,)):
        return jax.random.wrap_key_data(jnp.asarray(key), impl="threefry2x32" if key.shape == (2,) else "rbg")
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.shape == ():
        return key
    raise errors.ArgumentTypeError(
        call,
        expected="key must be one random key",
        got=f"{type(key).__name__} {errors.show(key)}",
        cause="a seed is not yet a key, and an array of keys is more than one",
        fix="write key=jax.random.key(0)",
    )


def _groups(vectors: Sequence[Vector], weights: Sequence[float]) -> list[tuple[tuple[Vector, ...], list[float]]]:
    """Groups of one length, so that one function is compiled: the last is filled with one vector, times zero."""
    groups = []
    for start in range(0, len(vectors), AT_ONCE):
        some, ws = list(vectors[start : start + AT_ONCE]), [float(w) for w in weights[start : start + AT_ONCE]]
        missing = (AT_ONCE if len(vectors) > AT_ONCE else 1 << (len(some) - 1).bit_length()) - len(some)
        groups.append((tuple(some + some[:1] * missing), ws + [0.0] * missing))
    return groups


_dot = jax.jit(inner)


@jax.jit
def _norm(x: Vector) -> tuple[jax.Array, jax.Array]:
    largest = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(leaf), initial=0.0) for leaf in x])
    # A division would become a product with 1 / largest, which is subnormal above 8.5e37, and so zero.
    root = jax.lax.rsqrt(jnp.where(largest > 0, largest, 1))
    scaled = [leaf * root * root for leaf in x]
    return largest, jnp.sqrt(inner(scaled, scaled))


@functools.partial(jax.jit, donate_argnums=2)
def _combine(vectors: tuple[Vector, ...], weights: list[jax.Array], total: Vector | None) -> Vector:
    def one(leaves: tuple[jax.Array, ...]) -> jax.Array:
        return functools.reduce(jnp.add, [w * leaf for w, leaf in zip(weights, leaves, strict=True)])

    sums = tuple(map(one, zip(*vectors, strict=True)))
    return sums if total is None else tuple(a + b for a, b in zip(total, sums, strict=True))


@jax.jit
def _project_out(vectors: tuple[Vector, ...], weights: list[jax.Array], x: Vector) -> Vector:
    parts = [w * inner(v, x) for v, w in zip(vectors, weights, strict=True)]
    return _combine((x, *vectors), [jnp.ones_like(parts[0]), *(-part for part in parts)], None)


@jax.jit
def _perturbed(x: Vector, signs: Vector, scale: jax.Array) -> Vector:
    def change(leaf: jax.Array, sign: jax.Array) -> jax.Array:
        eps = jnp.finfo(leaf.dtype).eps
        wide = leaf.astype(sign.dtype)
        return (wide + eps * sign * (jnp.abs(wide) + scale)).astype(leaf.dtype)

    return tuple(strong(change(leaf, sign)) for leaf, sign in zip(x, signs, strict=True))

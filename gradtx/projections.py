"""The nearest point of a set, ``P(x) = argmin |p - x|_2`` over p in the set, for a tree x taken as one vector.

Trees hold real floating arrays or Python floats; the result has their containers, shapes and dtypes. Arithmetic is in
float32 or wider and rounded once, so a tree of float32 is on its set to a few eps of the set's size. Vectors of any
finite size have a projection: huge and tiny ones are scaled before anything is squared. NaN stays visible.

Derivatives are those of P where it has one, and those of one side where two pieces meet; they are finite wherever they
fit the dtype. To project the parameters of a layer at every step: :func:`gradtx.project`.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import (
    ArgumentRangeError,
    ArgumentTypeError,
    Call,
    DtypeError,
    NonNegativeNumber,
    Number,
    ShapeError,
    as_float,
    checked_call,
    show,
)
from gradtx.tree import broadcast_prefix, check_same, leaf_paths, widen


def projection_non_negative(tree: Any) -> Any:
    """Onto ``{p: p_i >= 0}``: ``p = max(x, 0)``.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_non_negative([-1.0, 2.0])]
    [0.0, 2.0]
    """
    return _leafwise("projection_non_negative", lambda x: jnp.where(x < 0, 0, x), tree)


def projection_box(tree: Any, lower: Any, upper: Any) -> Any:
    """Onto ``{p: lower_i <= p_i <= upper_i}``: ``p = min(max(x, lower), upper)``.

    Each bound is a number for all, or a tree with one for each leaf or branch of ``tree``: a number, or an array that
    broadcasts to the leaf. Infinite bounds are none. On a bound the derivative is that of the inside, 1.

    Raises:
        SelectionError: A bound that is no prefix of the tree.
        ShapeError: A bound that does not broadcast to its leaf.
        ArgumentRangeError: A lower bound above the upper one: nothing is in the box.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_box([-3.0, 0.5, 9.0], -1.0, [1.0, 1.0, 2.0])]
    [-1.0, 0.5, 2.0]
    """
    return _in_box(Call("projection_box", (tree, lower, upper), {}, {}, {}), tree, lower, upper)


def projection_hypercube(tree: Any, scale: Any = 1) -> Any:
    """Onto ``{p: 0 <= p_i <= scale_i}``; ``scale`` is a bound of :func:`projection_box`, and errors are its.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_hypercube([-3.0, 0.5, 9.0])]
    [0.0, 0.5, 1.0]
    """
    return _in_box(Call("projection_hypercube", (tree, scale), {}, {}, {}), tree, 0.0, scale)


@checked_call
def projection_linf_ball(tree: Any, scale: NonNegativeNumber = 1) -> Any:
    """Onto ``{p: max_i |p_i| <= scale}``: each element by itself is limited.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_linf_ball([-3.0, 0.5], 2.0)]
    [-2.0, 0.5]
    """
    return _in_box(Call("projection_linf_ball", (tree, scale), {}, {}, {}), tree, -scale, scale)


@checked_call
def projection_simplex(tree: Any, scale: NonNegativeNumber = 1) -> Any:
    """Onto ``{p: p_i >= 0, sum_i p_i = scale}``, distributions over the elements of the tree::

        p_i = max(x_i - tau, 0),  tau such that sum_i p_i = scale

    ``tau`` is found by Newton's method from below. The sum is convex and piecewise linear in it: the product of excess
    and slope falls at least fourfold in each pass over the tree, which makes at most 35 passes for a million elements.
    No element is moved, so a sharded tree is projected where it lies.

    Source: Held, Wolfe and Crowder 1974, Mathematical Programming 6, section 6; Michelot 1986, JOTA 50(1).

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_simplex([0.5, 1.0, -7.0])]
    [0.25, 0.75, 0.0]
    """
    leaves, rebuild = _taken_apart(Call("projection_simplex", (tree, scale), {}, {}, {}), tree)
    return rebuild(_onto_simplex(leaves, _number(scale, leaves)))


@checked_call
def projection_l1_sphere(tree: Any, scale: NonNegativeNumber = 1) -> Any:
    """Onto ``{p: sum_i |p_i| = scale}``: ``p = sign(x) P_simplex(|x|)``.

    Where several points are nearest, as for zeros, it is the one with non-negative elements in their place (Optax takes
    the sign of zero to be zero, and its point is off the sphere).

    Source: Duchi, Shalev-Shwartz, Singer and Chandra 2008, ICML, "Efficient projections onto the l1-ball", section 4.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_l1_sphere([-0.5, 1.0])]
    [-0.25, 0.75]
    """
    leaves, rebuild = _taken_apart(Call("projection_l1_sphere", (tree, scale), {}, {}, {}), tree)
    return rebuild(_onto_l1_sphere(leaves, _number(scale, leaves)))


@checked_call
def projection_l1_ball(tree: Any, scale: NonNegativeNumber = 1) -> Any:
    """Onto ``{p: sum_i |p_i| <= scale}``: x itself inside, and :func:`projection_l1_sphere` of it outside.

    Source: Duchi, Shalev-Shwartz, Singer and Chandra 2008, ICML, "Efficient projections onto the l1-ball", section 4.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_l1_ball([-4.0, 2.0], 4.0)]
    [-3.0, 1.0]
    """
    leaves, rebuild = _taken_apart(Call("projection_l1_ball", (tree, scale), {}, {}, {}), tree)
    radius = _number(scale, leaves)
    outside = _onto_l1_sphere(leaves, radius)
    is_inside = sum(jnp.sum(jnp.abs(leaf)) for leaf in leaves) <= radius
    return rebuild([jnp.where(is_inside, x, p) for x, p in zip(leaves, outside, strict=True)])


@checked_call
def projection_l2_sphere(tree: Any, scale: NonNegativeNumber = 1) -> Any:
    """Onto ``{p: |p|_2 = scale}``: ``p = scale x / |x|``.

    All points are as near to zeros: of these it takes the one with equal elements, and derivative zero (Optax: NaN).

    >>> from gradtx import projections
    >>> [round(float(p), 4) for p in projections.projection_l2_sphere([1.5e38, -2e38], 5.0)]
    [3.0, -4.0]
    """
    leaves, rebuild = _taken_apart(Call("projection_l2_sphere", (tree, scale), {}, {}, {}), tree)
    radius = _number(scale, leaves)
    return rebuild([radius * leaf for leaf in _direction(leaves)[0]])


@checked_call
def projection_l2_ball(tree: Any, scale: NonNegativeNumber = 1) -> Any:
    """Onto ``{p: |p|_2 <= scale}``: ``p = x min(1, scale / |x|)``.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_l2_ball([3.0, 4.0], 10.0)]
    [3.0, 4.0]
    """
    leaves, rebuild = _taken_apart(Call("projection_l2_ball", (tree, scale), {}, {}, {}), tree)
    radius = _number(scale, leaves)
    units, norm = _direction(leaves)
    return rebuild([jnp.where(norm <= radius, x, radius * unit) for x, unit in zip(leaves, units, strict=True)])


@checked_call
def projection_hyperplane(x: Any, a: Any, b: Number) -> Any:
    """Onto ``{p: <a, p> = b}``: ``p = x - (<a, x> - b) / <a, a> a``.

    ``a`` is a tree like ``x``. With a = 0 there is no such plane, and x is returned.

    Raises:
        StructureError, ShapeError: ``a`` is not like ``x``.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_hyperplane([1.0, 1.0], [2.0, 0.0], -1.0)]
    [-0.5, 1.0]
    """
    call = Call("projection_hyperplane", (x, a, b), {}, {}, {})
    leaves, rebuild = _taken_apart(call, x)
    steps, excess = _along(leaves, _beside(call, a, x), _number(b, leaves))
    del excess
    return rebuild([leaf - step for leaf, step in zip(leaves, steps, strict=True)])


@checked_call
def projection_halfspace(x: Any, a: Any, b: Number) -> Any:
    """Onto ``{p: <a, p> <= b}``: x itself inside, and :func:`projection_hyperplane` of it outside.

    With a = 0 the condition says nothing about p, and x is returned.

    Raises:
        StructureError, ShapeError: ``a`` is not like ``x``.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_halfspace([1.0, 1.0], [2.0, 0.0], 4.0)]
    [1.0, 1.0]
    """
    call = Call("projection_halfspace", (x, a, b), {}, {}, {})
    leaves, rebuild = _taken_apart(call, x)
    steps, excess = _along(leaves, _beside(call, a, x), _number(b, leaves))
    return rebuild([jnp.where(excess <= 0, leaf, leaf - step) for leaf, step in zip(leaves, steps, strict=True)])


def projection_vector(x: Any, a: Any) -> Any:
    """Onto the line ``{t a}``: ``p = <a, x> / <a, a> a``, zeros with a = 0 (Optax: NaN).

    Raises:
        StructureError, ShapeError: ``a`` is not like ``x``.

    >>> from gradtx import projections
    >>> [float(p) for p in projections.projection_vector([3.0, 1.0], [1.0, 1.0])]
    [2.0, 2.0]
    """
    call = Call("projection_vector", (x, a), {}, {}, {})
    leaves, rebuild = _taken_apart(call, x)
    return rebuild(_along(leaves, _beside(call, a, x), _number(0, leaves))[0])


# ---------------------------------------------------------------------------------------------------------------------
# Trees as lists of wide arrays.


def _taken_apart(call: Call, tree: Any) -> tuple[list[jax.Array], Any]:
    """The leaves in float32 or wider, and the function that makes of such leaves a tree like ``tree``."""
    flat, treedef = jax.tree.flatten(tree)
    for index, leaf in enumerate(flat):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise DtypeError(
                call,
                expected="a tree of real floating-point arrays",
                got=jnp.result_type(leaf),
                at=repr(leaf_paths(tree)[index]),
                cause="whole and complex numbers have no nearest point in these sets",
                fix="cast the leaf, or project only the others",
            )
    arrays = [jnp.asarray(leaf) for leaf in flat]
    dtypes = [array.dtype for array in arrays]

    def rebuild(leaves: list[jax.Array]) -> Any:
        return treedef.unflatten([leaf.astype(dtype) for leaf, dtype in zip(leaves, dtypes, strict=True)])

    return [widen(array) for array in arrays], rebuild


def _beside(call: Call, a: Any, x: Any) -> list[jax.Array]:
    """The leaves of ``a``, a tree like ``x``."""
    check_same(call, "a", a, "x", x)
    return _taken_apart(call, a)[0]


def _leafwise(name: str, function: Any, tree: Any) -> Any:
    leaves, rebuild = _taken_apart(Call(name, (tree,), {}, {}, {}), tree)
    return rebuild([function(leaf) for leaf in leaves])


def _in_box(call: Call, tree: Any, lower: Any, upper: Any) -> Any:
    leaves, rebuild = _taken_apart(call, tree)
    lows, highs = broadcast_prefix(lower, tree, call, "lower"), broadcast_prefix(upper, tree, call, "upper")
    found = []
    for index, (x, low, high) in enumerate(zip(leaves, lows, highs, strict=True)):
        low, high = (_bound(call, tree, index, x, bound) for bound in (low, high))
        found.append(jnp.where(x < low, low, jnp.where(x > high, high, x)))
        least, most = as_float(low), as_float(high)
        if least is not None and most is not None and least > most:
            raise ArgumentRangeError(
                call,
                expected="lower bounds that are not above the upper ones",
                got=f"[{least:g}, {most:g}]",
                at=repr(leaf_paths(tree)[index]),
                cause="nothing is in the box",
                fix="exchange the bounds, or raise the upper one",
            )
    return rebuild(found)


def _bound(call: Call, tree: Any, index: int, x: jax.Array, bound: Any) -> jax.Array:
    if isinstance(bound, bool | str) or not jnp.issubdtype(jnp.result_type(bound), jnp.number):
        raise ArgumentTypeError(
            call,
            expected="bounds must be numbers",
            got=show(bound),
            cause="a flag or text was given",
            fix="write lower=-1.0, upper=1.0",
        )
    bound = jnp.asarray(bound, x.dtype)
    if bound.ndim > x.ndim or any(
        n not in (1, size) for n, size in zip(bound.shape[::-1], x.shape[::-1], strict=False)
    ):
        raise ShapeError(
            call,
            expected=f"a bound that broadcasts to its leaf, of shape {x.shape}",
            got=bound.shape,
            at=repr(leaf_paths(tree)[index]),
            cause="the bound belongs to another leaf",
            fix="give a number, or a tree like the first one",
        )
    return bound


# ---------------------------------------------------------------------------------------------------------------------
# The sets, for lists of arrays.


def _number(value: Any, leaves: list[jax.Array]) -> jax.Array:
    return jnp.asarray(value, jnp.result_type(jnp.float32, *leaves))


def _peak(leaves: list[jax.Array]) -> jax.Array:
    """The largest magnitude, a constant for derivatives: what is scaled by it is scaled back."""
    peak = _number(0, leaves)
    for leaf in leaves:
        peak = jnp.maximum(peak, jnp.max(jnp.abs(leaf), initial=0))
    return jax.lax.stop_gradient(peak)


def _divided(x: jax.Array, by: jax.Array) -> jax.Array:
    """``x / by`` for positive ``by``: XLA may multiply by the inverse, and that of 3e38 is flushed to zero."""
    half = jnp.where(by > 1, 0.25, 1).astype(by.dtype)
    return (x * half) / (by * half)


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 1, x)


@jax.jit
def _direction(leaves: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    """``x / |x|`` and ``|x|``; for zeros the unit vector of equal elements, without derivative, and 0."""
    peak = _peak(leaves)
    scaled = [_divided(leaf, _positive(peak)) for leaf in leaves]
    square = sum((jnp.sum(jnp.square(leaf)) for leaf in scaled), _number(0, leaves))
    root = jnp.sqrt(_positive(square))
    level = max(sum(leaf.size for leaf in leaves), 1) ** -0.5
    units = [jnp.where(square == 0, level, leaf / root) for leaf in scaled]
    return units, jnp.where(square == 0, 0, peak * root)


@jax.jit
def _along(leaves: list[jax.Array], a: list[jax.Array], b: jax.Array) -> tuple[list[jax.Array], jax.Array]:
    """``(<a, x> - b) / <a, a> a``, and a number with the sign of ``<a, x> - b``; zeros with a = 0."""
    a_peak = _positive(_peak(a))
    a = [_divided(leaf, a_peak) for leaf in a]
    offset = b / a_peak
    size = _positive(jnp.maximum(_peak(leaves), jax.lax.stop_gradient(jnp.abs(offset))))
    excess = sum(jnp.sum(u * _divided(leaf, size)) for u, leaf in zip(a, leaves, strict=True)) - _divided(offset, size)
    square = sum((jnp.sum(jnp.square(leaf)) for leaf in a), _number(0, leaves))
    share = jnp.where(square == 0, 0, excess / _positive(square))
    return [size * (share * leaf) for leaf in a], share


def _onto_l1_sphere(leaves: list[jax.Array], scale: jax.Array) -> list[jax.Array]:
    signs = [jnp.where(leaf < 0, -1, 1).astype(leaf.dtype) for leaf in leaves]
    sizes = _onto_simplex([sign * leaf for sign, leaf in zip(signs, leaves, strict=True)], scale)
    return [sign * size for sign, size in zip(signs, sizes, strict=True)]


@jax.custom_jvp
def _onto_simplex(leaves: list[jax.Array], scale: jax.Array) -> list[jax.Array]:
    """``max(x - tau, 0)`` of sum ``scale``; elements of -inf are 0."""
    return _above_threshold(leaves, scale) if leaves else []


@jax.jit
def _above_threshold(leaves: list[jax.Array], scale: jax.Array) -> list[jax.Array]:
    top = functools.reduce(jnp.maximum, [jnp.max(leaf, initial=-jnp.inf) for leaf in leaves])
    # In units of the scale, below the largest element: what is lower than -1 is 0 in any case.
    x = [jnp.maximum(_divided(leaf - top, _positive(scale)), -1) for leaf in leaves]

    def newton(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        _, tau, passes = carry
        excess = sum(jnp.sum(jnp.maximum(leaf - tau, 0)) for leaf in x) - 1
        slope = sum(jnp.sum(leaf > tau) for leaf in x)
        return tau, tau + (excess / jnp.maximum(slope, 1)).astype(tau.dtype), passes + 1

    def is_rising(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        last, tau, passes = carry
        return (tau > last) & (passes < 100)

    start = -jnp.ones_like(scale)
    _, tau, _ = jax.lax.while_loop(is_rising, newton, newton((start, start, jnp.zeros((), jnp.int32))))
    return [scale * jnp.maximum(leaf - tau, 0) for leaf in x]


@_onto_simplex.defjvp
def _(primals: Any, tangents: Any) -> tuple[list[jax.Array], list[jax.Array]]:
    """On the support ``dp = dx - mean(dx) + dscale / count``, elsewhere 0."""
    (leaves, scale), (d_leaves, d_scale) = primals, tangents
    projected = _onto_simplex(leaves, scale)
    support = [(leaf > 0).astype(leaf.dtype) for leaf in projected]
    count = jnp.maximum(sum(jnp.sum(kept) for kept in support), 1)
    total = sum(jnp.sum(kept * d_leaf) for kept, d_leaf in zip(support, d_leaves, strict=True))
    level = (d_scale - total) / count
    return projected, [kept * (d_leaf + level) for kept, d_leaf in zip(support, d_leaves, strict=True)]

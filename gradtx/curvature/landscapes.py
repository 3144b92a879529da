"""The loss along a line and on a plane through parameter space: one compiled evaluation for all points."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.combinators.selecting import Where
from gradtx.curvature import vectors
from gradtx.curvature.evaluating import slope, summed, value_of_sum
from gradtx.curvature.loss_form import Loss, carried
from gradtx.curvature.operators import point
from gradtx.tree import check_same, widen

_BETWEEN = (-0.5, 1.5, 41)  # default coefficients between two solutions, which are among them
_ALONG = (-1.0, 1.0, 41)
_ACROSS = (-1.0, 1.0, 21)
_MARGIN = 0.25  # of a plane's extent, on each side of its three solutions
_PARALLEL = 1e-4  # the sine of an angle below which three solutions lie on a line


class LossLine(NamedTuple):
    """The loss along a line; float64 arrays on the host, ``[points]``. NaN and infinity are what the loss returned."""

    alphas: np.ndarray
    losses: np.ndarray
    slopes: np.ndarray | None
    """``dL/d alpha``, where they were asked for."""


class LossPlane(NamedTuple):
    """The loss on a plane, ``losses[j, i]`` at ``(xs[i], ys[j])``; float64 arrays on the host."""

    xs: np.ndarray
    ys: np.ndarray
    losses: np.ndarray


class SolutionPlane(NamedTuple):
    """The plane through three solutions, in the coordinates of an orthonormal basis; see :func:`plane_through`."""

    origin: Any
    """The first solution."""
    directions: tuple[Any, Any]
    """Two orthogonal trees of length 1, like the parameters."""
    points: np.ndarray
    """``[3, 2]``, float64: where the solutions are."""
    xs: np.ndarray
    """Coordinates for a grid that holds all three, with a margin."""
    ys: np.ndarray


@errors.checked_call
def loss_line(
    loss: Loss,
    params: Any,
    batch: Any = None,
    *,
    end: Any = None,
    direction: Any = None,
    alphas: Any = None,
    slopes: bool = False,
    where: Where | None = None,
) -> LossLine:
    """The loss between two solutions, or along a direction::

        L((1 - alpha) params + alpha end)        L(params + alpha direction)

    Both ends are met exactly: at ``alpha = 1`` the loss is that of ``end``. A low line between two solutions connects
    them; a barrier does not mean that no curved path does.

    Args:
        loss: ``loss(params, batch) -> scalar`` or ``(scalar, anything)``, the mean over the batch.
        params: Any tree of real floating-point arrays.
        batch: Any tree of arrays, None, or a :class:`Dataset`.
        end: Another solution, a tree like ``params``; or:
        direction: A tree like ``params``, such as from :func:`filter_normalized`.
        alphas: Where to look, numbers; by default 41 from -0.5 to 1.5 between solutions, from -1 to 1 along a
            direction.
        slopes: Also the derivatives ``dL/d alpha``, for a gradient at each point.
        where: Which leaves vary, by path; the others are those of ``params``.

    Raises:
        ArgumentTypeError: Neither or both of ``end`` and ``direction``, or ``alphas`` are no numbers.
        ArgumentRangeError: The solutions are equal, the direction is zero, or there is no point to look at.
        StructureError, ShapeError: ``end`` or ``direction`` is not like ``params``.
        LossFormError, DtypeError, SelectionError, BatchError: See :func:`classify`.

    Source: Goodfellow et al. 2015, arXiv:1412.6544, section 2; between batch sizes: Keskar et al. 2017,
    arXiv:1609.04836, section 2.2.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> loss = lambda w, batch: (w**2 - 1) ** 2
    >>> curvature.loss_line(loss, jnp.array(-1.0), end=jnp.array(1.0), alphas=[0, 0.5, 1]).losses.tolist()
    [0.0, 1.0, 0.0]
    """
    call = f"loss_line({errors.show(loss)}, params, batch)"
    if (end is None) == (direction is None):
        raise errors.ArgumentTypeError(
            call,
            expected="either end or direction",
            got="neither" if end is None else "both",
            cause="a line goes to another solution, or along a direction",
            fix="write end=other_params, or direction=curvature.random_direction(key, params)",
        )
    function, at = carried(call, loss), point(call, params, batch, where)
    wide = tuple(map(widen, at.chosen))
    if end is not None:
        other = at.vector("end", end)
        terms, along = (wide, other), vectors.combine([-1.0, 1.0], [wide, other])
        grid = _coefficients(call, "alphas", alphas, _BETWEEN)
        weights = [(1 - alpha, alpha) for alpha in grid]
    else:
        along = at.vector("direction", direction)
        terms = (wide, along)
        grid = _coefficients(call, "alphas", alphas, _ALONG)
        weights = [(1.0, alpha) for alpha in grid]
    if vectors.norm(along) == 0:
        raise errors.ArgumentRangeError(
            call,
            expected="two different solutions" if end is not None else "a direction that is not zero",
            got="equal ones" if end is not None else "zero",
            cause="training updates the parameters in a new tree, and the old one was given twice"
            if end is not None
            else "where leaves out the leaves in which it is not zero, or biases were normalized alone",
            fix="give another solution" if end is not None else "write direction=random_direction(key, params)",
        )
    if not slopes:
        return LossLine(grid, np.array([value_of_sum(function, at, terms, pair) for pair in weights]), None)
    found = [slope(function, at.moved(summed(at, terms, pair))) for pair in weights]
    down = np.array([vectors.dot(one.gradient, along) for one in found])
    return LossLine(grid, np.array([one.value for one in found]), down)


@errors.checked_call
def loss_plane(
    loss: Loss,
    params: Any,
    batch: Any = None,
    *,
    directions: Any,
    xs: Any = None,
    ys: Any = None,
    where: Where | None = None,
) -> LossPlane:
    """The loss on a grid, ``losses[j, i] = L(params + xs[i] u + ys[j] v)``.

    One program is compiled, and called for each point of the grid and each batch.

    Args:
        loss, params, batch, where: As in :func:`loss_line`.
        directions: The pair ``(u, v)`` of trees like ``params``.
        xs, ys: Coordinates, numbers; by default 21 from -1 to 1.

    Raises:
        ArgumentTypeError: ``directions`` is no pair, or coordinates are no numbers.
        ArgumentRangeError: A direction is zero, or there is no point to look at.
        StructureError, ShapeError: A direction is not like ``params``.
        LossFormError, DtypeError, SelectionError, BatchError: See :func:`classify`.

    Source: Li et al. 2018, arXiv:1712.09913, equation 1.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> plane = curvature.loss_plane(lambda w, batch: w[0] ** 2 - w[1] ** 2, jnp.zeros(2),
    ...                              directions=(jnp.array([1.0, 0]), jnp.array([0, 1.0])), xs=[0, 1, 2], ys=[0, 1])
    >>> plane.losses.tolist()
    [[0.0, 1.0, 4.0], [-1.0, 0.0, 3.0]]
    """
    call = f"loss_plane({errors.show(loss)}, params, batch)"
    if not isinstance(directions, tuple | list) or len(directions) != 2:
        raise errors.ArgumentTypeError(
            call,
            expected="directions must be a pair of trees like the parameters",
            got=f"{type(directions).__name__} {errors.show(directions)}",
            cause="a plane has two directions",
            fix="write directions=(u, v)",
        )
    function, at = carried(call, loss), point(call, params, batch, where)
    pair = [at.vector(f"directions[{index}]", one) for index, one in enumerate(directions)]
    for index, one in enumerate(pair):
        if vectors.norm(one) == 0:
            raise errors.ArgumentRangeError(
                call,
                expected="two directions that are not zero",
                got=f"directions[{index}] of zeros",
                cause="where leaves out the leaves in which it is not zero, or biases were normalized alone",
                fix="write random_direction(key, params)",
            )
    across, up = _coefficients(call, "xs", xs, _ACROSS), _coefficients(call, "ys", ys, _ACROSS)
    terms = (tuple(map(widen, at.chosen)), *pair)
    losses = [[value_of_sum(function, at, terms, (1.0, x, y)) for x in across] for y in up]
    return LossPlane(across, up, np.array(losses))


@errors.checked_call
def plane_through(a: Any, b: Any, c: Any, *, where: Where | None = None) -> SolutionPlane:
    """The plane through three solutions, with an orthonormal basis::

        u = (b - a) / |b - a|,    v = r / |r|,    r = (c - a) - <c - a, u> u

    so that ``a`` is at (0, 0), ``b`` at ``(|b - a|, 0)`` and ``c`` at ``(<c - a, u>, |r|)``. Give what comes out to
    :func:`loss_plane`::

        plane = plane_through(a, b, c)
        losses = loss_plane(loss, plane.origin, batch, directions=plane.directions, xs=plane.xs, ys=plane.ys)
        plot_plane(losses, points={"a": plane.points[0], "b": plane.points[1], "c": plane.points[2]})

    Args:
        a, b, c: Trees of one structure.
        where: Which leaves count, by path; the others are those of ``a``.

    Raises:
        ArgumentRangeError: Two solutions are equal, or all three lie on a line.
        StructureError, ShapeError: The trees differ.

    Source: Garipov et al. 2018, arXiv:1802.10026, on how the planes of its figures are spanned.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> plane = curvature.plane_through(jnp.array([1.0, 1.0]), jnp.array([3.0, 1.0]), jnp.array([2.0, 4.0]))
    >>> plane.points.round(4).tolist()
    [[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]]
    """
    call = "plane_through(a, b, c)"
    at = point(call, a, None, where)
    first = tuple(map(widen, at.chosen))
    to_b, to_c = (vectors.combine([1.0, -1.0], [at.vector(name, tree), first]) for name, tree in (("b", b), ("c", c)))
    far, other = vectors.norm(to_b), vectors.norm(to_c)
    if not far or not other:
        raise _no_plane(call, f"{'b' if not far else 'c'} equal to a", "one solution was given twice")
    u = vectors.combine([1 / far], [to_b])
    rest = vectors.project_out(to_c, [u])
    high = vectors.norm(rest)
    if high <= _PARALLEL * other:
        raise _no_plane(call, "three on one line", "two are equal, or one is a mean of the others")
    along = vectors.dot(to_c, u)
    points = np.array([[0.0, 0.0], [far, 0.0], [along, high]])
    v = vectors.combine([1 / high], [rest])
    xs, ys = (_covering(points[:, axis]) for axis in (0, 1))
    return SolutionPlane(a, (at.tree(u), at.tree(v)), points, xs, ys)


def random_direction(key: Any, params: Any) -> Any:
    """A tree like the parameters of independent standard normal numbers, float32 or wider; zero for integers.

    Args:
        key: A random key.
        params: Any tree of arrays.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> curvature.random_direction(jax.random.key(0), {"w": jnp.ones((2, 3), jnp.bfloat16)})["w"].dtype
    dtype('float32')
    """
    call = "random_direction(key, params)"
    real = jax.tree.map(lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating), params)
    at = point(call, params, None, real)
    return at.tree(vectors.random(vectors.check_key(call, key), at.chosen))


def filter_normalized(direction: Any, params: Any, *, axis: int = -1) -> Any:
    """A direction in which each filter is as long as that of the parameters, ``d_j <- d_j |w_j| / |d_j|``.

    A filter is what makes one output: a slice of a kernel along its axis of outputs, the last one in JAX's layouts.
    Leaves of one axis or none (biases, scales of a normalization) get zero, as they do in the paper. Then a step of 1
    changes each filter by its own length, and networks that differ by rescaled layers show the same picture.

    Args:
        direction: A tree like ``params``, such as :func:`random_direction`.
        params: Any tree of arrays.
        axis: The axis of outputs; 0 where kernels are ``[out, in, ...]``.

    Returns:
        A tree like ``params``, float32 or wider. Filters of zeros in either tree are zeros.

    Raises:
        StructureError, ShapeError: ``direction`` is not like ``params``.
        ArgumentRangeError: A kernel has no such axis.

    Source: Li et al. 2018, arXiv:1712.09913, section 4.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> params = {"kernel": jnp.array([[3.0, 0.5], [4.0, 0.0]]), "bias": jnp.ones(2)}
    >>> direction = {"kernel": jnp.array([[1.0, 0.0], [0.0, 2.0]]), "bias": jnp.ones(2)}
    >>> found = curvature.filter_normalized(direction, params)
    >>> found["kernel"].round(4).tolist(), found["bias"].tolist()
    ([[5.0, 0.0], [0.0, 0.5]], [0.0, 0.0])
    """
    call = f"filter_normalized(direction, params, axis={axis})"
    check_same(call, "direction", direction, "params", params)
    least = min((jnp.ndim(leaf) for leaf in jax.tree.leaves(params) if jnp.ndim(leaf) > 1), default=0)
    if least and not -least <= axis < least:
        raise errors.ArgumentRangeError(
            call,
            expected=f"an axis that every kernel has, from {-least} to {least - 1}",
            got=str(axis),
            cause="the axis of outputs is the last one in JAX's layouts, the first in PyTorch's",
            fix="write axis=-1",
        )

    def one(d: Any, w: Any) -> jax.Array:
        w = widen(jnp.asarray(w))
        if w.ndim < 2 or not jnp.issubdtype(w.dtype, jnp.floating):
            return jnp.zeros(w.shape, jnp.promote_types(w.dtype, jnp.float32))
        others = tuple(index for index in range(w.ndim) if index != axis % w.ndim)
        (unit_w, large_w), (unit_d, _) = _shape_and_size(w, others), _shape_and_size(widen(jnp.asarray(d)), others)
        length = jnp.sqrt(jnp.sum(unit_d**2, others, keepdims=True))
        share = unit_d / jnp.where(length > 0, length, 1)
        return share * jnp.sqrt(jnp.sum(unit_w**2, others, keepdims=True)) * large_w

    return jax.tree.map(one, direction, params)


def _shape_and_size(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """``x`` over its largest entry, whose square neither overflows nor vanishes, and that entry."""
    large = jnp.max(jnp.abs(x), axes, keepdims=True, initial=0.0)
    root = jax.lax.rsqrt(jnp.where(large > 0, large, 1))  # 1 / large is subnormal above 8.5e37, and becomes zero
    return x * root * root, large


def _coefficients(call: str, name: str, given: Any, default: tuple[float, float, int]) -> np.ndarray:
    if given is None:
        return np.linspace(*default)
    try:
        numbers = np.atleast_1d(np.asarray(given, np.float64))
    except (TypeError, ValueError):
        numbers = None
    if numbers is None or numbers.ndim != 1:
        raise errors.ArgumentTypeError(
            call,
            expected=f"{name} must be a list of numbers",
            got=f"{type(given).__name__} {errors.show(given)}",
            cause="a number of points was meant, or another argument",
            fix=f"write {name}=numpy.linspace(-1, 1, 41)",
        )
    if not numbers.size or not np.all(np.isfinite(numbers)):
        raise errors.ArgumentRangeError(
            call,
            expected=f"{name} of at least one number, all finite",
            got=f"{numbers.size} numbers" if not numbers.size else f"{numbers[~np.isfinite(numbers)][0]:g}",
            cause="there is nothing to look at",
            fix=f"write {name}=numpy.linspace(-1, 1, 41)",
        )
    return numbers


def _no_plane(call: str, got: str, cause: str) -> errors.ArgumentRangeError:
    return errors.ArgumentRangeError(
        call, expected="three solutions that span a plane", got=got, cause=cause, fix="give a third solution"
    )


def _covering(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    margin = _MARGIN * (high - low)
    return np.linspace(low - margin, high + margin, 25)

"""Functions of matrices: the largest eigenvalue, inverse roots, and least squares without negative numbers."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import (
    ArgumentTypeError,
    Call,
    Count,
    DtypeError,
    NonNegativeNumber,
    ShapeError,
    checked_call,
    show,
)

_HIGHEST = jax.lax.Precision.HIGHEST


@checked_call
def power_iteration(
    matrix: Any,
    *,
    v0: Any = None,
    num_iters: Count = 100,
    error_tolerance: NonNegativeNumber = 1e-6,
    precision: jax.lax.Precision = _HIGHEST,
    key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
    """The eigenvalue of largest magnitude of a symmetric matrix A, and its vector, of norm 1::

        v <- A v / |A v|   until |A v - theta v| <= error_tolerance |theta|,   theta = <v, A v>

    Args:
        matrix: A, real and symmetric, ``[n, n]``; or a function ``v -> A v`` of vectors or trees like ``v0``.
        v0: Where it starts, ``[n]`` or a tree; needed for a function. Random where None.
        num_iters: The most products with A.
        error_tolerance: The residual that is small enough. Some eigenvalue is within it, relatively, of theta.
        precision: Of the matrix product.
        key: For the random start; ``jax.random.key(0)`` where None.

    Returns:
        ``(theta, v)``, in float32 or wider. For zeros, 0 and a vector of norm 1. Where two eigenvalues of opposite
        signs have the largest magnitude, there is no limit, and theta is between them. Both ends are found by
        :func:`gradtx.curvature.extreme_eigenvalues` in far fewer products, with bounds of their errors.

    Vectors and matrices of any finite size are scaled first (Optax gives NaN from 1e19, and below 1e-19).

    Source: von Mises and Pollaczek-Geiringer 1929, ZAMM 9(2); Golub and Van Loan, Matrix Computations, section 8.2.1.

    Raises:
        ShapeError: A matrix that is not square, ``v0`` of another length.
        DtypeError: A matrix or ``v0`` that is not floating.
        ArgumentTypeError: A function without ``v0``.

    >>> import jax.numpy as jnp
    >>> from gradtx import linalg
    >>> value, vector = linalg.power_iteration(jnp.diag(jnp.array([1.0, -3.0])))
    >>> round(float(value), 4), jnp.abs(vector).round().tolist()
    (-3.0, [0.0, 1.0])
    """
    call = Call("power_iteration", (matrix,), {} if v0 is None else {"v0": v0}, {}, {})
    if callable(matrix):
        if v0 is None:
            raise ArgumentTypeError(
                call, expected="a start v0 for a function", got="none",
                cause="its vectors have a shape that only the caller knows", fix="write v0=params",
            )  # fmt: skip
        apply, unit = matrix, jnp.ones(())
    else:
        a = _square_matrix(call, matrix)
        unit = _positive(jnp.max(jnp.abs(a), initial=0))
        a = _scaled(a, unit)

        def apply(v: Any) -> Any:
            return jnp.matmul(a, v, precision=precision)

        if v0 is None:
            v0 = jax.random.normal(jax.random.key(0) if key is None else key, a.shape[:1], a.dtype)
        if jnp.shape(v0) != a.shape[:1]:
            raise ShapeError(
                call, expected=f"v0 of shape {a.shape[:1]}", got=jnp.shape(v0), cause="it starts another matrix's",
                fix="leave v0 out",
            )  # fmt: skip
    for leaf in jax.tree.leaves(v0):
        _floating(call, "v0", leaf)
    start = _unit_vector(jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.promote_types(leaf.dtype, jnp.float32)), v0))

    def step(carry: Any) -> Any:
        v, _, _, count = carry
        image = jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), apply(v), v)
        theta = _vdot(v, image)
        residual = _norm(jax.tree.map(lambda x, y: x - theta * y, image, v))
        new = _unit_vector(image)
        return jax.tree.map(lambda x, y: jnp.where(_norm(image) == 0, y, x), new, v), theta, residual, count + 1

    def goes_on(carry: Any) -> Any:
        _, theta, residual, count = carry
        return (count < num_iters) & ~(residual <= error_tolerance * jnp.abs(theta))

    zero = _vdot(start, start) * 0
    v, theta, _, _ = jax.lax.while_loop(goes_on, step, (start, zero, zero + jnp.inf, jnp.zeros((), jnp.int32)))
    return unit * theta, v


@checked_call
def matrix_inverse_pth_root(
    matrix: jax.typing.ArrayLike,
    p: Count,
    *,
    ridge_epsilon: NonNegativeNumber = 1e-6,
) -> tuple[jax.Array, jax.Array]:
    """``A^(-1/p)`` of a symmetric positive semidefinite matrix, by its eigenvalues::

        A = Q diag(w) Q^T,   m = max w,   X = Q diag((max(w, 0) + ridge_epsilon m)^(-1/p)) Q^T

    Args:
        matrix: A, real, symmetric, ``[..., n, n]``, computed in float32 or wider.
        p: Which root, a whole number of at least 1.
        ridge_epsilon: What is added to each eigenvalue, in units of the largest; it bounds the condition by its
            inverse. With 0, eigenvalues below ``n eps m``, which are rounding errors, are taken for that.

    Returns:
        ``(X, error)``: X in the dtype of A, and the largest element of ``|X^p (A + ridge) - 1|``, relative to the
        condition. Zeros have root 0: there is no direction to scale.

    The error of X is at most ``8 n eps c / p`` of ``|X|`` with the condition c (up to 1e6): eigenvalues come with
    absolute errors of ``n eps m``, and the smallest count most. Optax's coupled Newton iteration has the same bound,
    and takes twenty to a hundred products where this takes one decomposition; it stops early where its error grows.

    Source: Higham 2008, Functions of Matrices, definition 1.2 and section 7.6; Gupta, Koren and Singer 2018,
    arXiv:1802.09568, algorithm 1 for its use.

    Raises:
        ShapeError: A matrix that is not square.
        DtypeError: A matrix that is not floating.

    >>> import jax.numpy as jnp
    >>> from gradtx import linalg
    >>> root, _ = linalg.matrix_inverse_pth_root(jnp.diag(jnp.array([1.0, 16.0])), 4, ridge_epsilon=0.0)
    >>> jnp.diag(root).round(3).tolist()
    [1.0, 0.5]
    """
    call = Call("matrix_inverse_pth_root", (matrix, p), {}, {}, {})
    a = _square_matrix(call, matrix)
    dtype, eps = jnp.asarray(matrix).dtype, float(jnp.finfo(a.dtype).eps)
    unit = _positive(jnp.max(jnp.abs(a), (-2, -1), keepdims=True, initial=0))
    b = _scaled(a, unit)
    w, q = jnp.linalg.eigh(0.5 * (b + jnp.swapaxes(b, -1, -2)))
    largest = jnp.max(w, -1, keepdims=True, initial=0)
    ridge = ridge_epsilon if ridge_epsilon > 0 else 0.0
    damped = jnp.maximum(w, 0 if ridge else a.shape[-1] * eps * largest) + ridge * largest
    power = jnp.where(damped > 0, jnp.where(damped > 0, damped, 1) ** (-1 / p), 0)
    x = jnp.einsum("...ij,...j,...kj->...ik", q, power, q, precision=_HIGHEST)
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    back = b + ridge * largest[..., None] * eye
    for _ in range(p):
        back = jnp.matmul(x, back, precision=_HIGHEST)
    smallest = jnp.min(damped, -1, initial=jnp.inf)
    error = jnp.max(jnp.abs(back - eye), (-2, -1), initial=0) * jnp.where(
        largest[..., 0] > 0, smallest / _positive(largest[..., 0]), 0
    )
    return (unit ** (-1 / p) * x).astype(dtype), error


@checked_call
def nnls(A: jax.typing.ArrayLike, b: jax.typing.ArrayLike, iters: Count | None = None) -> jax.Array:
    """The x without negative elements whose ``|A x - b|_2`` is smallest, by an active set::

        P = {}
        repeat:  z = argmin |A z - b| with z_j = 0 outside of P
                 all z_j > 0 on P:  x = z,  w = A^T (b - A x),  P gains the j outside of it with the largest w_j > 0
                 else:  x <- x + a (z - x) with the largest a that leaves x >= 0;  P loses the j with x_j = 0

    It ends where no ``w_j`` is above 0 by more than rounding. With ``w_j = 0`` on P, these are the conditions of Kuhn
    and Tucker, and the problem is convex. Every accepted x has a smaller residual than the one before, so but for
    rounding no P comes twice. Columns are scaled to norm 1 first; z is from a QR decomposition, not from ``A^T A``.

    Args:
        A: Real, ``[m, n]``, of any rank. Where several x are nearest, the result is one of them.
        b: Real, ``[m]``, or ``[m, k]`` for k problems.
        iters: The most z that are computed, 5 (n + 1) where None; rarely are more than 2 n needed. Where they do not
            suffice, the result is the last accepted x. (Optax: the number of its gradient steps.)

    Returns:
        x, ``[n]`` or ``[n, k]``, in float32 or wider; NaN for a problem that has NaN or infinities. Derivatives are
        those of the least squares on P, of either mode.

    As of any solver in that dtype, the residual of a matrix with a condition near 1 / eps is not the smallest.
    A decomposition of ``[2 n, n]`` for each z: meant for up to some hundred columns. One of A is taken at the start.

    Source: Lawson and Hanson 1974, Solving Least Squares Problems, chapter 23, algorithm NNLS (23.10).

    Raises:
        ShapeError: A that is no matrix, b of another length.
        DtypeError: A or b that is not floating.
        ArgumentRangeError: ``iters`` below 1.

    >>> import jax.numpy as jnp
    >>> from gradtx import linalg
    >>> found = linalg.nnls(jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([5.0, 6.0]))
    >>> [round(x, 4) for x in found.tolist()]
    [0.0, 1.7]
    """
    call = Call("nnls", (A, b), {} if iters is None else {"iters": iters}, {}, {})
    _floating(call, "A", A)
    _floating(call, "b", b)
    if jnp.ndim(A) != 2:
        raise ShapeError(
            call, expected="a matrix A", got=jnp.shape(A), cause="several were given",
            fix="write jax.vmap(linalg.nnls)(A, b)",
        )  # fmt: skip
    m, n = jnp.shape(A)
    if jnp.ndim(b) not in (1, 2) or jnp.shape(b)[0] != m:
        raise ShapeError(
            call, expected=f"b of shape {(m,)} or {(m, 'k')}", got=jnp.shape(b),
            cause="it needs one number for each row of A", fix="write nnls(A, A @ x)",
        )  # fmt: skip
    dtype = jnp.promote_types(jnp.result_type(A, b), jnp.float32)
    if not (jnp.size(A) and jnp.size(b)):
        return jnp.zeros((n, *jnp.shape(b)[1:]), dtype)
    a, targets = jnp.asarray(A, dtype), jnp.asarray(b, dtype).reshape(m, -1)
    widths, heights = (jax.lax.stop_gradient(_positive(jnp.max(jnp.abs(each), 0))) for each in (a, targets))
    a, targets = _scaled(a, widths), _scaled(targets, heights)
    norms = jax.lax.stop_gradient(_positive(jnp.sqrt(jnp.sum(a * a, 0))))
    a = a / norms
    q, triangle = jnp.linalg.qr(jax.lax.stop_gradient(a))
    reduced = _product(q.T, jax.lax.stop_gradient(targets))
    limit = 5 * (n + 1) if iters is None else iters

    def solved(target: jax.Array, reduced: jax.Array) -> jax.Array:
        noise = 2 * jnp.finfo(dtype).eps * jnp.linalg.norm(jax.lax.stop_gradient(target))
        y = jnp.maximum(_least_squares(a, target, _passive_set(triangle, reduced, noise, limit)), 0)
        return jnp.where(jnp.any(jnp.isnan(jax.lax.stop_gradient(_product(a, y) - target))), jnp.nan, y)

    y = jax.vmap(solved, -1, -1)(targets, reduced)
    size = _scaled(heights, widths[:, None])
    return jnp.where(y == 0, 0, y / norms[:, None] * jnp.where(y == 0, 1, size)).reshape(n, *jnp.shape(b)[1:])


def safe_norm(
    x: jax.typing.ArrayLike,
    min_norm: jax.typing.ArrayLike,
    ord: int | float | str | None = None,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> jax.Array:
    """``max(|x|, min_norm)``, whose gradient is 0 where it is ``min_norm``: finite for zeros, also with ``min_norm=0``.

    ``ord``, ``axis`` and ``keepdims`` are those of ``jnp.linalg.norm``. The result is float32 or wider, and finite for
    every x whose norm is: x is scaled by its largest element first (Optax's is inf from 2e19).

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import linalg
    >>> float(linalg.safe_norm(jnp.array([3.0, 4.0]), 1.0)), jax.grad(linalg.safe_norm)(jnp.zeros(2), 0.0).tolist()
    (5.0, [0.0, 0.0])
    """
    wide = jnp.asarray(x, jnp.promote_types(jnp.result_type(x), jnp.float32))
    peak = _positive(jax.lax.stop_gradient(jnp.max(jnp.abs(wide), axis, keepdims=True, initial=0)))
    unit = _scaled(wide, peak)
    is_small = peak * jnp.linalg.norm(unit, ord, axis, keepdims=True) <= min_norm
    norm = peak * jnp.linalg.norm(jnp.where(is_small, 1, unit), ord, axis, keepdims=True)
    norm = jnp.where(is_small, min_norm, norm)
    return norm if keepdims else jnp.squeeze(norm, axis)


def safe_root_mean_squares(x: jax.typing.ArrayLike, min_rms: jax.typing.ArrayLike) -> jax.Array:
    """``max(sqrt(mean |x|^2), min_rms)``, whose gradient is 0 where it is ``min_rms``; as finite as :func:`safe_norm`.

    >>> import jax.numpy as jnp
    >>> from gradtx import linalg
    >>> float(linalg.safe_root_mean_squares(jnp.array([7.0, 1.0]), 1e-3))
    5.0
    """
    root = max(jnp.size(x), 1) ** 0.5
    return safe_norm(jnp.ravel(jnp.asarray(x)), min_rms * root) / root


def _passive_set(a: jax.Array, b: jax.Array, noise: jax.Array, limit: int) -> jax.Array:
    """Which elements of the solution of ``nnls`` are above zero, for columns of norm 1 or 0 and rounding in b."""
    n, tiny = a.shape[1], jnp.finfo(a.dtype).tiny
    nothing = jnp.zeros(n, bool)

    def step(carry: Any) -> Any:
        y, passive, accepted, entering, refused, _, count = carry
        z = _least_squares(a, b, passive)
        inside = jnp.all(jnp.where(passive, z > 0, True))
        # Inside: accept z. Where the set is that of the last time, what entered has left again: it was rounding.
        barred = jnp.where(jnp.all(passive == accepted), refused | entering, nothing)
        slope = _product(a.T, b - _product(a, z))
        candidates = jnp.where(passive | barred, -jnp.inf, slope)
        rounding = noise + 2 * jnp.max(jnp.where(passive, jnp.abs(slope), 0))  # on the set, a slope is nothing else
        found = (jnp.arange(n) == jnp.argmax(candidates)) & (candidates > rounding)
        # Outside: go as far as the first element that becomes zero.
        share = jnp.where(passive & (z <= 0), y / jnp.maximum(y - z, tiny), jnp.inf)
        kept = passive & (share > jnp.min(share))
        back = jnp.where(kept, jnp.maximum(y + jnp.min(share) * (z - y), 0), 0)
        accept = (z, passive | found, passive, found, barred, ~jnp.any(found))
        turn = (back, kept, accepted, entering, refused, jnp.zeros((), bool))
        return *(jnp.where(inside, x, y) for x, y in zip(accept, turn, strict=True)), count + 1

    def goes_on(carry: Any) -> Any:
        return ~carry[-2] & (carry[-1] < limit)

    start = (jnp.zeros_like(a[0]), nothing, nothing, nothing, nothing, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(goes_on, step, start)[2]


def _least_squares(a: jax.Array, b: jax.Array, passive: jax.Array) -> jax.Array:
    """``argmin |a z - b|`` with zeros outside of ``passive``: rows ``z_j = 0`` make the matrix one of full rank."""
    n = a.shape[1]
    rows = jnp.concatenate([jnp.where(passive, a, 0), jnp.diag((~passive).astype(a.dtype))])
    q, r = jnp.linalg.qr(rows)
    z = jax.scipy.linalg.solve_triangular(r, _product(q.T, jnp.concatenate([b, jnp.zeros(n, b.dtype)])))
    return jnp.where(passive, z, 0)


def _product(a: jax.Array, v: jax.Array) -> jax.Array:
    return jnp.matmul(a, v, precision=_HIGHEST)


def _square_matrix(call: Call, matrix: Any) -> jax.Array:
    _floating(call, "matrix", matrix)
    a = jnp.asarray(matrix)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2]:
        raise ShapeError(
            call, expected="a square matrix", got=a.shape, cause="a gradient was given in place of its products",
            fix="write g @ g.T",
        )  # fmt: skip
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def _floating(call: Call, name: str, x: Any) -> None:
    if not hasattr(x, "dtype") or not jnp.issubdtype(x.dtype, jnp.floating):
        raise DtypeError(
            call, expected=f"{name} must be real and floating", got=getattr(x, "dtype", show(x)),
            cause="whole or complex numbers were given", fix=f"write {name}.astype(jnp.float32)",
        )  # fmt: skip


def _scaled(a: jax.Array, unit: jax.Array) -> jax.Array:
    """``a / unit``: XLA may multiply by the inverse, and that of 3e38 is flushed to zero."""
    half = jnp.where(unit > 1, 0.25, 1).astype(unit.dtype)
    return (a * half) / (unit * half)


def _positive(x: jax.Array) -> jax.Array:
    return jnp.where(x == 0, 1, x)


def _vdot(x: Any, y: Any) -> jax.Array:
    return sum(jnp.sum(a * b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True))  # pyright: ignore[reportReturnType]


def _norm(x: Any) -> jax.Array:
    peak = _peak(x)
    return peak * jnp.sqrt(_vdot(*[jax.tree.map(lambda leaf: _scaled(leaf, _positive(peak)), x)] * 2))


def _peak(x: Any) -> jax.Array:
    return jnp.max(jnp.stack([jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(x)]))


def _unit_vector(x: Any) -> Any:
    peak = _positive(_peak(x))
    scaled = jax.tree.map(lambda leaf: _scaled(leaf, peak), x)
    size = _positive(jnp.sqrt(_vdot(scaled, scaled)))
    return jax.tree.map(lambda leaf: leaf / size, scaled)

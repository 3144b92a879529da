"""Functions of matrices: the largest eigenvalue, and inverse roots."""

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

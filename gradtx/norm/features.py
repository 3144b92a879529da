"""Feature normalization: every feature with mean zero and deviation one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gradtx import errors
from gradtx.norm.statistics import deviations, own_axes
from gradtx.tree import describe_leaf, is_array


class FeatureStatistics(NamedTuple):
    """What :func:`standardize` subtracts and divides by, per feature; float32, or float64 if found by NumPy.

    ``mean`` is a float32 number either way, and ``mean_error`` the small rest that the exact mean has beyond it.
    """

    mean: Any
    mean_error: Any
    deviation: Any


def feature_statistics(x: Any, axes: int | Sequence[int] = 0) -> FeatureStatistics:
    """Mean and standard deviation of each feature, over the examples::

        m = 1/n sum x        s = sqrt(1/n sum (x - m)^2)

    Args:
        x: The training set, real numbers, examples first; a NumPy array (computed by NumPy in float64) or a JAX array.
        axes: What to average over. ``axes=(0, 1, 2)`` gives images [n, height, width, channel] one number per channel.

    Returns:
        Statistics that broadcast against x, for :func:`standardize`: fit on the training set, apply to all sets.

    Raises:
        DtypeError: x is no array of real numbers.
        ArgumentRangeError: x has no such axis.
        ShapeError: There is no example.

    >>> import numpy as np
    >>> from gradtx import norm
    >>> statistics = norm.feature_statistics(np.array([[20.0, 3e4, 1.0], [40.0, 5e4, 1.0]]))
    >>> norm.standardize(np.array([[50.0, 4e4, 1.0]]), statistics).tolist()
    [[2.0, 0.0, 0.0]]
    """
    x = _real("feature_statistics", x)
    call = f"feature_statistics({errors.show(x)}, axes={axes})"
    axes = own_axes(call, "axes", axes if isinstance(axes, Sequence) else (axes,), x.ndim)
    if 0 in (x.shape[axis] for axis in axes):
        raise errors.ShapeError(
            call,
            expected="at least one example",
            got=f"none in x of shape {x.shape}",
            cause="the training set is empty",
            fix="look at what was selected from it",
        )
    if isinstance(x, np.ndarray):
        first = x[tuple(slice(1) if axis in axes else slice(None) for axis in range(x.ndim))].astype(np.float64)
        d = x - first
        offset = d.mean(axes, keepdims=True)
        deviation = np.sqrt(np.square(d - offset).mean(axes, keepdims=True))
        largest = np.finfo(np.float32).max
        mean = np.clip(first + offset, -largest, largest).astype(np.float32).astype(np.float64)
        return FeatureStatistics(mean, (first - mean) + offset, deviation)
    found = deviations(x, axes)
    mean = found.pivot + found.mean
    return FeatureStatistics(mean, (found.pivot - mean) + found.mean, jnp.sqrt(found.variance))


def standardize(x: Any, statistics: FeatureStatistics) -> Any:
    """Feature normalization (z-score) ``(x - m) / s``, and zero for a feature that was constant in the training set.

    Args:
        x: Any set with the features of the training set, a NumPy or a JAX array.
        statistics: Of the training set, by :func:`feature_statistics`.

    Returns:
        An array like x: of NumPy or of JAX, in the dtype of x (float32 for whole numbers).

    Features that lie a million deviations from zero are as exact as others: with statistics from JAX in float32, and
    with those from NumPy in JAX too.

    Raises:
        DtypeError: x is no array of real numbers.
        ShapeError: The features are not those of the training set.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> x = jnp.array([[1e6], [1e6 + 2]])
    >>> norm.standardize(x, norm.feature_statistics(x)).tolist()
    [[-1.0], [1.0]]
    """
    x = _real("standardize", x)
    like = np.shape(statistics.mean)
    if len(like) != x.ndim or any(n not in (1, length) for n, length in zip(like, x.shape, strict=True)):
        raise errors.ShapeError(
            f"standardize({errors.show(x)}, statistics)",
            expected=f"x must have the features of the training set, whose statistics have shape {like}",
            got=f"shape {x.shape}",
            cause="one example needs a batch axis, or the columns differ",
            fix="write x[None] for one example",
        )
    numpy = np if isinstance(x, np.ndarray) else jnp
    dtype = x.dtype if _floating(x) else np.dtype(np.float32)
    wide = np.dtype(np.float64) if numpy is np else jnp.promote_types(dtype, jnp.float32)
    mean, mean_error, deviation = (numpy.asarray(leaf, wide) for leaf in statistics)
    varies = deviation > 0
    z = (x.astype(wide) - mean - mean_error) / numpy.where(varies, deviation, 1)
    return numpy.where(varies, z, 0).astype(dtype)


def _real(call: str, x: Any) -> Any:
    """x, in JAX as a floating array; raises unless it is an array of real numbers."""
    if not is_array(x) or not (x.dtype == bool or jnp.issubdtype(x.dtype, jnp.integer) or _floating(x)):
        raise errors.DtypeError(
            call,
            expected="x must be an array of real numbers",
            got=describe_leaf(x),
            cause="names and categories have no mean",
            fix="write np.asarray(x, np.float32), or encode the categories first",
        )
    if isinstance(x, np.ndarray):
        return x
    x = jnp.asarray(x)
    return x if _floating(x) else x.astype(jnp.float32)


def _floating(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)

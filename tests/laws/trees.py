"""The small trees that the laws run on, and how they are compared."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

SHAPES = {"w": (3, 2), "b": (2,), "s": ()}


def params(dtype: Any = jnp.float32) -> dict[str, jax.Array]:
    values = {name: np.cos(1.0 + np.arange(np.prod(shape, dtype=int)).reshape(shape)) for name, shape in SHAPES.items()}
    return {name: jnp.asarray(value, dtype) for name, value in values.items()}


def gradients(dtype: Any = jnp.float32, seed: int = 0, domain: str = "any") -> dict[str, jax.Array]:
    random = np.random.default_rng(seed)
    drawn = {name: random.normal(size=shape) for name, shape in SHAPES.items()}
    return {name: jnp.asarray(np.abs(x) if domain == "non-negative" else x, dtype) for name, x in drawn.items()}


def types(tree: Any) -> Any:
    """Structure, shapes, dtypes and weak types."""
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x), bool(getattr(x, "weak_type", False))), tree)


def assert_close(actual: Any, expected: Any, units: float = 4.0) -> None:
    """Equal within ``units`` eps of each leaf's largest element."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if not jnp.issubdtype(a.dtype, jnp.inexact):
            np.testing.assert_array_equal(a, b)
            continue
        wide = np.complex128 if jnp.iscomplexobj(a) else np.float64
        a64, b64 = np.asarray(a, wide), np.asarray(b, wide)
        largest = np.max(np.abs(b64), initial=0.0)
        np.testing.assert_allclose(a64, b64, rtol=0, atol=units * float(jnp.finfo(a.dtype).eps) * largest)

"""Random keys as a constructor takes them and as a state keeps them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors


def kept_key(name: str, key: Any) -> tuple[Callable[[], jax.Array], Callable[[jax.Array], jax.Array]]:
    """``words()``, a new array of raw data for a state, and ``typed(words)``, the key that it stands for.

    ``key`` is a whole number, or a key of ``jax.random``, typed or raw; ``name`` is the constructor that takes it.
    """
    data, implementation = _checked(name, key)

    def words() -> jax.Array:
        return jnp.array(jax.random.key_data(jax.random.key(data)) if isinstance(data, int) else data, copy=True)

    def typed(words: jax.Array) -> jax.Array:
        return jax.random.wrap_key_data(words, impl=implementation)

    return words, typed


def _checked(name: str, key: Any) -> tuple[Any, str | None]:
    """A seed or the raw data of a key, and the name of its generator (None for the one in force)."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return int(key), None
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim == 0:
        return jax.random.key_data(key), str(jax.random.key_impl(key))
    if isinstance(key, jax.Array | np.ndarray) and key.dtype == jnp.uint32 and key.ndim == 1:
        return key, None
    raise errors.ArgumentTypeError(
        f"{name}(key={errors.show(key)})", expected="key must be a whole number or a key of jax.random",
        got=f"{type(key).__name__} {errors.show(key)}",
        cause="without a key every run would have the same noise" if key is None else "it seeds the noise",
        fix="write key=0 or key=jax.random.key(0)",
    )  # fmt: skip

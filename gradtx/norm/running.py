"""Running averages over batches: exponential, or the mean of all so far."""

from typing import Any

import jax
import jax.numpy as jnp


def weight_of_batch(decay: float | None, step: Any, count: Any) -> Any:
    """Of a batch after ``step`` others: ``1 - decay``, or ``1 / (step + 1)``; 0 where no value of it counts."""
    weight = 1 / (jnp.asarray(step).astype(jnp.float32) + 1) if decay is None else 1 - decay
    return weight * (count > 0)


def running_average(old: Any, new: Any, weight: Any) -> Any:
    """``(1 - weight) * old + weight * new``, exact where both are equal."""
    return old + weight * (new - old)


def next_batch(step: Any, count: Any) -> Any:
    """The number of batches after one more, if any value of it counts; it stays at 2^31 - 1 instead of wrapping."""
    return step + (jnp.any(count > 0) & (step < jnp.iinfo(jnp.int32).max))


def kept(new: Any, state: Any) -> Any:
    """The new state in shapes and dtypes of the old one."""
    return jax.tree.map(lambda n, old: jnp.asarray(n).reshape(old.shape).astype(old.dtype), new, state)

"""A search along a line inside a compiled program: how far the loss goes down."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

_TIMES = 30  # halvings or doublings: a billionth of the first step, or a billion of it


def far_enough(
    along: Callable[[jax.Array], jax.Array],
    decrease: Callable[[jax.Array], jax.Array],
    first: jax.Array,
    *,
    farther: bool,
) -> jax.Array:
    """A step ``t`` with ``f(t) < f(0)`` and ``f(t) <= f(0) - decrease(t)``; 0 if there is none.

    ``first``, ``first / 2``, ``first / 4``, ... is tried until one is so. With ``farther``, where the first is, it is
    doubled as long as that holds and ``f`` goes on down. NaN is no descent. ``f`` is evaluated once a try, and at 0.
    """
    before = along(jnp.zeros_like(first))

    def holds(t: jax.Array, value: jax.Array) -> jax.Array:
        return (value < before) & (value <= before - decrease(t))

    def halved(at: tuple) -> tuple:
        t, _, count = at
        t = t / 2
        return t, along(t), count + 1

    def doubled(at: tuple) -> tuple:
        t, value, count, _ = at
        next_value = along(2 * t)
        better = holds(2 * t, next_value) & (next_value < value)
        return jnp.where(better, 2 * t, t), jnp.where(better, next_value, value), count + 1, better

    start = (first, along(first), jnp.zeros((), jnp.int32))
    t, value, count = jax.lax.while_loop(lambda at: ~holds(at[0], at[1]) & (at[2] < _TIMES), halved, start)
    if farther:
        start = (t, value, jnp.zeros((), jnp.int32), holds(t, value) & (count == 0))
        t, value, *_ = jax.lax.while_loop(lambda at: at[3] & (at[2] < _TIMES), doubled, start)
    return jnp.where(holds(t, value), t, 0)

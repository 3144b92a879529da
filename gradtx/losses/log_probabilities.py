"""Logarithms of probabilities whose terms do not cancel."""

import functools

import jax
import jax.numpy as jnp


def below_peak(z: jax.Array, axis: int) -> jax.Array:
    """Logits less the largest one, a constant for derivatives; all -inf stay so."""
    peak = jax.lax.stop_gradient(jnp.max(z, axis, keepdims=True))
    return z - jnp.where(jnp.isneginf(peak), 0, peak)


def class_axis_iota(z: jax.Array, axis: int) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, z.shape, axis)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def log_sum_exp(z: jax.Array, axis: int) -> jax.Array:
    """``log sum_c exp(z_c)`` for z whose largest entry is 0: that entry's 1 is left to ``log1p``."""
    classes = class_axis_iota(z, axis)
    # The first of the largest, by min and not by argmax: 5 ms instead of 19 for 128 rows of 50,257 classes.
    first = jnp.min(jnp.where(z == 0, classes, z.shape[axis]), axis, keepdims=True)
    return jnp.log1p(jnp.sum(jnp.where(classes == first, 0, jnp.exp(z)), axis))


@log_sum_exp.defjvp
def _(axis: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (z,), (dz,) = primals, tangents
    log_sum = log_sum_exp(z, axis)
    return log_sum, jnp.sum(jnp.exp(z - jnp.expand_dims(log_sum, axis)) * dz, axis)

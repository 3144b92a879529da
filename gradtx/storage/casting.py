"""State in a narrower floating-point dtype."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import Role
from gradtx.rounding import Rounding, round_to
from gradtx.storage.keeping import Draw, Layout
from gradtx.tree import wide_dtype


@errors.checked
def cast(dtype: Any, *, rounding: Rounding = "nearest") -> Layout:
    """A layout that keeps arrays in ``dtype``, 2 bytes a number for bfloat16 and float16, saturating.

    With ``rounding="nearest"`` a moving average of decay ``b`` stops moving once its steps fall below half a unit in
    the last place: in bfloat16 a second moment of decay 0.999 never decays. ``"stochastic"`` rounding is right on
    average and keeps it moving. Fields of squares and of sums need the exponent range of float32, so float16 refuses
    them. float8 is refused for all: it has no scale, so momentum below 2^-10 (float8_e4m3fn) is 0; what has a scale for
    every few numbers is :func:`quantized`.

    Raises ``ArgumentTypeError`` for a dtype that is not floating-point, ``ArgumentRangeError`` for one of 8 bits, and
    for one of 64 where JAX has none.
    """
    call = f"cast({dtype if isinstance(dtype, str) else getattr(dtype, '__name__', dtype)})"
    if not _is_floating(dtype):
        raise errors.ArgumentTypeError(
            call, expected="dtype must be a floating-point dtype", got=errors.show(dtype),
            cause="it names no dtype, or one of integers, which need a scale", fix='write cast("bfloat16")',
        )  # fmt: skip
    if jnp.finfo(dtype).bits < 16:
        raise errors.ArgumentRangeError(
            call, expected="dtype must have 16 bits or more", got=jnp.dtype(dtype).name,
            cause=f"numbers below {float(jnp.finfo(dtype).smallest_subnormal):.2g} would vanish, and there is no scale",
            fix="write quantized(bits=8), which keeps a scale for every 32 numbers",
        )  # fmt: skip
    if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype):
        raise errors.ArgumentRangeError(
            call, expected="dtype must have 32 bits at most without jax_enable_x64", got=jnp.dtype(dtype).name,
            cause="arrays of more bits do not exist without it: it would be float32",
            fix='write cast("float32"), or jax.config.update("jax_enable_x64", True) before all else',
        )  # fmt: skip
    narrow = jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp

    def encode(array: jax.Array, role: Role, draw: Draw | None) -> jax.Array:
        del role
        return round_to(array, dtype, None if draw is None else draw(array.shape))

    def refuses(role: Role) -> str | None:
        if narrow and role.kind in ("non-negative", "accumulated"):
            return f"squares and sums span more powers of two than {jnp.dtype(dtype).name} has"
        return None

    return Layout(
        encode, lambda kept, role: kept.astype(wide_dtype(kept.dtype)), refuses, draws=rounding == "stochastic"
    )


def _is_floating(dtype: Any) -> bool:
    try:
        return dtype is not None and jnp.issubdtype(jnp.dtype(dtype), jnp.floating)  # jnp.dtype(None) is float64
    except TypeError:
        return False

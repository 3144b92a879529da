"""State in a narrower floating-point dtype."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.core import Role
from gradtx.rounding import Rounding, round_to
from gradtx.storage.keeping import Layout
from gradtx.tree import wide_dtype


@errors.checked
def cast(dtype: Any, *, rounding: Rounding = "nearest") -> Layout:
    """A layout that keeps arrays in ``dtype``, 2 bytes a number for bfloat16 and float16, saturating.

    With ``rounding="nearest"`` a moving average of decay ``b`` stops moving once its steps fall below half a unit in
    the last place: in bfloat16 a second moment of decay 0.999 never decays. ``"stochastic"`` rounding is right on
    average and keeps it moving. Fields of squares need the exponent range of float32, so float16 refuses them.

    Raises ``ArgumentTypeError`` for a dtype that is not floating-point.
    """
    call = f"cast({dtype if isinstance(dtype, str) else getattr(dtype, '__name__', dtype)})"
    if not _is_floating(dtype):
        raise errors.ArgumentTypeError(
            call, expected="dtype must be a floating-point dtype", got=errors.show(dtype),
            cause="integers need a scale, which a cast does not keep", fix="write cast(jnp.bfloat16)",
        )  # fmt: skip
    narrow = jnp.finfo(dtype).maxexp < jnp.finfo(jnp.float32).maxexp

    def encode(array: jax.Array, key: Callable[[], jax.Array] | None) -> jax.Array:
        if jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise errors.LayoutError(
                call, expected="real fields", got=str(array.dtype), cause="there is no narrower complex dtype",
                fix="keep real and imaginary parts as two real leaves",
            )  # fmt: skip
        if key is None or rounding == "nearest":
            return round_to(array, dtype)
        return round_to(array, dtype, "stochastic", key())

    def refuses(role: Role) -> str | None:
        if narrow and role.kind == "non-negative":
            return f"squares span more powers of two than {jnp.dtype(dtype).name} has"
        return None

    return Layout(encode, lambda kept: kept.astype(wide_dtype(kept.dtype)), refuses)


def _is_floating(dtype: Any) -> bool:
    try:
        return bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
    except TypeError:
        return False

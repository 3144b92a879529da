"""The last step of an update: adding it to the parameters, with one rounding into their dtype."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.rounding import Rounding, places, round_to, uniform_at
from gradtx.tree import check_same, describe_leaf, is_array, is_inexact, leaf_paths, leaf_seeds, wide_dtype


def apply_updates(params: Any, updates: Any, *, rounding: Rounding = "nearest", key: jax.Array | None = None) -> Any:
    """``params + updates``, leaf by leaf, in the parameters' dtypes.

    The sum is taken in float32 or wider and rounded once: to nearest, or with ``rounding="stochastic"`` and a ``key``
    to one of the two neighbours so that the rounding is right on average (Gupta et al. 2015, arXiv:1502.02551). With
    bfloat16 parameters an update below 2^-9 of its parameter is lost by the former and kept on average by the latter.
    A finite sum beyond the largest finite number of the dtype becomes that number; infinities and NaN stay visible.
    Python numbers count as arrays. ``None`` leaves present in both trees pass. An integer or boolean leaf stays as it
    is: its update, of its own dtype or ``float0``, is taken for the zeros of a frozen leaf and not looked at.

    Raises ``StructureError`` or ``ShapeError`` where the trees differ, ``DtypeError`` for an update of a leaf that
    cannot take it, ``ArgumentTypeError`` for stochastic rounding without a key.

    >>> import gradtx, jax.numpy as jnp
    >>> gradtx.apply_updates({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([-0.5, 0.25])})["w"].tolist()
    [0.5, 2.25]
    """
    call = "apply_updates(params, updates)"
    check_same(call, "updates", updates, "params", params)
    if rounding not in ("nearest", "stochastic") or (rounding == "stochastic") != (key is not None):
        raise errors.ArgumentTypeError(
            call,
            expected="rounding='nearest' without a key, or rounding='stochastic' with one",
            got=f"rounding={rounding!r} and key={errors.show(key)}",
            cause="stochastic rounding draws from a key, rounding to nearest does not",
            fix="write apply_updates(params, updates, rounding='stochastic', key=jax.random.key(0))",
        )
    flat, treedef = jax.tree.flatten(params)
    seeds = leaf_seeds(params) if rounding == "stochastic" else []
    words = None if key is None else jax.random.bits(key, (2,), jnp.uint32)
    applied = []
    for index, (param, update) in enumerate(zip(flat, jax.tree.leaves(updates), strict=True)):
        param, update = _as_array(param), _as_array(update)
        if is_inexact(param) and is_inexact(update):
            applied.append(_apply(param, update, None if words is None else (*words, seeds[index])))
        elif is_array(param) and is_array(update) and update.dtype in (param.dtype, jax.dtypes.float0):
            applied.append(param)
        else:
            raise errors.DtypeError(
                call,
                expected="an update of floating-point numbers belongs to a parameter of floating-point numbers",
                got=f"{describe_leaf(update)} for a parameter {describe_leaf(param)}",
                at=repr(leaf_paths(params)[index]),
                cause="a table of integers, a function or text stands among the parameters",
                fix="leave it out: a table with gradtx.only(tx, where), which gives it the zeros that this accepts; "
                "the rest by eqx.filter(model, eqx.is_inexact_array)",
            )
    return treedef.unflatten(applied)


def _as_array(leaf: Any) -> Any:
    return jnp.asarray(leaf, jnp.result_type(leaf)) if isinstance(leaf, int | float | complex) else leaf


@jax.jit
def _apply(param: jax.Array, update: jax.Array, seeds: tuple[Any, Any, Any] | None) -> jax.Array:
    wide = jnp.promote_types(wide_dtype(param.dtype), wide_dtype(update.dtype))
    if jnp.issubdtype(wide, jnp.complexfloating) and not jnp.issubdtype(param.dtype, jnp.complexfloating):
        raise errors.DtypeError(
            "apply_updates(params, updates)", expected="real updates for real parameters", got=str(update.dtype),
            cause="the loss was differentiated in a complex variable", fix="take the real part of the updates",
        )  # fmt: skip
    update = update.astype(wide)
    total = _saturate(param.astype(wide), update)
    return round_to(total, param.dtype, None if seeds is None else uniform_at(places(total.shape), seeds))


def _saturate(param: jax.Array, update: jax.Array) -> jax.Array:
    """The sum, brought back to the largest finite number where two finite numbers overflow."""
    if jnp.issubdtype(update.dtype, jnp.complexfloating):
        return jax.lax.complex(_saturate(param.real, update.real), _saturate(param.imag, update.imag))
    total, largest = param + update, jnp.finfo(update.dtype).max
    finite = jax.lax.is_finite(param) & jax.lax.is_finite(update)
    return jax.lax.select(finite, jax.lax.clamp(-largest, total, largest), total)

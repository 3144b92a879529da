"""Second derivatives times a vector, by whichever order of differentiation the function allows."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun

from gradtx import errors
from gradtx.tree import widen

Vector = tuple[jax.Array, ...]

_NO_RULE = (TypeError, ValueError, NotImplementedError)  # what JAX raises where a primitive lacks a rule
_SUSPECTS = ("while", "custom_vjp_call", "custom_vjp_call_jaxpr", "pure_callback", "io_callback", "pallas_call")


def hessian_vector(f: Callable[[Vector], jax.Array], x: Vector, v: Vector) -> Vector:
    """``d/de grad f(x + e v)`` at ``e = 0``, forward over reverse (Pearlmutter 1994).

    Where a function in ``f`` defines only its reverse mode (``custom_vjp``), ``grad <grad f(x), v>`` instead, which
    keeps more and costs about half a gradient more.
    """
    tangent = _like(v, x)
    try:
        return _wide(_pushed(jax.grad(f), x, tangent))
    except _NO_RULE as error:
        jax.eval_shape(f, x)  # a mistake of the loss itself comes out here, as it is
        first = error
    try:
        return _wide(jax.grad(lambda y: inner(jax.grad(f)(y), tangent))(x))
    except _NO_RULE as error:
        raise _no_order(f, x, [first, error]) from error


def jacobian_vector(f: Callable[[Vector], Any], x: Vector, v: Vector) -> tuple[Any, Any, Callable[[Any], Vector]]:
    """``f(x)``, ``J v``, and ``u -> J'u``; without a forward mode ``J v`` is the transpose of ``u -> J'u``."""
    tangent = _like(v, x)
    try:
        out, pull = jax.vjp(f, x)
    except _NO_RULE as error:
        jax.eval_shape(f, x)
        raise _no_order(f, x, [error]) from error
    try:
        pushed = _pushed(f, x, tangent)
    except _NO_RULE:
        (pushed,) = jax.linear_transpose(lambda u: pull(u)[0], out)(tangent)
    return out, pushed, lambda u: _wide(pull(u)[0])


def _pushed(f: Callable[[Vector], Any], x: Vector, tangent: Vector) -> Any:
    """``J v`` in forward mode. JAX finds out late that a ``custom_vjp`` has none, so what was traced is looked at."""
    traced, shape = jax.make_jaxpr(lambda y, t: jax.jvp(f, (y,), (t,))[1], return_shape=True)(x, tangent)
    if "custom_lin" in _primitives(traced.jaxpr):
        raise TypeError("'custom_vjp_call' has no forward mode")
    return jax.tree.unflatten(jax.tree.structure(shape), jaxpr_as_fun(traced)(*x, *tangent))


def inner(x: Any, y: Any) -> jax.Array:
    """``sum x y`` over all leaves, in at least float32."""
    pairs = zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)
    return sum((jnp.sum(widen(a) * widen(b)) for a, b in pairs), start=jnp.zeros(()))


def _like(v: Vector, x: Vector) -> Vector:
    return tuple(a.astype(b.dtype) for a, b in zip(v, x, strict=True))


def _wide(v: Vector) -> Vector:
    return tuple(map(widen, v))


def _no_order(f: Any, x: Vector, raised: list[Exception]) -> errors.GradtxError:
    names = set(_primitives(jax.make_jaxpr(f)(x).jaxpr))
    said = " ".join(map(str, raised))
    found = sorted(name for name in names if f"'{name}'" in said) or [name for name in _SUSPECTS if name in names]
    return errors.ArgumentTypeError(
        errors.UNNAMED,
        expected="a function that can be differentiated twice",
        got=f"the primitive {' or '.join(map(repr, found)) or 'that this names'}: {str(raised[-1]).splitlines()[0]}",
        cause="it has neither a forward nor a second reverse derivative",
        fix="write a loop of fixed length (lax.scan, or fori_loop with constant bounds) or a jax.custom_jvp",
    )


def _primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for parameter in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda p: hasattr(p, "eqns")):
            inside = getattr(parameter, "jaxpr", parameter)
            if hasattr(inside, "eqns"):
                yield from _primitives(inside)

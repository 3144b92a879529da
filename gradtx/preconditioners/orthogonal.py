"""Steps with all singular values near 1: Newton and Schulz's iteration, and Muon that is made of it."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from gradtx import errors
from gradtx.combinators import chain, named_chain, total
from gradtx.combinators.selecting import Where, selected
from gradtx.core import EmptyState, GradientTransformation, stateless, transformation
from gradtx.transforms import ema, scale
from gradtx.transforms.magnitudes import scaled_norm

Coefficients = tuple[float, float, float]
NewtonSchulz = str | Coefficients | tuple[Coefficients, ...]
"""``"standard"`` or ``"dion"``, three coefficients for all steps, or three for each."""

PRESETS: dict[str, tuple[Coefficients, ...]] = {
    "standard": ((3.4445, -4.7750, 2.0315),),
    "dion": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
}


def orthogonalize(
    x: jax.Array,
    steps: int = 5,
    *,
    ns_coeffs: NewtonSchulz = "standard",
    eps: float = 0.0,
    dtype: Any = jnp.float32,
) -> jax.Array:
    """About ``U V'`` of the matrix ``x = U S V'``, over its last two axes, by three products of matrices a step::

        x <- x / (||x|| + eps)
        x <- a x + (b A + c A A) x,   A = x x'                          steps times, with coefficients a, b, c

    A singular value ``s ||x||`` ends as the polynomial ``p(s) = a s + b s^3 + c s^5``, ``steps`` times iterated, of
    ``s``. After 5 steps with ``"standard"`` it is from 0.68 to 1.14 where ``s`` is at least 0.008, to 1.21 from 0.0015
    on, and below it falls like ``485 s``; it does not converge to 1, which a descent direction does not need.
    ``"dion"`` has coefficients for each of 5 steps: from 0.97 to 1.04 from 0.008 on, to 1.15 from 0.003. One triple of
    coefficients is for every step; of more, the last ``steps`` are taken.

    The iteration runs in ``dtype``: float32, to 1e-5, with full precision of the products also on accelerators; or
    bfloat16, to 0.1 and faster there. Vectors and scalars are matrices of one column, whose one singular value is
    their norm. The norm is right over the whole range of float32, a zero matrix stays zero. Complex matrices are
    orthogonalized as such in complex64. Returns the dtype of ``x``.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks
    (kellerjordan.github.io/posts/muon); Bernstein and Newhouse 2024, arXiv:2409.20325; "dion", Ahn et al. 2025,
    arXiv:2504.05295.

    >>> import jax.numpy as jnp
    >>> from gradtx import preconditioners
    >>> preconditioners.orthogonalize(jnp.diag(jnp.array([3e20, 1e20])), ns_coeffs="dion").round(1).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    triples = _triples("orthogonalize", ns_coeffs, steps)
    if x.ndim < 2:
        column = orthogonalize(x.reshape(-1, 1), steps, ns_coeffs=ns_coeffs, eps=eps, dtype=dtype)
        return column.reshape(x.shape)
    if x.shape[-2] > x.shape[-1]:
        turned = jnp.swapaxes(x, -1, -2)
        found = orthogonalize(turned, steps, ns_coeffs=ns_coeffs, eps=eps, dtype=dtype)
        return jnp.swapaxes(found, -1, -2)
    x, gathered = _gathered(x), x
    h, length = scaled_norm(x, axis=(-2, -1))
    size = length + eps * h * h
    unit = x * (h * h) / jnp.where(size == 0, 1.0, size)
    y = unit if jnp.iscomplexobj(x) else unit.astype(dtype)
    precision = "highest" if jnp.finfo(y.dtype).bits >= 32 else None

    def times(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, precision=precision)

    for a, b, c in triples:
        gram = times(y, jnp.conj(jnp.swapaxes(y, -1, -2)))
        y = a * y + times(b * gram + c * times(gram, gram), y)
    return _placed(y.astype(x.dtype), gathered)


def _gathered(x: jax.Array) -> jax.Array:
    """On a mesh with explicit axes, the whole array everywhere: the products have no meaning for its parts."""
    whole = NamedSharding(jax.typeof(x).sharding.mesh, PartitionSpec(*[None] * x.ndim))
    return jax.sharding.reshard(x, whole) if _is_divided(x) else x


def _placed(y: jax.Array, like: jax.Array) -> jax.Array:
    return jax.sharding.reshard(y, jax.typeof(like).sharding) if _is_divided(like) else y


def _is_divided(x: jax.Array) -> bool:
    return any(axis is not None for axis in jax.typeof(x).sharding.spec)


@transformation
def scale_by_muon(
    ns_coeffs: NewtonSchulz = "standard",
    ns_steps: errors.Count = 5,
    beta: errors.Decay = 0.95,
    eps: errors.Epsilon = 1e-8,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
) -> GradientTransformation:
    """``u = orthogonalize((1 - beta) g + beta m)``, ``m <- beta m + (1 - beta) g``: momentum made orthogonal.

    The heavy ball ``m <- beta m + g`` is ``1 / (1 - beta)`` times as long, which does not matter here, and it can
    overflow. Without ``nesterov``, ``u = orthogonalize(m)``. ``adaptive`` multiplies by the product with what was
    orthogonalized, its dual norm. Coefficients and steps are those of :func:`gradtx.preconditioners.orthogonalize`; of
    leaves with more than two axes the last two are matrices.

    Optax blends ``g`` and ``m`` with bias corrections of their own, which gives another blend at the first steps; its
    ``mu_dtype`` is :func:`gradtx.storage.stored` here. State: one float32 number per parameter.

    Source: Jordan et al. 2024, Muon: an optimizer for hidden layers in neural networks
    (kellerjordan.github.io/posts/muon).
    """
    ahead = total(chain(ema(beta), scale(beta)), scale(1.0 - beta)) if nesterov else ema(beta)
    return named_chain(("momentum", ahead), ("orthogonalized", _orthogonalized(ns_coeffs, ns_steps, eps, adaptive)))


@transformation(locality="leaf")
def _orthogonalized(ns_coeffs: Any, ns_steps: int, eps: errors.Epsilon, adaptive: bool) -> GradientTransformation:
    _triples(errors.UNNAMED, ns_coeffs, ns_steps)

    def update(x):
        y = orthogonalize(x, ns_steps, ns_coeffs=ns_coeffs, eps=eps)
        return jnp.sum((x.conj() * y).real) * y if adaptive else y

    return stateless(update)


@transformation(locality="leaf")
def scale_by_shape(consistent_rms: errors.Positive | None = None) -> GradientTransformation:
    """``u = sqrt(max(1, outputs / inputs)) g`` of kernels ``(inputs, outputs)``, for orthogonal steps ``g``.

    With ``consistent_rms``, ``u = consistent_rms sqrt(max(inputs, outputs)) g``: an orthogonal ``g`` then has elements
    of that root mean square; 0.2 is that of AdamW. Leaves of fewer than two axes have one output.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025, arXiv:2502.16982, equation 4.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.scale_by_shape()
    >>> tx.update(jnp.ones((1, 4)), tx.init(jnp.ones((1, 4))))[0].tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """

    def init(param):
        del param
        return EmptyState()

    def update(update, state):
        inputs, outputs = update.shape[-2:] if update.ndim > 1 else (max(update.size, 1), 1)
        if consistent_rms is None:
            return math.sqrt(max(1.0, outputs / max(inputs, 1))) * update, state
        return consistent_rms * math.sqrt(max(inputs, outputs)) * update, state

    return GradientTransformation(init, update)


def all_but(where: Where) -> Callable[[Any], Any]:
    """From a tree to a tree of booleans: the leaves that ``where`` does not select."""

    def others(tree: Any) -> Any:
        hits = selected(where, tree, f"muon(where={errors.show(where)})")
        return jax.tree.structure(tree).unflatten([not hit for hit in hits])

    return others


def _is_finite(value: Any) -> bool:
    number = errors.as_float(value)
    return number is not None and number in errors.Interval()


def _triples(call: str, ns_coeffs: Any, steps: int) -> tuple[Coefficients, ...]:
    """The coefficients of each step."""
    given: Any = PRESETS.get(ns_coeffs, ()) if isinstance(ns_coeffs, str) else ns_coeffs
    triples: Any = (given,) if isinstance(given, tuple) and given and not isinstance(given[0], tuple) else given
    right = isinstance(triples, tuple) and all(
        isinstance(triple, tuple) and len(triple) == 3 and all(_is_finite(c) for c in triple) for triple in triples
    )
    if not right or not triples or (len(triples) > 1 and len(triples) < steps):
        raise errors.ArgumentRangeError(
            call,
            expected=f"ns_coeffs must be one of {sorted(PRESETS)}, three numbers, or three for each of {steps} steps",
            got=errors.show(ns_coeffs),
            cause="a step needs three coefficients",
            fix="write ns_coeffs=(3.4445, -4.775, 2.0315)",
        )
    return triples * steps if len(triples) == 1 else triples[-steps:]

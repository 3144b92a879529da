"""Complex parameters as pairs of real ones."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gradtx.core import GradientTransformation, Nested, Pair, join, record_of, transformation
from gradtx.tree import is_inexact, widen


class RealAndImaginary(NamedTuple):
    """A complex leaf, as two real ones."""

    real: Any
    imaginary: Any


class SplitState(NamedTuple):
    """State of a transformation of real numbers: a complex leaf has two leaves in its fields."""

    inner: Nested


@transformation
def split_real_and_imaginary(inner: GradientTransformation) -> GradientTransformation:
    """``inner``, which is given real and imaginary parts of complex leaves as two real leaves::

        u = inner(Re g, Re p) + i inner(Im g, Im p)

    For what is defined for real numbers alone (``clip``, signs, projections), and where both parts shall have a size of
    their own: without it Adam divides both by the root mean square of ``|g|``. Real leaves stay as they are; the path
    of a part is ``w/real`` or ``w/imaginary``.

    >>> import gradtx, jax.numpy as jnp
    >>> tx = gradtx.split_real_and_imaginary(gradtx.clip(1.0))
    >>> params = jnp.zeros(1, jnp.complex64)
    >>> tx.update(jnp.array([3.0 - 0.5j]), tx.init(params), params)[0].tolist()
    [(1-0.5j)]
    """
    record = record_of(inner)

    def init(params: Any) -> SplitState:
        return SplitState(record.tree.init(_split(params)))

    def update(updates: Any, state: SplitState, params: Any, signals: Mapping[str, Any]) -> tuple[Any, SplitState]:
        steps, new = record.tree.update(_split(updates), state.inner, _split(params), signals)
        joined = jax.tree.map(_joined, steps, is_leaf=lambda node: isinstance(node, RealAndImaginary))
        return joined, SplitState(new)

    return join({"inner": record}, Pair(init, update), kind="between")


def _split(tree: Any) -> Any:
    def parts(leaf: Any) -> Any:
        return RealAndImaginary(leaf.real, leaf.imag) if is_inexact(leaf) and jnp.iscomplexobj(leaf) else leaf

    return jax.tree.map(parts, jax.tree.map(widen, tree))


def _joined(leaf: Any) -> Any:
    return jax.lax.complex(leaf.real, leaf.imaginary) if isinstance(leaf, RealAndImaginary) else leaf

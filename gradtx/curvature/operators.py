"""Symmetric matrices known by their products with vectors like the parameters: Hessian, Gauss-Newton, Fisher.

One product is one call of a compiled function for each batch. Parameters, batch and vector are its arguments, so
neither a new batch of the same shape nor new parameters compile anything. Loops over products run in Python: on the
CPU backend a convolution's gradient inside a compiled loop is 10 to 18 times slower.

Of the eight multiplications for each matrix of a network that a product with the Hessian takes, two do not depend on
the vector (a gradient takes three). On one batch they are made once, with the first product; what they leave, the
activations and the like, stays in memory as long as the operator. On a list of batches every product makes them again.
"""

import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from gradtx import errors
from gradtx.combinators.selecting import Where, selected
from gradtx.curvature import vectors
from gradtx.curvature.datasets import Dataset, as_dataset
from gradtx.curvature.differentiation import Vector, hessian_vector, jacobian_vector
from gradtx.curvature.loss_form import Loss, carried, scalar_of
from gradtx.tree import check_same, describe_leaf, is_array, leaf_paths, strong, widen

MODEL, OF_OUTPUTS, OF_EXAMPLES = "model(params, batch)", "loss(outputs, batch)", "losses(params, batch)"


class Layout(NamedTuple):
    """How the selected leaves and the others make up the parameters."""

    treedef: Any
    mask: tuple[bool, ...]

    def merge(self, chosen: Any, others: Any) -> Any:
        chosen, others = iter(chosen), iter(others)
        return self.treedef.unflatten([next(chosen) if hit else next(others) for hit in self.mask])


class Point(NamedTuple):
    """The parameters, cut into the leaves that vary and the others, and the data."""

    layout: Layout
    chosen: Vector
    others: tuple[Any, ...]
    data: Dataset
    call: str

    def tree(self, vector: Vector) -> Any:
        """A vector as a tree like the parameters, zero in the leaves that do not vary."""
        return self.layout.merge(vector, [jnp.zeros(jnp.shape(leaf), jnp.float32) for leaf in self.others])

    def vector(self, what: str, tree: Any) -> Vector:
        """The leaves that vary of a tree like the parameters, in at least float32; ``what`` names it in errors."""
        check_same(self.call, what, tree, "params", self.layout.merge(self.chosen, self.others))
        leaves = zip(jax.tree.leaves(tree), self.layout.mask, strict=True)
        return vectors.placed(tuple(widen(jnp.asarray(leaf)) for leaf, hit in leaves if hit), self.chosen)

    def moved(self, chosen: Vector) -> "Point":
        """The same with other values of the leaves that vary."""
        return self._replace(chosen=chosen)


class Operator(NamedTuple):
    """A symmetric matrix ``A`` on the leaves that vary, by its product; ``products`` counts how often it was used."""

    point: Point
    apply: Callable[[Vector], Vector]
    counter: collections.Counter

    @property
    def products(self) -> int:
        return self.counter["products"]

    @property
    def dimension(self) -> int:
        return vectors.size(self.point.chosen)


def multiply(operator: Operator, vector: Vector) -> Vector:
    """``A v``."""
    operator.counter["products"] += 1
    return operator.apply(vector)


def hessian(loss: Loss, params: Any, batch: Any = None, *, where: Where | None = None) -> Operator:
    """The Hessian of the loss, ``A v = d/de grad L(w + e v)``, at about two gradients a product.

    On one batch the activations are held while the operator is; cut into a :class:`Dataset` of several batches it holds
    nothing, and a product takes up to two and two thirds.

    Args:
        loss: ``loss(params, batch) -> scalar`` or ``(scalar, anything)``, the mean over the batch.
        params: Any tree of arrays; float32 or wider ones are computed with as they are.
        batch: One batch (any tree of arrays, or None), or a :class:`Dataset`.
        where: Which leaves vary (a pattern on paths, a predicate, a tree of booleans); all by default. The operator is
            then the block of the Hessian that belongs to them.

    Raises:
        LossFormError, DtypeError, StructureError, SelectionError, BatchError: see :func:`classify`.
    """
    call = f"hessian({errors.show(loss)}, params, batch)"
    return hessian_at(carried(call, loss), point(call, params, batch, where))


def hessian_at(loss: Partial, at: Point, *, hold: bool = True) -> Operator:
    return _operator(at, _hessian_product, (loss,), hold)


def gauss_newton(model: Any, loss: Any, params: Any, batch: Any = None, *, where: Where | None = None) -> Operator:
    """The Gauss-Newton matrix ``J' H J``: ``J`` the model's Jacobian, ``H`` the loss's Hessian in the model's outputs.

    Positive semi-definite where the loss is convex in the outputs, and the Hessian without the model's own curvature
    (Schraudolph 2002, equation 12). For cross entropy on logits and for squared errors it is the Fisher matrix.

    Args:
        model: ``model(params, batch) -> outputs``, any tree of arrays.
        loss: ``loss(outputs, batch) -> scalar``, the mean over the batch.
        params, batch, where: As in :func:`hessian`.
    """
    call = f"gauss_newton({errors.show(model)}, {errors.show(loss)}, params, batch)"
    at = point(call, params, batch, where)
    return gauss_newton_at(carried(call, model, 2, MODEL), carried(call, loss, 2, OF_OUTPUTS), at)


def gauss_newton_at(model: Partial, loss: Partial, at: Point, *, hold: bool = True) -> Operator:
    return _operator(at, _gauss_newton_product, (model, loss), hold)


def fisher(losses: Any, params: Any, batch: Any = None, *, where: Where | None = None) -> Operator:
    """The second moment of the examples' gradients, ``A v = 1/N sum_i g_i (g_i' v)``.

    With the batch's own labels this is the empirical Fisher matrix; with labels drawn from the model's predictions, an
    unbiased estimate of the Fisher matrix (Kunstner et al. 2019, equations 3 and 4). Where labels are many, the exact
    one for logits is :func:`gauss_newton`.

    Args:
        losses: ``losses(params, batch) -> [N]``, the negative log likelihood of each example, not averaged.
        params, batch, where: As in :func:`hessian`.
    """
    call = f"fisher({errors.show(losses)}, params, batch)"
    return fisher_at(carried(call, losses, 2, OF_EXAMPLES), point(call, params, batch, where))


def fisher_at(losses: Partial, at: Point, *, hold: bool = True) -> Operator:
    return _operator(at, _fisher_product, (losses,), hold)


@errors.checked_call
def scaled(operator: Operator, scales: Any) -> Operator:
    """``S A S`` with the diagonal ``S = diag(scales)``: the same matrix in the variables ``S^-1 w``.

    With the roots of a preconditioner, ``S = P^-1/2``, its eigenvalues are those of ``P^-1 A``. Vectors that come out
    of it (of :func:`extreme_eigenvalues`) are in the scaled variables.

    Args:
        operator: From :func:`hessian`, :func:`gauss_newton` or :func:`fisher`.
        scales: A tree like the parameters.

    Raises:
        StructureError, ShapeError: ``scales`` is not like the parameters.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx import curvature
    >>> matrix = curvature.hessian(lambda w, batch: 2 * w[0] ** 2 + w[1] ** 2, jnp.ones(2))
    >>> found = curvature.extreme_eigenvalues(curvature.scaled(matrix, jnp.array([0.5, 3.0])), key=jax.random.key(0))
    >>> round(found.smallest.value, 4), round(found.largest.value, 4)
    (1.0, 18.0)
    """
    at = operator.point._replace(call=f"scaled({operator.point.call}, scales)")
    by = at.vector("scales", scales)

    def apply(vector: Vector) -> Vector:
        return _times(by, operator.apply(_times(by, vector)))

    return Operator(at, apply, collections.Counter())


def point(call: str, params: Any, batch: Any, where: Where | None) -> Point:
    """Checks parameters and batch, and cuts the parameters into the leaves that vary and the others."""
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        raise errors.StructureError(
            call,
            expected="parameters with at least one leaf",
            got=f"an empty {type(params).__name__}",
            cause="the model has not been initialized, or another collection was given",
            fix="give the tree that the loss is differentiated in",
        )
    mask = [True] * len(leaves) if where is None else selected(where, params, call)
    for path, leaf, hit in zip(leaf_paths(params), leaves, mask, strict=True):
        if hit and not _is_real_number(leaf):
            raise errors.DtypeError(
                call,
                expected="real floating-point leaves",
                got=describe_leaf(leaf),
                at=repr(path),
                cause="a Hessian is that of a real function of real numbers",
                fix="leave it out, as in where=lambda path, leaf: jnp.issubdtype(leaf.dtype, jnp.floating)",
            )
    chosen = tuple(strong(jnp.asarray(leaf)) for leaf, hit in zip(leaves, mask, strict=True) if hit)
    if not vectors.size(chosen):
        raise errors.SelectionError(
            call,
            expected="at least one number that varies",
            got="none",
            cause="where selects no leaf, or all of them have no entries",
            fix="write where='*'",
        )
    others = tuple(leaf for leaf, hit in zip(leaves, mask, strict=True) if not hit)
    return Point(Layout(treedef, tuple(mask)), chosen, others, as_dataset(call, batch), call)


@contextlib.contextmanager
def named(call: str) -> Iterator[None]:
    """Names the call in errors from inside a compiled function: the call is no part of what it is compiled for."""
    try:
        yield
    except errors.GradtxError as error:
        raise error.raised_by(call) from error.__cause__


@jax.jit
def _times(x: Vector, y: Vector) -> Vector:
    return tuple(a * b for a, b in zip(x, y, strict=True))


def _is_real_number(leaf: Any) -> bool:
    if not is_array(leaf):
        return isinstance(leaf, float)
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _typed_sharding(leaf: Any) -> bool:
    """Whether an array's type says over which devices it is split: under explicit meshes."""
    return isinstance(leaf, jax.Array) and any(axis is not None for axis in jax.typeof(leaf).sharding.spec)


def _operator(at: Point, kind: Callable[..., Vector], functions: tuple[Partial, ...], hold: bool) -> Operator:
    total_examples = sum(at.data.examples)
    # JAX 0.12 cannot linearize a derivative whose types carry shardings.
    hold = hold and len(at.data.batches) == 1 and not any(map(_typed_sharding, jax.tree.leaves(at)))
    held: list[Partial] = []

    def apply(vector: Vector) -> Vector:
        if hold:
            with named(at.call):
                if not held:
                    arguments = (functions, at.chosen, at.others, at.data.batches[0])
                    held.append(_linear_map(*arguments, kind=kind, layout=at.layout))
                return vectors.placed(_applied(held[0], vector), at.chosen)
        total = weight = None
        for batch, examples in zip(at.data.batches, at.data.examples, strict=True):
            if len(at.data.batches) > 1:
                weight = examples / total_examples
                total = tuple(map(jnp.zeros_like, vector)) if total is None else total
            arguments = (functions, at.chosen, at.others, batch, vector, weight, total)
            with named(at.call):
                total = _accumulate(*arguments, kind=kind, layout=at.layout)
        assert total is not None
        return vectors.placed(total, at.chosen)

    return Operator(at, apply, collections.Counter())


@functools.partial(jax.jit, static_argnames=("kind", "layout"))
def _linear_map(
    functions: tuple[Partial, ...], chosen: Vector, others: Any, batch: Any, *, kind: Callable[..., Vector],
    layout: Layout,
) -> Partial:  # fmt: skip
    """``v -> A v``; what does not depend on ``v`` has been computed."""

    def product(vector: Vector) -> Vector:
        return kind(functions, lambda leaves: layout.merge(leaves, others), chosen, batch, vector)

    linear_map: Any = jax.linearize(product, tuple(widen(jnp.zeros_like(leaf)) for leaf in chosen))[1]
    return linear_map


@jax.jit
def _applied(linear_map: Partial, vector: Vector) -> Vector:
    return linear_map(vector)


@functools.partial(jax.jit, static_argnames=("kind", "layout"))
def _accumulate(
    functions: tuple[Partial, ...], chosen: Vector, others: Any, batch: Any, vector: Vector, weight: Any,
    total: Vector | None, *, kind: Callable[..., Vector], layout: Layout,
) -> Vector:  # fmt: skip
    product = kind(functions, lambda leaves: layout.merge(leaves, others), chosen, batch, vector)
    if total is None:
        return product
    return tuple(t + weight * p for t, p in zip(total, product, strict=True))


def _hessian_product(functions: Any, merge: Any, chosen: Vector, batch: Any, vector: Vector) -> Vector:
    (loss,) = functions
    return hessian_vector(lambda leaves: scalar_of(loss(merge(leaves), batch)), chosen, vector)


def _gauss_newton_product(functions: Any, merge: Any, chosen: Vector, batch: Any, vector: Vector) -> Vector:
    model, loss = functions
    outputs, pushed, pull = jacobian_vector(lambda leaves: model(merge(leaves), batch), chosen, vector)
    leaves, treedef = jax.tree.flatten(outputs)

    def of_outputs(outs: Vector) -> jax.Array:
        return scalar_of(loss(treedef.unflatten(outs), batch))

    curved = hessian_vector(of_outputs, tuple(leaves), tuple(map(widen, jax.tree.leaves(pushed))))
    return pull(treedef.unflatten([c.astype(leaf.dtype) for c, leaf in zip(curved, leaves, strict=True)]))


def _fisher_product(functions: Any, merge: Any, chosen: Vector, batch: Any, vector: Vector) -> Vector:
    (losses,) = functions

    def of_examples(leaves: Vector) -> jax.Array:
        values = losses(merge(leaves), batch)
        if getattr(values, "ndim", None) != 1 or not jnp.issubdtype(values.dtype, jnp.floating):
            raise errors.LossFormError(
                errors.UNNAMED,
                expected="losses(params, batch) must return one loss for each example, an array [N]",
                got=errors.show(values) if not hasattr(values, "shape") else f"{values.dtype}{list(values.shape)}",
                cause="the losses of the examples were averaged",
                fix="write return losses without jnp.mean",
            )
        return values

    values, slopes, pull = jacobian_vector(of_examples, chosen, vector)
    return pull(slopes / values.shape[0])

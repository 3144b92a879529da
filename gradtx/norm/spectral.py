"""Spectral normalization: weights divided by their largest singular value."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from gradtx import errors
from gradtx.combinators.selecting import Where, selected
from gradtx.norm.checking import as_axes, check_train
from gradtx.norm.reparametrization import Reparametrization, axes_of_inputs, largest
from gradtx.tree import in_words, leaf_paths, leaf_seeds, widen

_HIGHEST = jax.lax.Precision.HIGHEST
_ITERATIONS_AT_START = 15  # as many as PyTorch makes: then evaluation before the first step is already near


@errors.checked
def spectral_norm(where: Where, *, axis: int | tuple[int, ...] = -1, n_steps: errors.Count = 1) -> Reparametrization:
    """Divides weights by an estimate of their largest singular value, by power iteration from step to step::

        v = W u / |W u|,   u = W^T v / |W^T v|       n_steps times in training, from the u of the step before
        s = v^T W u
        weights = W / s                              u and v count as constants for the gradient

    W is the weight as a matrix of all other axes by ``axis``, inputs by outputs: with ``x @ W``, u belongs to outputs.

    Args:
        where: Which leaves: a pattern on the path such as ``"*kernel"``, a predicate ``(path, leaf) -> bool``, or a
            tree of booleans, as in :func:`gradtx.only`.
        axis: The axes of outputs: the last one in JAX's layers, 0 in PyTorch's.
        n_steps: Iterations for each training step; the paper's one is enough, since weights change slowly.

    Returns:
        ``init(weights) -> (params, state)``: the weights as they are, and a vector u for the path of each selected
        leaf, after 15 iterations from a random one (the same in every program). ``apply(params, state, train=False) ->
        (weights, state)``: with ``train=True`` the state moves, with False it is returned as it is, and v made from it.

    s is at most the largest singular value, and grows to it. Weights of any finite size have finite results; a matrix
    of zeros stays one, with finite gradients.

    Source: Miyato, Kataoka, Koyama and Yoshida 2018, arXiv:1802.05957, algorithm 1. (W of the paper is outputs by
    inputs; u and v are named as there.)

    Raises:
        SelectionError: The pattern selects nothing.
        ShapeError: A selected leaf has no axis but those of the outputs, or another shape than at ``init``.
        DtypeError: A selected leaf is not floating.
        StructureError: ``state`` is not of the form that ``init`` returns.

    >>> import jax.numpy as jnp
    >>> from gradtx import norm
    >>> init, apply = norm.spectral_norm("*kernel")
    >>> params, state = init({"kernel": jnp.diag(jnp.array([4.0, 1.0])), "bias": jnp.zeros(2)})
    >>> weights, state = apply(params, state, train=True)
    >>> weights["kernel"].round(4).tolist()
    [[1.0, 0.0], [0.0, 0.25]]
    """
    outputs = as_axes(axis)

    def call() -> Any:
        return getattr(init, "__gradtx_call__", "spectral_norm(...)")

    def init(weights):
        hits, paths = selected(where, weights, str(call())), leaf_paths(weights)
        state = {}
        for leaf, hit, path, seed in zip(jax.tree.leaves(weights), hits, paths, leaf_seeds(weights), strict=True):
            if hit:
                matrix = _matrix(call(), path, leaf, outputs)
                key = jax.random.fold_in(jax.random.key(0), seed)
                u = _unit(jax.random.normal(key, matrix.shape[1:], matrix.dtype), jnp.ones(matrix.shape[1:]))
                state[path] = _iterated(matrix, u, _ITERATIONS_AT_START)[0].astype(jnp.float32)
        return weights, state

    def apply(params, state, train=False):
        check_train(call(), train)
        flat, treedef = jax.tree.flatten(params)
        paths = leaf_paths(params)
        if not isinstance(state, dict) or not state or not {*state} <= {*paths}:
            raise errors.StructureError(
                call(),
                expected="state must be a dictionary from the paths of the selected leaves to vectors",
                got=in_words(state),
                cause="apply takes params, state, train in this order",
                fix="write params, state = init(weights)",
            )
        new, weights = dict(state), dict(zip(paths, flat, strict=True))
        for path, u in state.items():
            weight = weights[path]
            matrix = _matrix(call(), path, weight, outputs)
            if jnp.shape(u) != matrix.shape[1:]:
                raise errors.ShapeError(
                    call(),
                    expected=f"a weight with {jnp.size(u)} outputs, as at init",
                    got=f"shape {jnp.shape(weight)}",
                    at=repr(path),
                    cause="the model has changed since",
                    fix="write params, state = init(weights)",
                )
            after, v = _iterated(matrix, u.astype(matrix.dtype), n_steps if train else 0)
            size = jnp.vdot(v, jnp.matmul(matrix, after, precision=_HIGHEST), precision=_HIGHEST)
            scaled = widen(weight) / largest(widen(jnp.asarray(weight)))
            weights[path] = (scaled / jnp.where(size == 0, 1, size)).astype(weight.dtype)
            new[path] = after.astype(u.dtype) if train else u
        return treedef.unflatten([weights[path] for path in paths]), new

    return Reparametrization(init, apply)


def _matrix(call: Any, path: str, weight: Any, outputs: tuple[int, ...]) -> jax.Array:
    """Inputs by outputs, divided by the largest entry."""
    axes = axes_of_inputs(call, path, weight, outputs)
    own = [i for i in range(weight.ndim) if i not in axes]
    scaled = widen(jnp.asarray(weight))
    scaled = jnp.transpose(scaled / largest(scaled), (*axes, *own))
    return scaled.reshape(math.prod(weight.shape[i] for i in axes), math.prod(weight.shape[i] for i in own))


def _iterated(matrix: jax.Array, u: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """u and v after so many iterations, without gradients; with none, the v that belongs to u."""
    matrix, u = jax.lax.stop_gradient((matrix, u))
    rows = jnp.full(matrix.shape[:1], matrix.shape[0] ** -0.5, matrix.dtype)
    v = _unit(jnp.matmul(matrix, u, precision=_HIGHEST), rows)
    for step in range(steps):
        v = v if step == 0 else _unit(jnp.matmul(matrix, u, precision=_HIGHEST), v)
        u = _unit(jnp.matmul(v, matrix, precision=_HIGHEST), u)
    return u, v


def _unit(x: jax.Array, otherwise: jax.Array) -> jax.Array:
    """``x / |x|``; for zeros, the other vector."""
    x = x / largest(x)
    norm = jnp.sqrt(jnp.sum(jnp.square(x)))
    return jnp.where(norm == 0, otherwise, x / jnp.where(norm == 0, 1, norm))

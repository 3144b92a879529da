"""The gradient of each example of a batch, for transformations that take them."""

from typing import Any

import jax
import jax.numpy as jnp

from gradtx.errors import ArgumentTypeError
from gradtx.training.loss_form import examples_in
from gradtx.training.micro_batches import Evaluate, Evaluated


def one_by_one(evaluate: Evaluate) -> Evaluate:
    """``evaluate`` of every example as a batch of length one: all gradients along a first axis, means of all else.

    Every example has a key of its own, ``fold_in(key, number)``. Numbers in a batch go to every example whole.
    """

    def of_all(model_state: Any, batch: Any, key: jax.Array) -> Evaluated:
        _check_model_state(model_state)
        count = examples_in(batch)
        leaves, treedef = jax.tree.flatten(batch)
        axes = [0 if jnp.ndim(leaf) else None for leaf in leaves]

        def of_one(index: jax.Array, example: list[Any]) -> Evaluated:
            alone = [leaf if axis is None else leaf[None] for leaf, axis in zip(example, axes, strict=True)]
            return evaluate(model_state, treedef.unflatten(alone), jax.random.fold_in(key, index))

        found = jax.vmap(of_one, (0, axes))(jnp.arange(count), leaves)
        value, metrics = jax.tree.map(lambda x: jnp.mean(x, 0), (found.value, found.metrics))
        metrics["examples"] = jnp.sum(found.metrics["examples"], dtype=found.metrics["examples"].dtype)
        return Evaluated(value, metrics, found.grads, model_state)

    return of_all


def _check_model_state(model_state: Any) -> None:
    if jax.tree.leaves(model_state):
        raise ArgumentTypeError(
            "step(state, batch)", expected="no model state, as the transformation takes the gradient of each example",
            got=f"{len(jax.tree.leaves(model_state))} arrays of it",
            cause="each example would have another one, and statistics of a batch make its examples known",
            fix="write the model with norms that keep no statistics, e.g. norm.layer_norm",
        )  # fmt: skip

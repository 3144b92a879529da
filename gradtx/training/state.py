"""What a training step reads and replaces."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradtx.core import first_step
from gradtx.errors import ArgumentTypeError, DtypeError, StructureError, show
from gradtx.training.keys import key_data
from gradtx.tree import beside, path_name


class TrainState(NamedTuple):
    """Everything that changes from step to step, and nothing else: who saves it can go on bit for bit.

    A plain tuple of trees: ``state._replace(params=averaged)`` is another state.
    """

    step: jax.Array
    """Steps done, an int32 scalar that stays at 2**31 - 1."""
    params: Any
    """The trainable parameters, any tree of arrays."""
    opt_state: Any
    """The state of the gradient transformation."""
    model_state: Any
    """What the model changes by itself (running statistics, ...), any tree of arrays, or None."""
    key: jax.Array
    """The words (uint32) of the random key that all steps draw from; it never changes."""


def create_train_state(params: Any, tx: Any, *, key: Any, model_state: Any = None, sharding: Any = None) -> TrainState:
    """The state before the first step: ``step = 0``, ``opt_state = tx.init(params)``.

    Everything is copied, so a step that donates its state never takes the caller's own arrays. Shardings stay; beside
    parameters on a mesh, what was not put anywhere is replicated over it.

    Args:
        params: Any tree of arrays (Flax: ``variables["params"]``).
        tx: A gradient transformation, a pair ``(init, update)``.
        key: One random key, typed or raw; each step derives its own from it.
        model_state: Any tree of arrays that the loss takes and returns (Flax: ``variables["batch_stats"]``).
        sharding: Where the optimizer's state lies, shaped like it (:func:`state_sharding`): ``init`` is compiled, so
            that no device ever has more than its part. Without, it lies like the parameters.

    Raises:
        ArgumentTypeError: ``key`` is not one random key, or ``tx`` no transformation.
        DtypeError: A leaf is no array (a function, a string); the message has its path.
    """
    call = f"create_train_state(params, {show(tx)}, key={show(key)})"
    check_transformation(tx, call)
    words = key_data(key, call)
    params, model_state = _copies(params, "params", call), _copies(model_state, "model_state", call)
    init, _ = tx
    opt_state = init(params) if sharding is None else _made_there(call, init, params, sharding)
    state = TrainState(first_step(), params, _apart(opt_state, params), model_state, words)
    return beside(state, state)


def _made_there(call: str, init: Any, params: Any, sharding: Any) -> Any:
    """The state of an optimizer, made in its parts; beside parameters that are on the same mesh, or nowhere yet."""
    meshes = [leaf.mesh for leaf in jax.tree.leaves(sharding) if isinstance(leaf, NamedSharding)]

    def there(leaf: Any) -> jax.Array:
        own = leaf.sharding
        is_on_mesh = isinstance(own, NamedSharding) and own.mesh.axis_names == meshes[0].axis_names
        return jax.device_put(leaf, NamedSharding(meshes[0], own.spec if is_on_mesh else PartitionSpec()))

    if jax.tree.structure(sharding) != jax.tree.structure(jax.eval_shape(init, params)):
        raise StructureError(
            call, expected="shardings like the state that tx.init makes", got=type(sharding).__name__,
            cause="they were made for another transformation, or are one mesh or sharding",
            fix="write sharding=state_sharding(tx, params, mesh) with this tx",
        )  # fmt: skip
    return jax.jit(init, out_shardings=sharding)(jax.tree.map(there, params) if meshes else params)


def check_transformation(tx: Any, call: str) -> None:
    """Raises unless ``tx`` is a pair of functions."""
    if not isinstance(tx, tuple) or len(tx) != 2 or not all(map(callable, tx)):
        raise ArgumentTypeError(
            call,
            expected="tx must be a gradient transformation, a pair (init, update)",
            got=f"{type(tx).__name__} {show(tx)}",
            cause="the arguments are in another order, or a recipe was passed without its learning rate",
            fix="write tx = adam(1e-3)",
        )


def check_state(state: Any) -> None:
    if not isinstance(state, TrainState):
        raise ArgumentTypeError(
            "step(state, batch)",
            expected="state must be a TrainState",
            got=type(state).__name__,
            cause="the parameters were passed alone, or the result of a train step was not taken apart",
            fix="write state = create_train_state(params, tx, key=key); state, metrics = step(state, batch)",
        )


def _copies(tree: Any, name: str, call: str) -> Any:
    """The tree with every leaf a new array that is not weakly typed: one type before and after a step, one trace."""

    def copy(path: Any, leaf: Any) -> jax.Array:
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex):
            raise DtypeError(
                call,
                expected=f"{name} must be a tree of arrays",
                got=f"{type(leaf).__name__} {show(leaf)}",
                at=repr(path_name(path)),
                cause="a whole model was passed, with its functions and names",
                fix="pass its arrays: variables['params'] (Flax), eqx.filter(model, eqx.is_inexact_array) (Equinox)",
            )
        return jnp.array(leaf, dtype=jnp.result_type(leaf))

    return jax.tree_util.tree_map_with_path(copy, tree)


def _apart(opt_state: Any, params: Any) -> Any:
    """The state with no array twice and none of the parameters': a foreign ``init`` may share them, a donation not."""
    seen = {id(leaf) for leaf in jax.tree.leaves(params)}

    def separate(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array):
            return leaf
        shared = id(leaf) in seen
        seen.add(id(leaf))
        return jnp.array(leaf) if shared else leaf

    return jax.tree.map(separate, opt_state)

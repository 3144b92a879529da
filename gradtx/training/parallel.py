"""On which devices a step runs, and where its state and its batch lie there."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gradtx.errors import ArgumentRangeError, ArgumentTypeError, show
from gradtx.training.sharded_state import (
    EVERYWHERE,
    checked_mesh,
    own_memory,
    own_place,
    own_spec,
    sharding_like,
    split_dimension,
    split_spec,
)
from gradtx.training.state import TrainState, check_state

Parallel = Literal["jit", "shard_map", "pmap", "zero", "fsdp"]


class Devices(NamedTuple):
    """A mesh with automatic axes, the axis along which batches are split, and how a step runs on it."""

    mesh: Mesh
    axis: str
    parallel: str

    @property
    def size(self) -> int:
        """Among how many a batch is split."""
        return self.mesh.shape[self.axis]

    @property
    def splits_state(self) -> bool:
        return self.parallel in ("zero", "fsdp")


def devices_of(call: str, parallel: str, mesh: Any, axis: str | None) -> Devices | None:
    """The devices of a step; None for a step without a mesh, which runs where its state lies."""
    if mesh is None and axis is None and parallel == "jit":
        return None
    if mesh is None:
        raise ArgumentTypeError(
            call, expected="mesh must be given", got="mesh=None",
            cause=f"axis={axis!r} is one of a mesh" if parallel == "jit"
            else f"parallel={parallel!r} runs on the devices of a mesh, along one of its axes",
            fix=f'write mesh=jax.make_mesh((jax.device_count(),), ("data",)), parallel={parallel!r}',
        )  # fmt: skip
    mesh, axis = checked_mesh(call, mesh, axis)
    if not isinstance(mesh, Mesh):
        raise ArgumentTypeError(
            call, expected="mesh must have devices", got=show(mesh), cause="an abstract mesh is only good for sizes",
            fix='write mesh=jax.make_mesh((jax.device_count(),), ("data",))',
        )  # fmt: skip
    if parallel == "pmap" and mesh.size != mesh.shape[axis]:
        raise ArgumentRangeError(
            call, expected='a mesh of one axis with parallel="pmap"', got=f"one of {dict(mesh.shape)}",
            cause="pmap has a single axis, over all devices", fix='write parallel="shard_map"',
        )  # fmt: skip
    return Devices(mesh, axis, parallel)


def state_shardings(devices: Devices, state: TrainState) -> TrainState:
    """Where a state lies from step to step.

    What the user put onto the mesh stays there, but for what the step splits; all else is replicated, with the arrays
    of the optimizer beside their parameters. None for traced arrays, which the compiler places.
    """
    mesh = devices.mesh

    def kept(leaf: Any, otherwise: PartitionSpec = EVERYWHERE) -> NamedSharding | None:
        if isinstance(leaf, Tracer):
            return None
        spec = own_spec(leaf, mesh)
        return NamedSharding(mesh, otherwise if spec is None else spec, memory_kind=own_memory(leaf))

    params, model_state, opt_state = (
        jax.tree.map(kept, tree) for tree in (state.params, state.model_state, state.opt_state)
    )
    if devices.parallel == "fsdp":
        params = split_params(devices, state.params)
    if devices.splits_state:
        opt_state = sharding_like(state.params, state.opt_state, mesh, devices.axis)
    elif not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(state.opt_state)):
        beside = sharding_like(state.params, state.opt_state, mesh, None)
        opt_state = jax.tree.map(lambda leaf, place: kept(leaf, place.spec), state.opt_state, beside)
    everywhere: Any = NamedSharding(mesh, EVERYWHERE)
    return TrainState(everywhere, params, opt_state, model_state, everywhere)


def split_params(devices: Devices, params: Any) -> Any:
    """Shardings by which each device has its part of the parameters, for as long as they are updated."""
    mesh, axis = devices.mesh, devices.axis
    return jax.tree.map(lambda leaf: NamedSharding(mesh, split_spec(leaf, own_spec(leaf, mesh), mesh, axis)), params)


def split_along(devices: Devices, shardings: Any) -> list[int | None]:
    """The dimension of each leaf that these shardings split along the axis of the batch."""
    return [split_dimension(sharding.spec, devices.axis) for sharding in jax.tree.leaves(shardings)]


def on_mesh(devices: Devices, step: Callable[..., Any], donated: Any) -> Callable[[TrainState, Any], Any]:
    """``step(state, batch, split)`` compiled for devices; what it is given is first put to where it belongs there.

    ``split`` says how the parameters are split while they are updated, or is None. A state that the last call returned
    is where it belongs, and is not looked at again.
    """
    programs: dict[Any, Any] = {}
    last: tuple[list[int], Any] = ([], None)

    def program(state: TrainState) -> tuple[Any, TrainState]:
        check_state(state)
        shardings = state_shardings(devices, state)
        split = split_params(devices, state.params) if devices.splits_state else None
        key = jax.tree.structure(state), *jax.tree.leaves((shardings, split), is_leaf=lambda leaf: leaf is None)
        if key not in programs:
            results = shardings, NamedSharding(devices.mesh, EVERYWHERE)
            compiled = functools.partial(jax.jit, functools.partial(step, split=split))
            programs[key] = compiled(donate_argnums=donated, out_shardings=results)
        return programs[key], shardings

    def run(state: TrainState, batch: Any) -> Any:
        nonlocal last
        known, compiled = last
        if list(map(id, jax.tree.leaves(state))) != known:
            compiled, shardings = program(state)
            state = place(state, shardings)
        batch = place_batch(devices, batch)
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((state, batch))):
            return compiled(state, batch)
        with jax.set_mesh(devices.mesh):  # a mesh with explicit axes may be in force around the loop
            new_state, metrics = compiled(state, batch)
        last = list(map(id, jax.tree.leaves(new_state))), compiled
        return new_state, metrics

    def lower(state: TrainState, batch: Any) -> jax.stages.Lowered:
        compiled, shardings = program(state)
        batch_shardings = jax.tree.map(functools.partial(batch_sharding, devices), batch)
        with jax.set_mesh(devices.mesh):
            return compiled.lower(_shapes(state, shardings), _shapes(batch, batch_shardings))

    setattr(run, "lower", lower)  # noqa: B010 (an attribute of a function is none to a type checker)
    return run


def _shapes(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=sharding),
        tree,
        shardings,
    )


def place(tree: Any, shardings: Any) -> Any:
    """The tree with its concrete arrays there; nothing is copied that is there already."""

    def put(sharding: Any, leaf: Any) -> Any:
        return leaf if sharding is None or isinstance(leaf, Tracer) else jax.device_put(leaf, sharding)

    return jax.tree.map(put, shardings, tree, is_leaf=lambda leaf: leaf is None)


def place_batch(devices: Devices, batch: Any) -> Any:
    """A batch split along its leading axes where the devices divide them, and whole on every device where not."""
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, Tracer) else jax.device_put(leaf, batch_sharding(devices, leaf)), batch
    )


def on_mesh_of(state: TrainState, batch: Any) -> Any:
    """A batch whose arrays lie on the mesh of the state with axes of another kind, by automatic axes as the state does.

    ``jax.make_mesh`` makes explicit axes, and one program takes arrays of one kind.
    """
    if not any(isinstance(own_place(leaf), NamedSharding) for leaf in jax.tree.leaves(batch)):
        return batch  # as from the host, without a look at the state
    places = map(own_place, jax.tree.leaves(state))
    mesh: Any = next((place.mesh for place in places if isinstance(place, NamedSharding)), None)
    if mesh is None:
        return batch

    def put(leaf: Any) -> Any:
        spec = own_spec(leaf, mesh)
        return leaf if spec is None or leaf.sharding.mesh == mesh else jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree.map(put, batch)


def batch_sharding(devices: Devices, leaf: Any) -> NamedSharding:
    own = own_spec(leaf, devices.mesh)
    is_split = jnp.ndim(leaf) > 0 and jnp.shape(leaf)[0] % devices.size == 0
    spec = own if own is not None else PartitionSpec(devices.axis) if is_split else EVERYWHERE
    return NamedSharding(devices.mesh, spec)

"""Where each array of parameters and of an optimizer's state lies on a mesh: the one rule by which they are split."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from gradtx.core.roles import is_state, per_leaf, roles, tree_of
from gradtx.errors import ArgumentRangeError, ArgumentTypeError, checked_call, nearest, show
from gradtx.training.state import check_transformation
from gradtx.tree import is_inexact

AnyMesh = Mesh | AbstractMesh
EVERYWHERE = PartitionSpec()
HOST = "pinned_host"


@checked_call
def state_sharding(tx: Any, params: Any, mesh: Any, axis: str | None = None) -> Any:
    """Shardings of the state of a transformation, shaped like ``tx.init(params)``, with 1/n of it on each device.

    A field that is like the parameters is split along the first dimension that the size n of ``axis`` divides and that
    the parameter's own sharding leaves free; without such a dimension it lies as the parameter does. Its other
    dimensions lie as those of the parameter. Counters, keys and hyperparameters are replicated. In a foreign part,
    whose fields say nothing, arrays of floating-point numbers in the shape of a parameter count as like it.

    Nothing is allocated: ``params`` may be shapes (``jax.eval_shape``), and ``mesh`` abstract. The state never has to
    exist in one place::

        opt_state = jax.jit(tx.init, out_shardings=state_sharding(tx, params, mesh))(params)
        state = create_train_state(params, tx, key=key, sharding=state_sharding(tx, params, mesh))

    A step of ``make_train_step(..., parallel="zero", mesh=mesh)`` puts and keeps the state so by itself.

    Args:
        tx: A gradient transformation.
        params: The parameters, or their shapes.
        mesh: The devices.
        axis: The axis of the mesh along which to split; its first one without.

    Raises:
        ArgumentTypeError: ``mesh`` is no mesh, or ``tx`` no transformation.
        ArgumentRangeError: The mesh has no such axis.

    Source: Rajbhandari et al. 2020, arXiv:1910.02054, section 5.1 (stage 1).

    >>> import gradtx, jax, jax.numpy as jnp
    >>> from gradtx.training import state_sharding
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> shardings = state_sharding(gradtx.ema(0.9), {"w": jnp.ones((3, 8)), "b": jnp.ones(3)}, mesh)
    >>> [tuple(sharding.spec) for sharding in jax.tree.leaves(shardings.mean)]
    [(), (None, 'data')]
    """
    call = f"state_sharding({show(tx)}, params, mesh)"
    check_transformation(tx, call)
    mesh, axis = checked_mesh(call, mesh, axis)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    return sharding_like(params, state_shapes(tx, shapes), mesh, axis)


@checked_call
def parameter_sharding(params: Any, mesh: Any, axis: str | None = None) -> Any:
    """Shardings of parameters with 1/n of them on each device, by the rule of :func:`state_sharding`.

    What ``make_train_step(..., parallel="fsdp")`` does with parameters by itself; a state that ``tx.init`` makes from
    such parameters lies like them. Raises as :func:`state_sharding`.

    >>> import jax, jax.numpy as jnp
    >>> from gradtx.training import parameter_sharding
    >>> mesh = jax.sharding.AbstractMesh((4,), ("data",))
    >>> tuple(parameter_sharding({"w": jnp.ones((3, 8))}, mesh)["w"].spec)
    (None, 'data')
    """
    mesh, axis = checked_mesh("parameter_sharding(params, mesh)", mesh, axis)
    return jax.tree.map(lambda leaf: NamedSharding(mesh, split_spec(leaf, own_spec(leaf, mesh), mesh, axis)), params)


def checked_mesh(call: str, mesh: Any, axis: str | None) -> tuple[Any, str]:
    """The mesh with automatic axes, and the axis meant."""
    if not isinstance(mesh, Mesh | AbstractMesh) or not mesh.axis_names:
        raise ArgumentTypeError(
            call, expected="mesh must be a mesh of devices", got=f"{type(mesh).__name__} {show(mesh)}",
            cause="without one it is not known what to split over",
            fix='write mesh = jax.make_mesh((jax.device_count(),), ("data",))',
        )  # fmt: skip
    if axis is not None and axis not in mesh.axis_names:
        meant = nearest(str(axis), mesh.axis_names)
        raise ArgumentRangeError(
            call, expected=f"axis must be one of the mesh, {', '.join(map(repr, mesh.axis_names))}", got=show(axis),
            cause=f"did you mean {meant!r}?" if meant else "the mesh names its axes otherwise",
            fix=f"write axis={(meant or mesh.axis_names[0])!r}",
        )  # fmt: skip
    return automatic(mesh), mesh.axis_names[0] if axis is None else axis


def automatic(mesh: Any) -> Any:
    """The same mesh with axes that the compiler shards over; those of ``jax.make_mesh`` are part of an array's type."""
    kinds = (AxisType.Auto,) * len(mesh.axis_names)
    if isinstance(mesh, AbstractMesh):
        return AbstractMesh(mesh.axis_sizes, mesh.axis_names, axis_types=kinds)
    return Mesh(mesh.devices, mesh.axis_names, axis_types=kinds)


def own_place(leaf: Any) -> Any:
    """The sharding of a leaf; None where it has none, or is traced."""
    return None if isinstance(leaf, Tracer) else getattr(leaf, "sharding", None)


def own_spec(leaf: Any, mesh: AnyMesh) -> PartitionSpec | None:
    """How a leaf is split over this mesh; None where it does not lie there, or is traced."""
    sharding = own_place(leaf)
    if not isinstance(sharding, NamedSharding) or sharding.mesh.axis_names != mesh.axis_names:
        return None
    if isinstance(mesh, AbstractMesh) or isinstance(sharding.mesh, AbstractMesh):
        return sharding.spec if dict(sharding.mesh.shape) == dict(mesh.shape) else None
    is_same = sharding.mesh is mesh or np.array_equal(sharding.mesh.devices, mesh.devices)
    return sharding.spec if is_same else None


def own_memory(leaf: Any) -> str | None:
    """The memory that a leaf lies in, if it is the host's, as :func:`gradtx.storage.offloaded` puts it there."""
    kind = getattr(own_place(leaf), "memory_kind", None)
    return kind if kind == HOST else None


def state_shapes(tx: Any, shapes: Any) -> Any:
    """``jax.eval_shape(tx.init, shapes)``, with a sharding where the array will lie in the memory of the host."""
    traced, state = jax.make_jaxpr(tx[0], return_shape=True)(shapes)
    place = NamedSharding(AbstractMesh((), ()), EVERYWHERE, memory_kind=HOST)
    flat, treedef = jax.tree.flatten(state)
    host = jax.memory.Space.Host
    return treedef.unflatten([
        jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place) if aval.memory_space == host else shape
        for shape, aval in zip(flat, traced.out_avals, strict=True)
    ])  # fmt: skip


def split_spec(leaf: Any, spec: PartitionSpec | None, mesh: AnyMesh, axis: str) -> PartitionSpec:
    """``spec`` with the first free dimension that the size of ``axis`` divides split along it."""
    shape, size = jnp.shape(leaf), mesh.shape[axis]
    taken = [*(spec or ()), *[None] * (len(shape) - len(spec or ()))]
    used = [name for names in taken for name in (names if isinstance(names, tuple) else (names,))]
    if axis in used:
        return PartitionSpec(*taken)
    for dimension, length in enumerate(shape):
        if taken[dimension] is None and length and length % size == 0:
            return PartitionSpec(*[axis if index == dimension else names for index, names in enumerate(taken)])
    return spec or EVERYWHERE


def split_dimension(spec: PartitionSpec, axis: str) -> int | None:
    """The dimension that is split along ``axis`` alone."""
    return next((dimension for dimension, names in enumerate(spec) if names in (axis, (axis,))), None)


def sharding_like(params: Any, state: Any, mesh: AnyMesh, axis: str | None) -> Any:
    """Shardings of an optimizer's state beside parameters: like them, and with an axis split along it as well."""
    leaves, treedef = jax.tree.flatten(params)
    specs = [own_spec(leaf, mesh) for leaf in leaves]

    def sharding(leaf: Any, spec: PartitionSpec | None) -> NamedSharding:
        spec = (spec or EVERYWHERE) if axis is None else split_spec(leaf, spec, mesh, axis)
        return NamedSharding(mesh, spec, memory_kind=own_memory(leaf))

    def beside(spec: PartitionSpec | None, param: Any, field: Any) -> Any:
        """Of what a field has in place of one parameter."""
        return jax.tree.map(lambda leaf: sharding(leaf, spec if _shape(leaf) == _shape(param) else None), field)

    def like_params(field: Any) -> Any:
        try:
            columns = per_leaf(treedef, field)
        except (ValueError, TypeError, KeyError):
            return jax.tree.map(lambda leaf: sharding(leaf, None), field)  # kept in another structure, e.g. packed
        return tree_of(treedef, list(map(beside, specs, leaves, columns)))

    def foreign(leaf: Any) -> NamedSharding:
        alike = [spec for spec, param in zip(specs, leaves, strict=True) if _shape(param) == _shape(leaf)]
        return sharding(leaf, alike[0]) if alike and is_inexact(leaf) else NamedSharding(mesh, EVERYWHERE)

    return _over_fields(like_params, foreign, NamedSharding(mesh, EVERYWHERE), state)


def _over_fields(like_params: Callable[[Any], Any], foreign: Callable[[Any], Any], everywhere: Any, state: Any) -> Any:
    def of(value: Any) -> Any:
        if type(value) is dict:
            return {name: of(part) for name, part in value.items()}
        if not is_state(value):
            return jax.tree.map(foreign, value)
        fields = []
        for role, field in zip(roles(type(value)).values(), value, strict=True):
            if role.kind == "nested":
                fields.append(of(field))
            else:
                fields.append(like_params(field) if role.like_params else jax.tree.map(lambda _: everywhere, field))
        return type(value)(*fields)

    return of(state)


def _shape(leaf: Any) -> tuple[int, ...]:
    return tuple(jnp.shape(leaf))

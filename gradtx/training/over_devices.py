"""A batch split among devices: each evaluates the loss on its own examples, and what they find is put together."""

from collections.abc import Callable
from typing import Any, Never

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from gradtx.errors import BatchError
from gradtx.training.micro_batches import Evaluated, has_equation, length_of
from gradtx.training.parallel import Devices
from gradtx.training.sharded_state import EVERYWHERE
from gradtx.tree import wide_dtype

Agreed = Callable[[jax.Array], jax.Array]


def over_devices(
    evaluate: Callable[..., tuple[Evaluated, jax.Array]],
    devices: Devices,
    params: Any,
    model_state: Any,
    batch: Any,
    key: jax.Array,
    *,
    gathered: list[int | None],
    scattered: list[int | None],
) -> tuple[Evaluated, jax.Array]:
    """What ``evaluate(params, model_state, batch, key, agreed)`` gives for a batch of which each device has a share.

    With ``e_i`` examples on device ``i`` of ``n``, and its gradients ``g_i``, loss and metrics alike::

        g = sum_i e_i g_i / sum_i e_i              in float32 or wider

    Of ``length = q n + r`` examples the first ``r`` devices have ``q + 1`` and the others ``q``; nothing is filled up
    and no mask is needed, but the loss is compiled for both lengths where ``r > 0``. Device ``i`` draws from
    ``fold_in(key, i)``. Model states are averaged alike, and of integers the largest is kept.

    Parameters are split along the dimensions ``gathered``, one for each leaf, and put together on each device; of
    gradients of floating-point leaves each device gets its part along the dimensions ``scattered``.
    """
    axis, count = devices.axis, devices.size
    size, longer = shares(devices, batch)
    leaves, treedef = jax.tree.flatten(batch)
    is_split = [jnp.ndim(leaf) > 0 for leaf in leaves]
    rows = [_rows(leaf, count, size, longer) if cut else leaf for leaf, cut in zip(leaves, is_split, strict=True)]

    def on_device(params: Any, model_state: Any, key: jax.Array, number: jax.Array, rows: list[Any]) -> Any:
        params = jax.tree.unflatten(
            jax.tree.structure(params),
            [
                leaf if dimension is None else jax.lax.all_gather(leaf, axis, axis=dimension, tiled=True)
                for leaf, dimension in zip(jax.tree.leaves(params), gathered, strict=True)
            ],
        )
        key = jax.random.fold_in(key, number)

        def of(length: int, agreed: Agreed) -> tuple[Evaluated, jax.Array]:
            own = [leaf[:length] if cut else leaf for leaf, cut in zip(rows, is_split, strict=True)]
            return evaluate(params, model_state, treedef.unflatten(own), key, agreed)

        if longer:
            found, left_out = jax.lax.cond(number < longer, lambda: of(size + 1, _alone), lambda: of(size, _alone))
        else:
            found, left_out = of(size, lambda is_finite: jax.lax.pmin(is_finite.astype(jnp.int32), axis) > 0)
        return _together(found, scattered, axis), jax.lax.pmax(left_out, axis)

    numbers = jnp.arange(count)
    if devices.parallel == "pmap":
        each = [0 if cut else None for cut in is_split]
        run = jax.pmap(on_device, axis_name=axis, in_axes=(None, None, None, 0, each), out_axes=None,
                       devices=list(devices.mesh.devices.flat))  # fmt: skip
        return run(params, model_state, key, numbers, rows)

    def on_shard(params: Any, model_state: Any, key: jax.Array, number: jax.Array, rows: list[Any]) -> Any:
        own = [leaf[0] if cut else leaf for leaf, cut in zip(rows, is_split, strict=True)]
        return on_device(params, model_state, key, number[0], own)

    along = PartitionSpec(axis)
    shapes = jax.tree.structure(params)
    in_specs = (
        shapes.unflatten([_along(dimension, axis) for dimension in gathered]),
        EVERYWHERE, EVERYWHERE, along, [along if cut else EVERYWHERE for cut in is_split],
    )  # fmt: skip
    grads = [_along(dimension, axis) for dimension in scattered]
    found: Any = (EVERYWHERE, EVERYWHERE, grads, EVERYWHERE)
    out_specs = (Evaluated(*found), EVERYWHERE)
    run = jax.shard_map(
        on_shard, mesh=devices.mesh, in_specs=in_specs, out_specs=out_specs, axis_names={axis}, check_vma=False
    )
    return run(params, model_state, key, numbers, rows)


def shares(devices: Devices, batch: Any) -> tuple[int, int]:
    """How many examples each device has, and how many devices have one more.

    Raises:
        BatchError: Arrays of several lengths, or fewer examples than devices.
    """
    call = f'step(state, batch) with parallel="{devices.parallel}"'
    length = length_of(batch, call)
    if length < devices.size:
        raise BatchError(
            call, expected=f"at least one example for each of {devices.size} devices", got=length,
            cause="the last batch of the data is shorter than the others",
            fix=f'write batch, mask = padded(batch, {devices.size}) and leave out by the mask; or parallel="jit"',
        )  # fmt: skip
    return divmod(length, devices.size)


def refuse_shares(devices: Devices) -> Never:
    """Raises: devices that wait for each other in the loss have to run the same program."""
    raise BatchError(
        f'step(state, batch) with parallel="{devices.parallel}"',
        expected="devices with equally many examples, as the loss has sums over devices",
        got="a batch that they do not divide",
        cause="the last batch of the data is shorter than the others",
        fix='write batch, mask = padded(batch, length), and return {"examples": jnp.sum(mask)}; or parallel="jit"',
    )


def sums_over_devices(devices: Devices, function: Callable[..., Any], *arguments: Any) -> bool:
    """Whether devices wait for each other in ``function``, as for the statistics of a norm with ``axis_name``."""

    def communicates(eqn: Any) -> bool:
        if eqn.primitive.name == "axis_index":
            return False
        names = [eqn.params.get(name) for name in ("axes", "axis_name")]
        return any(devices.axis in (name if isinstance(name, tuple) else (name,)) for name in names)

    return has_equation(jax.make_jaxpr(function)(*arguments).jaxpr, communicates)


def counted_alike(found: Evaluated, devices: Devices) -> Evaluated:
    """Loss and metrics of device ``i`` times ``e_i / e``, and ``e`` examples on each, the mean over devices.

    For a loss with sums over devices: what is differentiated on each is the sum of all their losses, so these must be
    weighted before, and not their gradients afterwards.
    """
    examples = found.metrics["examples"].astype(jnp.result_type(float))
    mean = jax.lax.pmean(examples, devices.axis)
    share = jnp.where(mean == 0, 1, examples / jnp.where(mean == 0, 1, mean))

    def weighted(leaf: jax.Array) -> jax.Array:
        return jnp.where(share == 0, 0, leaf) * share.astype(wide_dtype(leaf.dtype))

    metrics = {**jax.tree.map(weighted, found.metrics), "examples": mean}
    return found._replace(value=weighted(found.value), metrics=metrics)


def _alone(is_finite: jax.Array) -> jax.Array:
    return is_finite


def _rows(leaf: Any, count: int, size: int, longer: int) -> jax.Array:
    """One row of examples for each device; shorter ones are filled up with an example that is cut off again."""
    if not longer:
        return jnp.reshape(leaf, (count, size, *jnp.shape(leaf)[1:]))
    number = jnp.arange(count)
    first = number * size + jnp.minimum(number, longer)
    places = jnp.minimum(first[:, None] + jnp.arange(size + 1), jnp.shape(leaf)[0] - 1)
    return jnp.take(jnp.asarray(leaf), places, axis=0)


def _along(dimension: int | None, axis: str) -> PartitionSpec:
    return EVERYWHERE if dimension is None else PartitionSpec(*[None] * dimension, axis)


def _together(found: Evaluated, scattered: list[int | None], axis: str) -> Evaluated:
    """The means over devices, weighted by their examples; a device without any adds nothing, not even a NaN."""
    examples = found.metrics["examples"]
    weight = examples.astype(jnp.result_type(float))
    total = jax.lax.psum(weight, axis)
    is_empty = total == 0  # then each device counts alike: what the loss makes of none is for it to say
    share = jnp.where(is_empty, 1 / jax.lax.axis_size(axis), weight / jnp.where(is_empty, 1, total))

    def weighted(leaf: jax.Array) -> jax.Array:
        wide = leaf.astype(wide_dtype(leaf.dtype))
        return jnp.where(share == 0, 0, wide) * share.astype(wide.real.dtype)

    def mean(leaf: jax.Array) -> jax.Array:
        return jax.lax.psum(weighted(leaf), axis)

    def scatter(leaf: jax.Array, dimension: int | None) -> jax.Array:
        if dimension is None:
            return mean(leaf)
        return jax.lax.psum_scatter(weighted(leaf), axis, scatter_dimension=dimension, tiled=True)

    def state(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            return jnp.where(total > 0, mean(leaf).astype(leaf.dtype), leaf)
        return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.extended) else jax.lax.pmax(leaf, axis)

    metrics = jax.tree.map(mean, found.metrics)
    metrics["examples"] = jax.lax.psum(examples, axis)
    grads = [scatter(*leaf) for leaf in zip(found.grads, scattered, strict=True)] if found.grads else []
    return Evaluated(mean(found.value), metrics, grads, jax.tree.map(state, found.model_state))

"""Batches of arrays in memory, in an order that depends on a key and on nothing else."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from gradtx.errors import ArgumentTypeError, BatchError, Count, Index, checked_call, show
from gradtx.training.keys import key_data, typed_key
from gradtx.tree import path_name


@checked_call
def batches(
    data: Any,
    batch_size: Count,
    *,
    key: Any = None,
    epochs: Count | None = 1,
    start: Index = 0,
    drop_last: bool = False,
    transform: Callable[[jax.Array, Any], Any] | None = None,
) -> Iterator[Any]:
    """Cuts data into batches, epoch after epoch; a batch is a copy with the structure of the data, in NumPy.

    With a key, every epoch has its own order, a function of (key, epoch) alone; without, the order of the data. The
    sequence can be entered anywhere: ``start`` batches are skipped at no cost, so a run that stopped goes on exactly
    where it was with ``start=int(state.step)``.

    Args:
        data: Any tree of arrays (NumPy or JAX) with one length on their leading axes.
        batch_size: Examples per batch; the last batch of an epoch has the rest.
        key: One random key, typed or raw; None keeps the order.
        epochs: Passes over the data, counted from the very beginning; None never ends.
        start: Batches already used, over all epochs.
        drop_last: Leave out a short last batch, so that all shapes are equal (each new shape compiles a step again).
        transform: ``(key, batch) -> batch``, with a key of its own for each batch, a function of (key, position).

    Raises:
        BatchError: Arrays of different lengths, no example, or no full batch with ``drop_last``.
        ArgumentTypeError, ArgumentRangeError: Another argument of the wrong kind or size.

    >>> import numpy as np
    >>> from gradtx.training import batches
    >>> [batch["x"].tolist() for batch in batches({"x": np.arange(5)}, 2)]
    [[0, 1], [2, 3], [4]]
    """
    call = f"batches({show(data)}, {batch_size})"
    leaves, structure = jax.tree.flatten(data)
    length = _length(data, call)
    per_epoch = _full_or_short(length, batch_size, drop_last, call)
    if transform is not None and key is None:
        raise ArgumentTypeError(
            call,
            expected="a key that transform, a function (key, batch) -> batch, draws from",
            got="none",
            cause="a transformation draws random numbers",
            fix="write batches(data, batch_size, key=jax.random.key(0), transform=shift)",
        )
    words = None if key is None else key_data(key, call)
    arrays = [np.asarray(leaf) for leaf in leaves]

    def generate() -> Iterator[Any]:
        position, order, ordered = start, np.arange(length), -1
        while epochs is None or position < epochs * per_epoch:
            epoch, index = divmod(position, per_epoch)
            if words is not None and epoch != ordered:
                order, ordered = _order(words, epoch, length), epoch
            chosen = order[index * batch_size : (index + 1) * batch_size]
            batch = structure.unflatten([np.take(array, chosen, axis=0) for array in arrays])
            yield batch if transform is None else transform(_batch_key(words, position), batch)
            position += 1

    return generate()


@checked_call
def batches_per_epoch(data: Any, batch_size: Count, *, drop_last: bool = False) -> int:
    """How many batches :func:`batches` cuts in one epoch: the number of examples over ``batch_size``, rounded up (down
    with ``drop_last``). Raises the same errors.
    """
    call = f"batches_per_epoch({show(data)}, {batch_size})"
    return _full_or_short(_length(data, call), batch_size, drop_last, call)


def _order(words: jax.Array, epoch: int, length: int) -> np.ndarray:
    """A permutation from the raw stream of a bit generator, which NumPy keeps the same from release to release."""
    seed = np.random.SeedSequence([*np.asarray(words).tolist(), epoch])
    return np.argsort(np.random.PCG64(seed).random_raw(length), kind="stable")


@jax.jit
def _batch_key(words: jax.Array | None, position: int) -> jax.Array:
    """Folds in a constant first: a train state made from the same key then draws other numbers."""
    assert words is not None
    return jax.random.fold_in(jax.random.fold_in(typed_key(words), 0x62617463), position)


def _full_or_short(length: int, batch_size: int, drop_last: bool, call: str) -> int:
    per_epoch = length // batch_size if drop_last else -(-length // batch_size)
    if per_epoch == 0:
        raise BatchError(
            call,
            expected="at least one full batch with drop_last=True",
            got=f"{length} examples for batches of {batch_size}",
            cause="the data are smaller than one batch",
            fix=f"write batch_size={length}, or drop_last=False",
        )
    return per_epoch


def _length(data: Any, call: str) -> int:
    """The common length of the leading axes."""
    lengths = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        name = path_name(path) or "data"
        if np.ndim(leaf) == 0:
            raise BatchError(
                call,
                expected="arrays with a leading axis of examples",
                got=f"{type(leaf).__name__} {show(leaf)}",
                at=name,
                cause="a list is read as a tree of its elements",
                fix="write np.asarray(values)",
            )
        lengths[name] = np.shape(leaf)[0]
    if len(set(lengths.values())) > 1:
        raise BatchError(
            call,
            expected="one length of all leading axes",
            got=", ".join(f"{length} at {name}" for name, length in lengths.items()),
            cause="an array was cut or filtered without the others, or its examples lie on another axis",
            fix="cut all with one index: jax.tree.map(lambda x: x[chosen], data)",
        )
    if not lengths or 0 in lengths.values():
        raise BatchError(
            call,
            expected="at least one example",
            got="none",
            cause="the tree is empty, or a filter left nothing",
            fix="write batches({'image': images, 'label': labels}, batch_size)",
        )
    return next(iter(lengths.values()))

"""One batch, or one fixed list of batches that count by their examples."""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gradtx import errors


class Dataset(NamedTuple):
    """Batches of one data set and the number of examples in each; made by :func:`dataset`."""

    batches: tuple[Any, ...]
    examples: tuple[int, ...]


@errors.checked_call
def dataset(batches: Iterable[Any], *, examples: Callable[[Any], int] | None = None) -> Dataset:
    """A fixed list of batches, to be given wherever this room takes a ``batch``.

    Their mean losses are weighted by examples, ``L = sum_b n_b L_b / sum_b n_b``, so a short last batch counts for what
    it has. One function is compiled for each shape of a batch.

    Args:
        batches: Any iterable of batches; an iterator is read to its end, once, here.
        examples: ``batch -> int``; by default the common length of the leading axes.

    Raises:
        ArgumentTypeError: ``batches`` cannot be iterated over.
        BatchError: No batch, as from a generator that was used up before; a batch whose examples cannot be counted.

    >>> import jax.numpy as jnp
    >>> from gradtx import curvature
    >>> curvature.dataset([jnp.ones((4, 2)), jnp.ones((3, 2))]).examples
    (4, 3)
    """
    if not isinstance(batches, Iterable):
        raise errors.ArgumentTypeError(
            "dataset(batches)",
            expected="batches must be an iterable of batches",
            got=errors.show(batches),
            cause="one batch needs no dataset around it",
            fix="write dataset(list_of_batches)",
        )
    listed = tuple(batches)
    if not listed:
        raise errors.BatchError(
            "dataset(batches)",
            expected="at least one batch",
            got="none",
            cause="a generator gives its batches only once",
            fix="write batches = list(generator) before the first use, and dataset(batches)",
        )
    counts = []
    for index, batch in enumerate(listed):
        count = _leading(batch) if examples is None else examples(batch)
        if not isinstance(count, int | np.integer) or isinstance(count, bool) or count < 1:
            raise errors.BatchError(
                "dataset(batches)",
                expected="a number of examples for each batch",
                got=f"{errors.show(count)} for batch {index}",
                cause="its arrays have no common leading axis" if count is None else "it is empty",
                fix="write dataset(batches, examples=lambda batch: batch['count'])",
            )
        counts.append(int(count))
    return Dataset(listed, tuple(counts))


def as_dataset(call: Any, batch: Any) -> Dataset:
    """The data set that a ``batch`` argument is: itself, or one batch that weighs 1."""
    given = batch if isinstance(batch, Dataset) else Dataset((jax.tree.map(_on_device, batch),), (1,))
    for leaf in jax.tree.leaves(given.batches):
        if isinstance(leaf, jax.Array | np.ndarray | np.generic | int | float | complex):
            continue
        iterates = isinstance(leaf, Iterator)
        raise errors.BatchError(
            call,
            expected="a batch must be a tree of arrays or None",
            got=f"{type(leaf).__name__} {errors.show(leaf)}",
            cause="an iterator gives its batches only once" if iterates else "what is no array cannot be compiled for",
            fix="write curvature.dataset(batches)" if iterates else "leave it out of the batch",
        )
    return given


def pieces(data: Dataset, most: int = 8) -> Dataset | None:
    """A single batch cut along its leading axis into at most so many batches; None where it cannot be cut."""
    if len(data.batches) > 1:
        return data
    batch = next(iter(data.batches))
    count = _leading(batch)
    if count is None or count < 2:
        return None
    cuts = np.linspace(0, count, min(most, count) + 1).round().astype(int)
    bounds = [slice(*pair) for pair in itertools.pairwise(cuts)]
    parts = tuple(jax.tree.map(operator.itemgetter(bound), batch) for bound in bounds)
    return Dataset(parts, tuple(int(n) for n in np.diff(cuts)))


def _leading(batch: Any) -> int | None:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    lengths = {shape[0] if shape else None for shape in shapes}
    return lengths.pop() if len(lengths) == 1 else None


def _on_device(leaf: Any) -> Any:
    return jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic) else leaf

"""Claims about ``training.batches``."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradtx import errors
from gradtx.training import batches, batches_per_epoch

KEY = jax.random.key(0)
ORDER = [[3, 2, 1, 6, 0, 7, 4, 5], [7, 6, 4, 5, 3, 1, 0, 2]]


def numbered(length):
    return {"x": 10 * np.arange(length), "y": (np.arange(length),)}


def rows(iterator):
    return [batch["y"][0].tolist() for batch in iterator]


sizes = st.tuples(st.integers(1, 30), st.integers(1, 35))


@settings(deadline=None)
@given(sizes, st.integers(1, 3), st.booleans())
def test_every_epoch_has_every_example_exactly_once(size, epochs, is_shuffled):
    length, batch_size = size
    per_epoch = batches_per_epoch(numbered(length), batch_size)
    cut = rows(batches(numbered(length), batch_size, key=KEY if is_shuffled else None, epochs=epochs))
    assert len(cut) == epochs * per_epoch
    for epoch in range(epochs):
        parts = cut[epoch * per_epoch : (epoch + 1) * per_epoch]
        assert sorted(itertools.chain(*parts)) == list(range(length))
        assert [len(part) for part in parts[:-1]] == [batch_size] * (per_epoch - 1)


@settings(deadline=None)
@given(sizes, st.integers(0, 100), st.booleans(), st.booleans())
def test_resuming_gives_exactly_the_rest_of_the_uninterrupted_sequence(size, done, is_shuffled, drop_last):
    length, batch_size = size
    batch_size = min(batch_size, length)
    options = {"key": KEY if is_shuffled else None, "epochs": 3, "drop_last": drop_last}
    whole = rows(batches(numbered(length), batch_size, **options))
    assert rows(batches(numbered(length), batch_size, start=done, **options)) == whole[done:]


@settings(deadline=None)
@given(sizes)
def test_drop_last_leaves_full_batches_alone(size):
    length, batch_size = max(size), min(size)
    cut = rows(batches(numbered(length), batch_size, key=KEY, drop_last=True))
    assert [len(part) for part in cut] == [batch_size] * (length // batch_size)
    assert batches_per_epoch(numbered(length), batch_size, drop_last=True) == len(cut)


def test_all_leaves_are_cut_with_one_index():
    for batch in batches(numbered(10), 3, key=KEY):
        np.testing.assert_array_equal(batch["x"], 10 * batch["y"][0])


def test_the_order_is_a_function_of_key_and_epoch():
    first = rows(batches(numbered(20), 20, key=KEY, epochs=2))
    assert first[0] != first[1]
    assert first == rows(batches(numbered(20), 20, key=jax.random.PRNGKey(0), epochs=2))
    assert first != rows(batches(numbered(20), 20, key=jax.random.key(1), epochs=2))
    of_other_size = list(itertools.chain(*rows(batches(numbered(20), 7, key=jax.random.PRNGKey(0)))))
    assert of_other_size == first[0]


def test_the_order_stays_the_same_from_release_to_release():
    assert rows(batches(numbered(8), 8, key=jax.random.PRNGKey(0), epochs=2)) == ORDER


def test_without_a_key_the_order_is_that_of_the_data():
    assert rows(batches(numbered(5), 2, epochs=2)) == [[0, 1], [2, 3], [4], [0, 1], [2, 3], [4]]


def test_without_epochs_the_sequence_never_ends():
    endless = batches(numbered(5), 2, key=KEY, epochs=None)
    assert len(list(itertools.islice(endless, 1000))) == 1000


def test_resuming_an_endless_sequence_skips_at_no_cost():
    far = batches(numbered(5), 5, key=KEY, epochs=None, start=10**9)
    assert sorted(next(far)["y"][0]) == [0, 1, 2, 3, 4]


def test_a_transform_gets_a_key_of_its_own_that_depends_on_the_position_alone():
    def draw(key, batch):
        return float(jax.random.uniform(key))

    drawn = list(batches(numbered(5), 2, key=KEY, epochs=2, transform=draw))
    assert len(set(drawn)) == 6
    assert list(batches(numbered(5), 2, key=KEY, epochs=2, transform=draw, start=4)) == drawn[4:]
    assert list(batches(numbered(50), 25, key=KEY, transform=draw)) == drawn[:2]


def test_the_keys_of_a_transform_are_not_those_of_the_steps():
    keys = list(batches(numbered(6), 1, key=KEY, transform=lambda key, batch: jax.random.key_data(key).tolist()))
    of_steps = [jax.random.key_data(jax.random.fold_in(KEY, step)).tolist() for step in range(6)]
    assert not any(key in of_steps for key in keys)


def test_writing_into_a_batch_leaves_the_data_alone():
    data = numbered(4)
    for batch in batches(data, 2):
        batch["x"][:] = -1
    np.testing.assert_array_equal(data["x"], 10 * np.arange(4))


def test_jax_arrays_and_low_precision_keep_their_dtype():
    data = {"a": jnp.ones((4, 2), jnp.bfloat16), "b": jnp.arange(4, dtype=jnp.uint8)}
    batch = next(batches(data, 2))
    assert (batch["a"].dtype, batch["b"].dtype) == (jnp.bfloat16, np.uint8)
    assert all(isinstance(leaf, np.ndarray) for leaf in batch.values())


@pytest.mark.parametrize(
    ("make", "error", "hint"),
    [
        (lambda: batches({"x": np.ones(3), "y": np.ones(4)}, 2), errors.BatchError, "3 at x, 4 at y"),
        (lambda: batches({}, 2), errors.BatchError, "at least one example"),
        (lambda: batches(np.ones((0, 3)), 2), errors.BatchError, "at least one example"),
        (lambda: batches([1, 2, 3], 2), errors.BatchError, "np.asarray"),
        (lambda: batches(np.ones(3), 4, drop_last=True), errors.BatchError, "batch_size=3"),
        (lambda: batches_per_epoch(np.ones(3), 4, drop_last=True), errors.BatchError, "batch_size=3"),
        (lambda: batches(np.ones(3), 0), errors.ArgumentRangeError, "batch_size"),
        (lambda: batches(np.ones(3), 2.0), errors.ArgumentTypeError, "batch_size"),
        (lambda: batches(np.ones(3), 2, epochs=0), errors.ArgumentRangeError, "epochs"),
        (lambda: batches(np.ones(3), 2, start=-1), errors.ArgumentRangeError, "start"),
        (lambda: batches(np.ones(3), 2, key=0), errors.ArgumentTypeError, "jax.random.key(0)"),
        (lambda: batches(np.ones(3), 2, transform=lambda key, batch: batch), errors.ArgumentTypeError, "key=jax"),
        (lambda: batches(np.ones(3), 2, key=KEY, transform=1), errors.ArgumentTypeError, "must be a function"),
        (lambda: batches(np.ones(3), 2, keys=KEY), errors.ArgumentTypeError, "'key'"),
        (lambda: batches(np.ones(3), 2, drop_last="no"), errors.ArgumentTypeError, "drop_last"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named_at_the_call_and_not_at_the_first_batch(make, error, hint):
    with pytest.raises(error) as caught:
        make()
    assert hint in str(caught.value)

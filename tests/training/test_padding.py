"""Claims about filling up a short batch."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import errors
from gradtx.training import padded


def test_what_is_filled_in_is_the_first_example_and_the_mask_leaves_it_out():
    batch, mask = padded({"x": np.arange(6.0).reshape(3, 2), "label": np.array([7, 8, 9]), "weight": 0.5}, 5)
    assert mask.tolist() == [True, True, True, False, False]
    assert batch["label"].tolist() == [7, 8, 9, 7, 7] and batch["weight"] == 0.5
    np.testing.assert_array_equal(batch["x"], [[0, 1], [2, 3], [4, 5], [0, 1], [0, 1]])


def test_a_full_batch_is_given_back_as_it_is():
    x = np.arange(3)
    batch, mask = padded({"x": x}, 3)
    assert batch["x"] is x and mask.all()


def test_types_and_libraries_stay():
    batch, _ = padded({"a": np.zeros((1, 2), np.float16), "b": jnp.zeros((1,), jnp.bfloat16)}, 2)
    assert isinstance(batch["a"], np.ndarray) and batch["a"].dtype == np.float16
    assert isinstance(batch["b"], jnp.ndarray) and batch["b"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("batch", "length"),
    [({"x": np.zeros(3)}, 2), ({"x": np.zeros(3), "y": np.zeros(2)}, 4), ({"x": np.zeros(0)}, 4), ({"x": 1.0}, 4)],
)
def test_a_batch_that_cannot_be_filled_up_is_refused(batch, length):
    with pytest.raises(errors.BatchError, match="padded"):
        padded(batch, length)


def test_a_length_that_is_none_is_refused():
    with pytest.raises(errors.ArgumentRangeError):
        padded({"x": np.zeros(3)}, 0)

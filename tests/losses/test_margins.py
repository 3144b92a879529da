"""Claims about losses with a margin that the table of losses does not make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import errors, losses


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_targets_that_cannot_be_negative_are_an_error(dtype):
    with pytest.raises(errors.DtypeError, match=r"2 \* targets"):
        losses.hinge_loss(np.zeros(3, np.float32), np.ones(3, dtype))


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1])
def test_a_class_out_of_range_is_nan_for_its_example_alone(label):
    loss = losses.multiclass_hinge_loss(np.zeros((3, 3), np.float32), np.array([0, label, 2]))
    assert np.isnan(loss).tolist() == [False, True, False]


def test_the_margin_counts_beside_scores_of_any_size():
    for size in (0.0, 1e8, 1e30, 3e38):
        scores = jnp.full((1, 3), size, jnp.float32)
        assert losses.multiclass_hinge_loss(scores, jnp.array([1])).tolist() == [1.0]


def test_rivals_with_equal_scores_share_the_gradient():
    slopes = jax.grad(lambda s: losses.multiclass_hinge_loss(s, 0))(jnp.zeros(3))
    np.testing.assert_array_equal(slopes, [-1, 0.5, 0.5])


def test_one_class_has_no_rival():
    assert losses.multiclass_hinge_loss(np.ones((2, 1), np.float32), np.zeros(2, int)).tolist() == [0.0, 0.0]


def test_a_class_left_out_is_no_rival():
    scores, where = np.array([[0.0, 9.0, 0.5]], np.float32), np.array([[True, False, True]])
    assert losses.multiclass_hinge_loss(scores, np.array([0]), where=where).tolist() == [1.5]
    slopes = jax.grad(lambda s: losses.multiclass_hinge_loss(s, np.array([0]), where=where)[0])(scores)
    np.testing.assert_array_equal(slopes, [[-1, 0, 1]])


def test_an_impossible_rival_costs_nothing():
    scores = jnp.array([[0.0, -jnp.inf]])
    value, slopes = jax.value_and_grad(lambda s: losses.multiclass_hinge_loss(s, jnp.array([0]))[0])(scores)
    assert value == 0 and not slopes.any()


@pytest.mark.parametrize("scores", [np.zeros((2, 0), np.float32), np.float32(1)])
def test_scores_without_a_class_are_an_error(scores):
    with pytest.raises(errors.ShapeError, match="at least one class"):
        losses.multiclass_hinge_loss(scores, np.zeros(2, int))

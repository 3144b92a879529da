"""What every loss obeys, held against exact arithmetic, row by row."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.test_util import check_grads

from gradtx import errors, losses
from tests.losses.table import MAX, ROWS

EPS = float(np.finfo(np.float32).eps)
TINY = 1e-37  # what is smaller is flushed to zero on the way
COUNT = 24

every_row = pytest.mark.parametrize("row", ROWS, ids=str)
rows_with_peer = pytest.mark.parametrize("row", [row for row in ROWS if row.peer], ids=str)
low_precision = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])


def examples(row, count=COUNT, seed=0, dtype=np.float32):
    """Predictions and targets of ``count`` examples."""
    rng = np.random.default_rng(seed)
    x, y = zip(*(row.example(rng) for _ in range(count)), strict=True)
    y = np.asarray(y)
    return np.asarray(x, dtype), y if y.dtype.kind == "i" else y.astype(dtype)


def extremes(row):
    x, y = zip(*row.extremes, strict=True)
    width = max(map(np.size, x))
    x = [a for a in x if np.size(a) == width]
    y = np.asarray([b for a, b in row.extremes if np.size(a) == width])
    return np.asarray(x, np.float32), y if y.dtype.kind == "i" else y.astype(np.float32)


def exactly(row, x, y):
    """Losses and gradients of examples in exact arithmetic, each with the size that its error is compared with."""
    values, sizes, slopes, slope_sizes = [], [], [], []
    with mpmath.workdps(150):
        for a, b in zip(x, y, strict=True):
            a, b = a.tolist(), b.tolist()
            value = row.oracle(a, b)
            values.append(float(value) if abs(value) <= MAX else np.inf)
            sizes.append(abs(float(value)) if row.scale is None else row.scale(a, b))
            slopes.append(slope(row, a, b))
            slope_sizes.append(np.max(np.abs(slopes[-1])) if row.slopes is None else row.slopes(a, b))
    slope_sizes = np.array(slope_sizes)
    return np.array(values), np.array(sizes), np.array(slopes), slope_sizes[:, None] if row.size else slope_sizes


def slope(row, a, b):
    """The derivative by the predictions: a central difference with steps of 1e-30 of each in 150 digits."""
    vector = a if isinstance(a, list) else [a]
    found = []
    for index, component in enumerate(vector):
        step = mpmath.mpf(10) ** -30 * max(abs(component), mpmath.mpf(10) ** -30)
        if not np.isfinite(component):
            found.append(0.0)
            continue
        ends = []
        for sign in (1, -1):
            moved = [mpmath.mpf(c) for c in vector]
            moved[index] += sign * step
            ends.append(row.oracle(moved if isinstance(a, list) else moved[0], b))
        found.append(float((ends[0] - ends[1]) / (2 * step)))
    return found if isinstance(a, list) else found[0]


def gradient(row, x, y, **options):
    return np.asarray(jax.grad(lambda x: jnp.sum(row.loss(x, y, **options)))(x))


def close(found, expected, eps, sizes):
    return np.abs(found - expected) <= eps * EPS * sizes + TINY


@every_row
def test_loss_and_gradient_agree_with_exact_arithmetic(row):
    x, y = examples(row, 4 * COUNT)
    values, sizes, slopes, slope_sizes = exactly(row, x, y)
    assert close(row.loss(x, y), values, row.loss_eps, sizes).all()
    assert close(gradient(row, x, y), slopes, row.gradient_eps, slope_sizes).all()


@every_row
def test_loss_and_gradient_at_the_extremes_are_exact_and_finite(row):
    x, y = extremes(row)
    values, sizes, slopes, slope_sizes = exactly(row, x, y)
    found, steps = np.asarray(row.loss(x, y)), gradient(row, x, y)
    fits = np.isfinite(values)
    assert np.array_equal(np.isfinite(found), fits)
    assert close(found[fits], values[fits], row.loss_eps, sizes[fits]).all()
    assert np.isfinite(steps).all()
    assert close(steps, slopes, row.gradient_eps, slope_sizes).all()


@rows_with_peer
def test_a_peer_computes_the_same_and_is_nowhere_nearer_to_exact(row):
    x, y = examples(row, 4 * COUNT)
    values, sizes, _, _ = exactly(row, x, y)
    theirs, ours = np.asarray(row.peer(x, y)), np.asarray(row.loss(x, y))
    np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-5)
    our_error, their_error = (np.max(np.abs(found - values) / (sizes + TINY)) for found in (ours, theirs))
    assert our_error <= max(their_error, 2 * EPS)


@every_row
def test_the_result_has_one_loss_per_example(row):
    x, y = examples(row, 6)
    assert row.loss(x, y).shape == (6,)
    assert row.loss(x.reshape(2, 3, *x.shape[1:]), y.reshape(2, 3, *y.shape[1:])).shape == (2, 3)
    assert row.loss(x[0], y[0]).shape == ()
    assert row.loss(x[:0], y[:0]).shape == (0,)


@every_row
@low_precision
def test_low_precision_is_computed_in_float32(row, dtype):
    x, y = examples(row)
    x = jnp.asarray(np.clip(x, -6e4, 6e4), dtype)
    y = jnp.asarray(y, dtype) if y.dtype.kind == "f" else y
    loss = row.loss(x, y)
    assert loss.dtype == jnp.float32
    wide = y.astype(jnp.float32) if y.dtype == dtype else y
    np.testing.assert_array_equal(loss, row.loss(x.astype(jnp.float32), wide))
    assert gradient(row, x, y).dtype == dtype


@every_row
def test_float64_is_computed_in_float64(row):
    x, y = examples(row, dtype=np.float64)
    with jax.enable_x64(True):
        loss = row.loss(x, y)
        assert loss.dtype == jnp.float64
        with mpmath.workdps(40):
            expected = [float(row.oracle(a.tolist(), b.tolist())) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(loss, expected, rtol=1e-13, atol=1e-15)


@every_row
def test_with_the_x64_switch_float32_predictions_stay_float32(row):
    x, y = examples(row)
    narrow = row.loss(x, y)
    with jax.enable_x64(True):
        loss = row.loss(x, y.astype(np.float64) if y.dtype.kind == "f" else y)
        assert loss.dtype == jnp.float32
        assert gradient(row, x, y).dtype == np.float32
    np.testing.assert_allclose(loss, narrow, rtol=4 * EPS, atol=1e-37)


@every_row
def test_derivatives_of_first_and_second_order_agree_with_differences(row):
    """Forwards and backwards; also by the targets, where those are real numbers."""
    x, y = examples(row, 6, seed=1, dtype=np.float64)
    x = x if row.size else np.clip(x, -5, 5) + 0.013
    x = x / np.abs(x).max(-1, keepdims=True) if "cosine" in row.name else x
    with jax.enable_x64(True):
        if row.smooth_targets:
            y = (
                np.clip(y, 0.1, 0.9)
                if "sigmoid" in row.name or ("kl_divergence" in row.name and "log" not in row.name)
                else y
            )
            check_grads(row.loss, (x, y), order=2, rtol=1e-4, atol=1e-4)
        else:
            check_grads(lambda x: row.loss(x, y), (x,), order=2, rtol=1e-4, atol=1e-4)


@every_row
def test_jit_and_vmap_change_nothing(row):
    x, y = examples(row)
    eager, scale = np.asarray(row.loss(x, y)), 1.0 if row.scale else 0.0
    for way in (jax.jit, jax.vmap):
        np.testing.assert_allclose(way(row.loss)(x, y), eager, rtol=4 * EPS + row.loss_eps * EPS / 2, atol=scale * EPS)


@every_row
def test_what_is_left_out_has_no_loss_and_no_gradient_even_if_it_is_nan(row):
    x, y = examples(row)
    kept = np.arange(COUNT) % 3 != 1
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[~kept] = np.nan
    bad_y[~kept] = np.nan if y.dtype.kind == "f" else -1
    expected = np.where(kept, row.loss(x, y), 0)
    np.testing.assert_allclose(row.loss(bad_x, bad_y, where=kept), expected, rtol=1e-6, atol=EPS)
    steps = gradient(row, bad_x, bad_y, where=kept)
    np.testing.assert_allclose(steps[kept], gradient(row, x, y)[kept], rtol=1e-5, atol=4 * EPS)
    assert not steps[~kept].any()
    assert not np.asarray(row.loss(bad_x, bad_y, where=np.zeros(COUNT, bool))).any()


@every_row
def test_one_bool_may_stand_for_a_group_of_examples(row):
    x, y = examples(row, 6)
    x, y = x.reshape(2, 3, *x.shape[1:]), y.reshape(2, 3, *y.shape[1:])
    loss = np.asarray(row.loss(x, y, where=np.array([True, False])))
    np.testing.assert_allclose(loss[0], row.loss(x, y)[0], rtol=1e-6, atol=EPS)
    assert not loss[1].any()


@every_row
def test_nan_stays_visible(row):
    x, y = examples(row, 4)
    x[1] = np.nan
    assert np.isnan(row.loss(x, y)).tolist() == [False, True, False, False]


@every_row
def test_the_gradient_by_the_mean_of_what_counts_is_finite_where_targets_are_missing(row):
    x, y = examples(row)
    if y.dtype.kind == "i":
        y[::2] = -1
    else:
        y[::2] = np.nan
    kept = np.arange(COUNT) % 2 == 1

    def value(x):
        return losses.mean(row.loss(x, y, where=kept), where=kept)

    assert np.isclose(value(x), np.mean(row.loss(x[1::2], y[1::2])), rtol=1e-6)
    steps = jax.grad(value)(x)
    assert np.isfinite(steps).all() and not steps[::2].any()


def wrong_shapes(x, y):
    """Targets that NumPy would broadcast to the predictions, or that only have the same size."""
    yield y[:, None] if y.ndim == 1 else y[:, :, None]
    yield y[:1]
    yield y[0]
    yield y[None]
    yield y[:-1]
    if y.ndim == 2:
        yield y.T


@every_row
def test_targets_of_another_shape_are_an_error_that_names_the_call(row):
    x, y = examples(row, 5)
    for wrong in wrong_shapes(x, y):
        with pytest.raises(errors.ShapeError, match=rf"^{row.loss.__name__}\(float32") as caught:
            row.loss(x, wrong)
        assert str(wrong.shape) in str(caught.value) and str(y.shape) in str(caught.value)


@every_row
@pytest.mark.parametrize(
    ("make", "error", "hint"),
    [
        (lambda x, y: (np.ones(x.shape, int), y, {}), errors.DtypeError, "must be floating"),
        (lambda x, y: (x, np.ones(y.shape, complex), {}), errors.DtypeError, ""),
        (lambda x, y: (x, y, {"where": np.ones(5)}), errors.DtypeError, "mask > 0"),
        (lambda x, y: (x, y, {"where": np.ones(4, bool)}), errors.ShapeError, "(5,)"),
        (lambda x, y: (x, y, {"where": np.array(True)}), errors.ShapeError, "(5,)"),
        (lambda x, y: (x[:, None], y[:, None], {"where": np.ones((1, 5), bool)}), errors.ShapeError, "(5, 1)"),
    ],
)
def test_a_wrong_argument_is_named_before_anything_is_computed(row, make, error, hint):
    x, y, options = make(*examples(row, 5))
    with pytest.raises(error) as caught:
        jax.eval_shape(lambda: row.loss(x, y, **options))
    assert hint in str(caught.value) and str(caught.value).startswith(row.loss.__name__)


def test_every_public_loss_has_a_row():
    others = {"mean", "smooth_labels", "make_fenchel_young_loss", "make_perturbed_fun", "scale_gradient"}
    others |= {"ctc_loss", "ctc_loss_with_forward_probs", "ntxent", "triplet_margin_loss", "ranking_softmax_loss"}
    others |= {"binary_dice_loss", "dice_loss", "multiclass_generalized_dice_loss"}  # other forms: tests of their own
    assert {row.loss.__name__ for row in ROWS} == set(losses.__all__) - others

"""Claims about ``losses.ctc_loss``, held against the sum over all alignments in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, losses

EPS = float(np.finfo(np.float32).eps)


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def spelled(alignment, blank):
    return [c for c, _ in itertools.groupby(alignment) if c != blank]


def oracle(z, labels, blank=0):
    """``-log sum_a prod_t p(a_t | t)`` over all alignments, for one sequence without padding."""
    log_p = log_softmax(np.asarray(z, np.float64))
    frames, classes = log_p.shape
    total = [
        sum(log_p[t, c] for t, c in enumerate(alignment))
        for alignment in itertools.product(range(classes), repeat=frames)
        if spelled(alignment, blank) == list(labels)
    ]
    return -np.logaddexp.reduce(total) if total else np.inf


def differences(z, labels, blank=0):
    """The gradient of the oracle, by central differences."""
    z = np.asarray(z, np.float64)
    slopes = np.zeros_like(z)
    for index in np.ndindex(*z.shape):
        step = np.zeros_like(z)
        step[index] = 1e-5
        slopes[index] = (oracle(z + step, labels, blank) - oracle(z - step, labels, blank)) / 2e-5
    return slopes


LABELS = ([], [1], [2, 2], [1, 2, 1], [2, 1, 1], [1, 1, 2], [2, 1, 2, 1])


@pytest.fixture
def batch():
    """Sequences of 5 frames and 3 classes with all kinds of labels, right-padded."""
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(len(LABELS), 5, 3)).astype(np.float32)
    labels = np.array([row + [0] * (4 - len(row)) for row in LABELS])
    no_label = np.array([[0.0] * len(row) + [1.0] * (4 - len(row)) for row in LABELS])
    return z, np.zeros((len(LABELS), 5)), labels, no_label


def gradient(z, *others, **options):
    return np.asarray(jax.grad(lambda z: jnp.sum(losses.ctc_loss(z, *others, **options)))(z))


def test_the_loss_is_the_sum_over_all_alignments(batch):
    expected = [oracle(z, labels) for z, labels in zip(batch[0], LABELS, strict=True)]
    np.testing.assert_allclose(losses.ctc_loss(*batch), expected, rtol=8 * EPS)


def test_the_gradient_is_that_of_the_sum_over_all_alignments(batch):
    expected = [differences(z, labels) for z, labels in zip(batch[0], LABELS, strict=True)]
    np.testing.assert_allclose(gradient(*batch), expected, atol=1e-6)


def test_any_class_may_be_the_blank(batch):
    z, no_frame, labels, no_label = batch
    labels = np.where(labels == 2, 0, labels)
    expected = [oracle(row, [0 if c == 2 else c for c in word], blank=2) for row, word in zip(z, LABELS, strict=True)]
    np.testing.assert_allclose(losses.ctc_loss(z, no_frame, labels, no_label, blank_id=2), expected, rtol=8 * EPS)


def test_optax_computes_the_same_where_logits_are_moderate(batch):
    np.testing.assert_allclose(losses.ctc_loss(*batch), optax.ctc_loss(*batch), rtol=1e-5)
    loss, blank, label = losses.ctc_loss_with_forward_probs(*batch)
    theirs = optax.losses.ctc_loss_with_forward_probs(*batch)
    np.testing.assert_allclose(loss, theirs[0], rtol=1e-5)
    for frame in range(5):
        for ours, other in ((blank, theirs[1]), (label, theirs[2])):
            ours, other = np.asarray(ours[frame]), np.asarray(other[frame])
            if other.shape[1] == 5 and frame == 4:  # theirs has the labels' probability in it, in the last frame alone
                before = np.pad(np.asarray(label[4]), ((0, 0), (1, 0)), constant_values=-np.inf)
                ours = np.logaddexp(ours, before)
            possible = ours > -1e4
            np.testing.assert_allclose(ours[possible], other[possible], rtol=1e-5, atol=1e-5)
            assert (other[~possible] < -9e4).all()


def test_the_loss_is_the_end_of_the_forward_probabilities(batch):
    loss, blank, label = losses.ctc_loss_with_forward_probs(*batch)
    assert blank.shape == (5, len(LABELS), 5) and label.shape == (5, len(LABELS), 4)
    for row, word in enumerate(LABELS):
        ends = [blank[-1, row, len(word)]] + ([label[-1, row, len(word) - 1]] if word else [])
        assert float(loss[row]) == pytest.approx(-np.logaddexp.reduce(np.array(ends, float)), rel=1e-6)


def test_frames_that_are_none_change_nothing_wherever_they_are(batch):
    z, _, labels, no_label = batch
    wide = np.full((len(LABELS), 8, 3), np.nan, np.float32)
    frames = [1, 2, 4, 5, 7]
    wide[:, frames] = z
    no_frame = ~np.isin(np.arange(8), frames)[None].repeat(len(LABELS), 0)
    np.testing.assert_allclose(losses.ctc_loss(wide, no_frame, labels, no_label), losses.ctc_loss(*batch), rtol=4 * EPS)
    slopes = gradient(wide, no_frame, labels, no_label)
    np.testing.assert_allclose(slopes[:, frames], gradient(*batch), atol=4 * EPS)
    assert not slopes[:, [0, 3, 6]].any()


def test_what_cannot_be_spelled_costs_log_epsilon_and_has_no_gradient():
    z = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    labels, no_frame = np.array([[1, 2, 1], [1, 1, 0], [1, 2, 0]]), np.zeros((3, 2))
    no_label = np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1]])
    for log_epsilon in (-1e5, -30.0):
        loss = losses.ctc_loss(z, no_frame, labels, no_label, log_epsilon=log_epsilon)
        np.testing.assert_allclose(loss, [-log_epsilon, -log_epsilon, oracle(z[2], [1, 2])], rtol=4 * EPS)
    slopes = gradient(z, no_frame, labels, no_label)
    assert not slopes[:2].any() and slopes[2].all()


def test_no_labels_in_no_frames_cost_nothing():
    z = np.full((1, 2, 3), np.nan, np.float32)
    assert losses.ctc_loss(z, np.ones((1, 2)), np.zeros((1, 1), int), np.ones((1, 1))).tolist() == [0.0]
    assert losses.ctc_loss(z[:, :0], np.ones((1, 0)), np.zeros((1, 0), int), np.ones((1, 0))).tolist() == [0.0]
    assert losses.ctc_loss(z, np.ones((1, 2)), np.ones((1, 1), int), np.zeros((1, 1))).tolist() == [1e5]


def test_extreme_logits_have_finite_losses_and_gradients():
    """Optax lets a repeat follow without a blank, at the price of 1e5: less than the one blank costs here."""
    z = np.zeros((1, 3, 3), np.float32)
    z[0, :, 1] = 1e6
    others = np.zeros((1, 3)), np.array([[1, 1]]), np.zeros((1, 2))
    np.testing.assert_allclose(losses.ctc_loss(z, *others), [1e6], rtol=4 * EPS)
    np.testing.assert_allclose(optax.ctc_loss(z, *others), [1e5], rtol=1e-4)
    assert np.isfinite(gradient(z, *others)).all()
    z[0, :, 1] = 3e38
    assert np.isfinite(gradient(z, *others)).all()


def test_classes_of_probability_zero_have_finite_gradients():
    z = np.array([[[0, -np.inf, 1], [0, 1, -np.inf], [-np.inf, 0, 2]]], np.float32)
    others = np.zeros((1, 3)), np.array([[2, 1]]), np.zeros((1, 2))
    assert float(losses.ctc_loss(z, *others)[0]) == pytest.approx(oracle(np.maximum(z[0], -1e4), [2, 1]), rel=1e-6)
    assert np.isfinite(gradient(z, *others)).all()
    z[0, 1] = -np.inf
    assert losses.ctc_loss(z, *others).tolist() == [1e5]
    assert not gradient(z, *others).any()


@pytest.mark.parametrize("label", [-1, 3, 0])
def test_a_label_that_is_none_of_the_classes_is_nan_for_its_sequence_alone(batch, label):
    z, no_frame, labels, no_label = batch
    labels[2, 0] = label
    assert np.isnan(losses.ctc_loss(z, no_frame, labels, no_label)).tolist() == [i == 2 for i in range(len(LABELS))]
    labels[0] = label  # padded
    assert not np.isnan(losses.ctc_loss(z, no_frame, labels, no_label)[0])


def test_nan_stays_visible(batch):
    batch[0][1, 2, 0] = np.nan
    assert np.isnan(losses.ctc_loss(*batch)).tolist() == [i == 1 for i in range(len(LABELS))]


def test_over_a_thousand_frames_the_gradient_is_nearer_to_exact_than_optax():
    rng = np.random.default_rng(0)
    z, labels = 3 * rng.normal(size=(1, 1000, 8)), rng.integers(1, 8, (1, 300))
    others = np.zeros((1, 1000)), labels, np.zeros((1, 300))
    with jax.enable_x64(True):
        exact, loss = gradient(z, *others), losses.ctc_loss(z, *others)
    z = z.astype(np.float32)
    theirs = jax.grad(lambda z: optax.ctc_loss(z, *others)[0])(z)
    ours, peer = (np.abs(found - exact).max() for found in (gradient(z, *others), np.asarray(theirs)))
    assert ours < 1e-5 and ours <= peer
    np.testing.assert_allclose(losses.ctc_loss(z, *others), loss, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_in_float32(batch, dtype):
    z = jnp.asarray(batch[0], dtype)
    loss = losses.ctc_loss(z, *batch[1:])
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, losses.ctc_loss(z.astype(jnp.float32), *batch[1:]))
    assert gradient(z, *batch[1:]).dtype == dtype


def test_jit_changes_nothing_and_paddings_may_be_bools(batch):
    z, no_frame, labels, no_label = batch
    loss = jax.jit(losses.ctc_loss)(z, no_frame.astype(bool), labels, no_label.astype(np.int32))
    np.testing.assert_allclose(loss, losses.ctc_loss(*batch), rtol=4 * EPS)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"logits": np.zeros((7, 5, 3), int)}, errors.DtypeError, "must be floating"),
        ({"logits": np.zeros((5, 3), np.float32)}, errors.ShapeError, "[batch, frames, classes]"),
        ({"labels": np.zeros((7, 4))}, errors.DtypeError, "must be integers"),
        ({"labels": np.zeros((6, 4), int)}, errors.ShapeError, "(7, length)"),
        ({"logit_paddings": np.zeros(7)}, errors.ShapeError, "one per frame"),
        ({"label_paddings": np.zeros((7, 5))}, errors.ShapeError, "one per label"),
        ({"label_paddings": np.zeros((7, 4), complex)}, errors.DtypeError, "0 or 1"),
        ({"blank_id": 3}, errors.ArgumentRangeError, "one of the 3 classes"),
        ({"blank_id": -1}, errors.ArgumentRangeError, "blank_id"),
        ({"log_epsilon": "x"}, errors.ArgumentTypeError, "log_epsilon"),
    ],
)
def test_a_wrong_argument_is_named(batch, change, error, words):
    names = ("logits", "logit_paddings", "labels", "label_paddings")
    with pytest.raises(error) as caught:
        losses.ctc_loss(**{**dict(zip(names, batch, strict=True)), **change})
    assert words in str(caught.value) and str(caught.value).startswith("ctc_loss(")

"""Claims about losses of single classes that the table of losses does not make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import errors, losses
from tests.losses.table import binary, focal

EPS = float(np.finfo(np.float32).eps)

both = pytest.mark.parametrize("loss", [losses.sigmoid_binary_cross_entropy, losses.sigmoid_focal_loss])


@both
@pytest.mark.parametrize(("logit", "label"), [(np.inf, 1), (-np.inf, 0), (np.inf, 0), (-np.inf, 1)])
def test_an_infinite_logit_costs_nothing_or_infinity_with_a_finite_gradient(loss, logit, label):
    agrees = (logit > 0) == bool(label)
    assert float(loss(jnp.float32(logit), label)) == (0 if agrees else np.inf)
    assert float(jax.grad(loss)(jnp.float32(logit), label)) == (0 if agrees else np.sign(logit))


@both
@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.uint8, np.float32, np.float16])
def test_labels_of_any_real_dtype_mean_the_same(loss, dtype):
    z, y = np.linspace(-3, 3, 8, dtype=np.float32), np.arange(8) % 2
    np.testing.assert_array_equal(loss(z, y.astype(dtype)), loss(z, y.astype(np.float32)))


def test_the_gradient_by_the_label_is_the_negative_logit():
    z = np.linspace(-30, 30, 13, dtype=np.float32)
    for y in (0.0, 0.3, 1.0):
        slope = jax.vmap(jax.grad(losses.sigmoid_binary_cross_entropy, argnums=1))(z, np.full(13, y, np.float32))
        np.testing.assert_allclose(slope, -z, rtol=2 * EPS)


def test_binary_cross_entropy_is_that_of_two_classes():
    z, y = np.linspace(-20, 20, 41, dtype=np.float32), np.arange(41) % 2
    two = losses.softmax_cross_entropy(np.stack([np.zeros(41, np.float32), z], -1), y)
    np.testing.assert_allclose(losses.sigmoid_binary_cross_entropy(z, y), two, rtol=2 * EPS)


def test_without_focus_the_focal_loss_is_cross_entropy():
    z, y = np.linspace(-20, 20, 41, dtype=np.float32), np.linspace(0, 1, 41, dtype=np.float32)
    plain = losses.sigmoid_binary_cross_entropy(z, y)
    np.testing.assert_allclose(losses.sigmoid_focal_loss(z, y, gamma=0), plain, rtol=2 * EPS)


@pytest.mark.parametrize("alpha", [None, 0.0, 0.25, 1.0])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_the_focal_loss_weighs_as_the_paper_says(alpha, gamma):
    z, y = np.linspace(-10, 10, 11, dtype=np.float32), np.tile([0.0, 1.0, 0.25], 4)[:11].astype(np.float32)
    expected = [float(focal(a, b, alpha, gamma)) for a, b in zip(z.tolist(), y.tolist(), strict=True)]
    found = losses.sigmoid_focal_loss(z, y, alpha=alpha, gamma=gamma)
    np.testing.assert_allclose(found, expected, rtol=(8 + 10 * gamma) * EPS)


def test_the_gradient_of_the_focal_loss_is_finite_for_every_focus():
    z = np.array([-3e38, -1e3, -90, 0, 90, 1e3, 3e38], np.float32)
    for gamma in (0.0, 1e-3, 0.5, 1.0, 2.0):
        for y in (0.0, 1e-30, 0.5, 1.0):
            slope = jax.grad(
                lambda z, y=y, gamma=gamma: losses.sigmoid_focal_loss(z, jnp.full(7, y), gamma=gamma).sum()
            )
            assert np.isfinite(slope(z)).all()


def test_focus_and_balance_may_be_traced():
    def loss(alpha, gamma):
        return losses.sigmoid_focal_loss(jnp.float32(0.3), 1.0, alpha=alpha, gamma=gamma)

    np.testing.assert_allclose(jax.jit(loss)(0.25, 2.0), float(focal(np.float32(0.3).item(), 1, 0.25, 2)), rtol=8 * EPS)
    slope = jax.grad(loss, argnums=1)(0.25, 2.0)
    exact = [float(focal(np.float32(0.3).item(), 1, 0.25, 2 + h)) for h in (1e-6, -1e-6)]
    np.testing.assert_allclose(slope, (exact[0] - exact[1]) / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"alpha": -0.1}, {"gamma": -1}, {"gamma": np.nan}])
def test_numbers_out_of_range_are_named(options):
    with pytest.raises(errors.ArgumentRangeError, match=f"{next(iter(options))} must be"):
        losses.sigmoid_focal_loss(np.zeros(2, np.float32), np.zeros(2), **options)


def test_a_confident_probability_keeps_its_relative_precision():
    for z in (5.0, 20.0, 40.0, 80.0):
        loss, slope = jax.value_and_grad(losses.sigmoid_binary_cross_entropy)(jnp.float32(z), 1.0)
        assert float(loss) == pytest.approx(float(binary(z, 1)), rel=4 * EPS)
        assert float(slope) == pytest.approx(-1 / (1 + np.exp(z)), rel=4 * EPS)


def test_pytorch_computes_the_same():
    torch = pytest.importorskip("torch", reason="PyTorch is no dependency of the tests")
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=100).astype(np.float32), rng.random(100).astype(np.float32)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(z), torch.tensor(y), reduction="none"
    ).numpy()
    np.testing.assert_allclose(losses.sigmoid_binary_cross_entropy(z, y), theirs, rtol=8 * EPS)

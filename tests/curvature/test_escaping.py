"""Claims about leaving a saddle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradtx import curvature

KEY = jax.random.key(0)


def product_net(w, batch):
    return (1 - w[0] * w[1]) ** 2


def escaped(loss, params, batch=None):
    report = curvature.classify(loss, params, batch, key=KEY)
    return curvature.escape(loss, params, report, batch)


def test_one_step_leaves_the_saddle_of_the_two_weight_network_to_its_minimum():
    params, info = escaped(product_net, jnp.zeros(2))
    assert float(product_net(params, None)) == pytest.approx(info.loss_after) == pytest.approx(0, abs=1e-3)
    assert abs(info.step) == pytest.approx(np.sqrt(2), rel=0.02)
    assert info.predicted == pytest.approx(1 - info.step**2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_better_of_both_signs_is_taken(sign):
    def loss(w, batch):
        return -(w[0] ** 2) - sign * 0.5 * w[0] ** 3 + w[0] ** 4 + w[1] ** 2

    params, _ = escaped(loss, jnp.zeros(2))
    grid = np.linspace(-2, 2, 4001)
    best = float(jnp.min(jax.vmap(lambda t: loss(jnp.array([t, 0.0]), None))(grid)))
    assert np.sign(params[0]) == sign
    assert float(loss(params, None)) <= 0.999 * best


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_step_finds_its_size_whatever_the_scale_of_the_parameters(scale):
    def loss(w, batch):
        return (1 - (w[0] / scale) * (w[1] / scale)) ** 2

    _, info = escaped(loss, jnp.zeros(2))
    assert info.loss_after < 1e-3
    assert info.evaluations < 200


def test_without_negative_curvature_nothing_moves():
    start = jnp.zeros(3)
    params, info = escaped(lambda w, batch: jnp.sum(w**2), start)
    assert params is start and info.step == 0 and info.loss_after == info.loss_before


def test_a_direction_without_end_stops_at_the_last_finite_loss():
    params, info = escaped(lambda w, batch: w[0] ** 2 - w[1] ** 2, jnp.zeros(2))
    assert np.isfinite(info.loss_after) and info.loss_after < -1e10
    assert np.all(np.isfinite(params))


def test_parameters_keep_their_dtypes_and_the_unselected_their_values():
    params = {"w": jnp.zeros(2, jnp.bfloat16), "count": jnp.arange(2), "other": jnp.ones(2)}

    def loss(p, batch):
        return product_net(p["w"].astype(jnp.float32), batch) + jnp.sum(p["other"])

    report = curvature.classify(loss, params, None, key=KEY, where="w")
    assert report.verdict == "strict saddle"
    moved, info = curvature.escape(loss, params, report, None)
    assert moved["w"].dtype == jnp.bfloat16 and moved["count"] is params["count"]
    assert moved["other"].tolist() == [1.0, 1.0]
    assert info.loss_after < info.loss_before - 0.9


def test_a_report_about_other_parameters_is_refused():
    report = curvature.classify(product_net, jnp.zeros(2), None, key=KEY)
    with pytest.raises(ValueError, match=r"report\.direction"):
        curvature.escape(product_net, jnp.zeros(3), report, None)
    with pytest.raises(TypeError, match="must be a Report"):
        curvature.escape(product_net, jnp.zeros(3), None, report)

"""Claims about sharpness in a box, up the gradient, on average, and against a learning rate."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import curvature

KEY = jax.random.key(0)


def form(w, batch):
    """``w'Mw / 2 + b'w + c``."""
    matrix, slope, constant = batch
    return 0.5 * w @ (matrix @ w) + slope @ w + constant


def convex(seed, size=6):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(size, size))
    return root @ root.T, rng.normal(size=size), np.float64(0.7), rng.normal(size=size)


def highest_corner(seed, widths):
    """``L``, and its maximum over all corners, in float64: a convex function is highest in one of them."""
    matrix, slope, constant, w = convex(seed)

    def value(x):
        return 0.5 * x @ matrix @ x + slope @ x + constant

    corners = [w + widths * signs for signs in itertools.product((-1, 1), repeat=len(widths))]
    return value(w), max(map(value, corners))


def point_of(seed):
    """The same in float32, lifted by a constant so that the loss is positive."""
    matrix, slope, constant, w = convex(seed)
    lift = max(0.0, -highest_corner(seed, np.zeros(6))[0])
    batch = tuple(jnp.asarray(x, jnp.float32) for x in (matrix, slope, constant + lift))
    return jnp.asarray(w, jnp.float32), batch, lift


def exact_box(seed, widths):
    here, high = highest_corner(seed, widths)
    return 100 * (high - here) / (1 + here + point_of(seed)[2])


@pytest.mark.parametrize("seed", range(8))
def test_box_sharpness_is_the_highest_of_all_corners_on_a_convex_quadratic(seed):
    w, batch, _ = point_of(seed)
    eps = 0.3
    exact = exact_box(seed, eps * (np.abs(np.asarray(w, np.float64)) + 1))
    found = curvature.box_sharpness(form, w, batch, key=KEY, eps=eps, starts=8)
    assert found == pytest.approx(exact, rel=1e-5)
    quick = curvature.box_sharpness(form, w, batch, key=KEY, eps=eps, starts=1)
    assert 0.5 * exact < quick <= exact * (1 + 1e-5)


def test_at_a_minimum_the_center_says_nothing_and_the_corners_do():
    """The gradient is zero in the center, so an ascent from there alone would find nothing."""
    curvatures = jnp.array([4.0, 1.0, 0.5])

    def loss(w, batch):
        return 0.5 * jnp.sum(curvatures * (w - 1.0) ** 2)

    for starts, exact in ((1, 0.0), (2, 100 * 0.5 * 5.5 * (1e-3 * 2) ** 2)):
        found = curvature.box_sharpness(loss, jnp.ones(3), key=KEY, starts=starts)
        assert found == pytest.approx(exact, rel=1e-3)


def test_a_random_subspace_is_searched_with_the_box_of_its_pseudo_inverse():
    """The frame is read off an ascent along known slopes: a linear loss gives 100 sum |A'b| widths / (1 + L)."""
    w, n, p = jnp.arange(1.0, 31.0) / 10, 30, 4
    slope = np.asarray(jax.random.normal(KEY, (n,)))

    def loss(x, batch):
        return 10.0 + batch @ x

    for_frame, _ = jax.random.split(KEY)
    frame = np.stack(
        [np.asarray(jax.random.normal(jax.random.fold_in(jax.random.fold_in(for_frame, i), 0), (n,))) for i in range(p)]
    ).T.astype(np.float64)
    widths = 1e-2 * (np.abs(np.linalg.pinv(frame) @ np.asarray(w, np.float64)) + 1)
    exact = 100 * np.sum(np.abs(frame.T @ slope) * widths) / (1 + float(loss(w, slope)))
    found = curvature.box_sharpness(loss, w, jnp.asarray(slope), key=KEY, eps=1e-2, subspace=p)
    assert found == pytest.approx(exact, rel=1e-4)


def test_a_maximum_inside_the_box_is_approached_and_never_negative():
    def loss(w, batch):
        return 1.0 - jnp.sum((w - 0.05) ** 2)

    found = curvature.box_sharpness(loss, jnp.zeros(2), key=KEY, eps=0.2, max_steps=30)
    exact = 100 * 0.005 / (2 - 0.005)
    assert 0.95 * exact < found <= exact * (1 + 1e-4)
    assert curvature.box_sharpness(loss, jnp.full(2, 0.05), key=KEY, eps=0.2) == pytest.approx(0, abs=1e-4)


def test_loss_that_is_not_finite_in_the_box_is_seen():
    for bad in (jnp.inf, jnp.nan):
        found = curvature.box_sharpness(
            lambda w, b: jnp.sum(w) + jnp.where(w[0] > 0, b, 0.0), jnp.zeros(2), bad, key=KEY
        )
        assert np.isnan(found) if np.isnan(bad) else found == np.inf
    assert np.isnan(curvature.box_sharpness(lambda w, b: jnp.sum(w) * jnp.nan, jnp.zeros(2), key=KEY))
    assert np.isnan(curvature.sam_sharpness(lambda w, b: jnp.sum(w) * jnp.nan, jnp.ones(2)))


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_sharpness_is_the_rise_on_a_quadratic(adaptive):
    matrix, slope, constant, w = convex(3)
    g = matrix @ w + slope
    t = np.abs(w) if adaptive else np.ones_like(w)
    step = 0.1 * t**2 * g / np.linalg.norm(t * g)
    exact = g @ step + 0.5 * step @ matrix @ step
    batch = tuple(jnp.asarray(x, jnp.float32) for x in (matrix, slope, constant))
    found = curvature.sam_sharpness(form, jnp.asarray(w, jnp.float32), batch, rho=0.1, adaptive=adaptive)
    assert found == pytest.approx(exact, rel=1e-5)


def relu_network(params, batch):
    x, y = batch
    hidden = jax.nn.relu(x @ params["first"] + params["bias"])
    return jnp.mean((hidden @ params["second"] - y) ** 2)


def network(scale):
    """The same function for every scale."""
    keys = jax.random.split(KEY, 5)
    params = {"first": scale * jax.random.normal(keys[0], (3, 8)), "bias": scale * jax.random.normal(keys[1], (8,)),
              "second": jax.random.normal(keys[2], (8, 2)) / scale}  # fmt: skip
    return params, (jax.random.normal(keys[3], (20, 3)), jax.random.normal(keys[4], (20, 2)))


def test_only_the_adaptive_sharpness_is_that_of_the_function():
    plain, batch = network(1.0)
    rescaled, _ = network(8.0)
    assert relu_network(plain, batch) == relu_network(rescaled, batch)
    for adaptive, same in ((True, True), (False, False)):
        a, b = (curvature.sam_sharpness(relu_network, p, batch, adaptive=adaptive) for p in (plain, rescaled))
        assert (a == pytest.approx(b, rel=1e-4)) is same


def test_at_a_critical_point_sam_sharpness_is_zero():
    assert curvature.sam_sharpness(lambda w, batch: jnp.sum(w**2), jnp.zeros(3)) == 0.0
    assert curvature.sam_sharpness(lambda w, batch: jnp.sum(w), jnp.zeros(3), adaptive=True) == 0.0


def test_average_sharpness_is_half_the_trace_times_the_variance():
    matrix, slope, constant, w = convex(5, 40)
    batch = tuple(jnp.asarray(x, jnp.float32) for x in (matrix, slope, constant))
    found = curvature.average_sharpness(form, jnp.asarray(w, jnp.float32), batch, key=KEY, sigma=0.5, draws=200)
    exact = 0.5 * 0.25 * np.trace(matrix)
    spread = np.sqrt(0.25 * np.sum((matrix @ w + slope) ** 2) + 0.25**2 / 2 * np.sum(matrix**2))
    assert found.error == pytest.approx(spread / np.sqrt(200), rel=0.2)
    assert abs(found.mean - exact) < 3 * found.error
    alone = curvature.average_sharpness(form, jnp.asarray(w, jnp.float32), batch, key=KEY, draws=1)
    assert np.isnan(alone.error) and np.isfinite(alone.mean)


def test_a_data_set_gives_what_one_batch_gives_and_unselected_leaves_stay():
    params, (x, y) = network(1.0)
    parts = curvature.dataset([(x[:7], y[:7]), (x[7:], y[7:])])
    for measure in (
        lambda b: curvature.box_sharpness(relu_network, params, b, key=KEY, where="first"),
        lambda b: curvature.box_sharpness(relu_network, params, b, key=KEY, subspace=3),
        lambda b: curvature.sam_sharpness(relu_network, params, b, where="first"),
        lambda b: curvature.average_sharpness(relu_network, params, b, key=KEY, draws=3).mean,
    ):
        assert measure(parts) == pytest.approx(measure((x, y)), rel=1e-3)
    counted = params | {"steps": jnp.arange(3)}
    only = curvature.sam_sharpness(relu_network, counted, (x, y), where="first")
    assert only == pytest.approx(curvature.sam_sharpness(relu_network, params, (x, y), where="first"))


def test_a_step_that_low_precision_rounds_away_is_refused():
    params, batch = network(1.0)
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    for measure in (
        lambda p: curvature.box_sharpness(relu_network, p, batch, key=KEY),
        lambda p: curvature.sam_sharpness(relu_network, p, batch, rho=1e-3),
        lambda p: curvature.average_sharpness(relu_network, p, batch, key=KEY, sigma=1e-3),
    ):
        assert np.all(np.isfinite(measure(params)))
        with pytest.raises(ValueError, match="bfloat16 parameters can make"):
            measure(low)
    wide = curvature.sam_sharpness(relu_network, low, batch, rho=0.5)
    assert wide == pytest.approx(curvature.sam_sharpness(relu_network, params, batch, rho=0.5), rel=0.1)


def test_other_seeds_and_parameters_of_one_shape_compile_nothing():
    traced, counts = [], []

    def loss(w, batch):
        traced.append(1)
        return jnp.sum(batch * w**2)

    for seed in range(5):
        curvature.box_sharpness(loss, jnp.ones(4) * seed, jnp.ones(4), key=jax.random.key(seed))
        curvature.sam_sharpness(loss, jnp.ones(4) * (seed + 1), jnp.ones(4))
        counts.append(len(traced))
    assert counts[0] == counts[-1]


BAD = {
    "loss of -1": (lambda: curvature.box_sharpness(lambda w, b: jnp.sum(w) - 1, jnp.zeros(2), key=KEY), "above -1"),
    "large subspace": (
        lambda: curvature.box_sharpness(lambda w, b: jnp.sum(w), jnp.zeros(2), key=KEY, subspace=3), "at most 2",
    ),
    "zero width": (lambda: curvature.box_sharpness(lambda w, b: jnp.sum(w), jnp.zeros(2), key=KEY, eps=0.0), "eps"),
    "a schedule": (lambda: curvature.sam_sharpness(lambda w, b: jnp.sum(w), jnp.ones(2), rho=lambda t: 1.0), "rho"),
    "a seed": (lambda: curvature.box_sharpness(lambda w, b: jnp.sum(w), jnp.zeros(2), key=0), "random key"),
    "no key": (lambda: curvature.average_sharpness(lambda w, b: jnp.sum(w), jnp.zeros(2)), "key"),
    "an integer": (lambda: curvature.sam_sharpness(lambda w, b: jnp.sum(w) * 1.0, jnp.arange(2)), "int32"),
    "not scalar": (lambda: curvature.sam_sharpness(lambda w, b: w, jnp.ones(2)), "sam_sharpness.*one real number"),
    "no draws": (
        lambda: curvature.average_sharpness(lambda w, b: jnp.sum(w), jnp.zeros(2), key=KEY, draws=0), "draws",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_what_to_write(name):
    call, said = BAD[name]
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        call()
    assert caught.value.code


# ---------------------------------------------------------------------------------------------------------------------
# Stability.


CURVATURES = jnp.array([1.0, 30.0, 100.0])


def valley(w, batch):
    return 0.5 * jnp.sum(CURVATURES * w**2)


def distances(tx, steps=60):
    """How far parameters are from the minimum, after each of the steps."""
    params, far = jnp.array([0.0, 0.0, 1e-3]), []
    state = tx.init(params)
    for _ in range(steps):
        updates, state = tx.update(jax.grad(valley)(params, None), state, params)
        params = gradtx.apply_updates(params, updates)
        far.append(float(jnp.abs(params[2])))
    return np.array(far)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_above_one_descent_diverges_and_below_it_converges(momentum):
    matrix = curvature.hessian(valley, jnp.ones(3))
    edge = (2 + 2 * momentum) / 100
    for factor in (0.97, 1.03):
        found = curvature.stability(matrix, factor * edge, key=KEY, momentum=momentum)
        assert found.value == pytest.approx(factor, rel=1e-5)
        assert found.bound >= found.value and found.lambda_max == pytest.approx(100, rel=1e-6)
        assert found.threshold == pytest.approx(100 / factor)
        far = distances(gradtx.sgd(factor * edge, momentum=momentum or None))
        assert bool(far[-20:].max() > far[:20].max()) is (factor > 1)


def adam_preconditioner(state, eps):
    """As the docstring of ``stability`` says."""
    v = state["scale_by_adam"].denominator
    weight = 1 - 0.999 ** v["bias_correction"].step
    return jax.tree.map(lambda m: jnp.sqrt(m / weight) + eps, v["mean_square"].mean_square)


def test_the_preconditioner_of_adam_is_what_it_divides_by():
    """Adam's step of a gradient g after a constant one is learning_rate * g / P."""
    tx, params = gradtx.adam(1.0, eps=1e-3), {"w": jnp.zeros(3)}
    grads = {"w": jnp.array([0.5, -2.0, 1e-3])}
    state = tx.init(params)
    for _ in range(5):
        updates, state = tx.update(grads, state, params)
    np.testing.assert_allclose(updates["w"], -grads["w"] / adam_preconditioner(state, 1e-3)["w"], rtol=1e-5)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_adam_with_a_frozen_second_moment_is_stable_up_to_its_threshold(factor):
    """Heavy ball at (1 - b1) of the rate, on P^-1 H: 38 / learning_rate for b1 = 0.9."""
    b1 = 0.9
    p = jnp.array([0.5, 4.0, 2.0])  # P^-1 H has 2, 7.5 and 50
    rate = factor * 38 / 50
    found = curvature.stability(
        curvature.hessian(valley, jnp.ones(3)), (1 - b1) * rate, key=KEY, momentum=b1, preconditioner=p
    )
    assert found.lambda_max == pytest.approx(50, rel=1e-5)
    assert found.value == pytest.approx(factor, rel=1e-5)
    w, m, far = np.array([0.0, 0.0, 1e-3]), np.zeros(3), []
    for _ in range(200):
        m = b1 * m + (1 - b1) * np.asarray(CURVATURES) * w
        w = w - rate * m / np.asarray(p)
        far.append(abs(w[2]))
    assert bool(max(far[-20:]) > max(far[:20])) is (factor > 1)


def test_a_scaled_operator_is_the_matrix_between_two_diagonals():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(5, 5)) + 0.0
    matrix = matrix + matrix.T
    scales = rng.uniform(0.5, 2, 5)
    operator = curvature.scaled(
        curvature.hessian(lambda w, b: 0.5 * w @ b @ w, jnp.zeros(5), jnp.asarray(matrix, jnp.float32)),
        jnp.asarray(scales, jnp.float32),
    )
    found = curvature.extreme_eigenvalues(operator, key=KEY)
    exact = np.linalg.eigvalsh(np.diag(scales) @ matrix @ np.diag(scales))
    np.testing.assert_allclose([found.smallest.value, found.largest.value], exact[[0, -1]], rtol=1e-5)
    assert operator.products == found.products


def test_a_preconditioner_leaves_out_what_does_not_vary():
    params = {"w": jnp.ones(2), "steps": jnp.arange(2)}
    matrix = curvature.hessian(lambda p, b: 2 * jnp.sum(p["w"] ** 2), params, where="w")
    given = {"w": jnp.array([1.0, 0.25]), "steps": jnp.zeros(2)}
    assert curvature.stability(matrix, 0.1, key=KEY, preconditioner=given).lambda_max == pytest.approx(16)


def test_a_bad_preconditioner_is_named():
    params = {"w": jnp.ones(2)}
    matrix = curvature.hessian(lambda p, b: jnp.sum(p["w"] ** 2), params)
    for bad, said in (
        ({"w": jnp.array([1.0, 0.0])}, "positive finite numbers, got 0 .* at 'w'"),
        ({"w": jnp.array([1.0, jnp.nan])}, "positive finite numbers.* at 'w'"),
        ({"v": jnp.ones(2)}, "stability.*preconditioner"),
        ({"w": jnp.ones(3)}, "preconditioner"),
    ):
        with pytest.raises(ValueError, match=said):
            curvature.stability(matrix, 0.1, key=KEY, preconditioner=bad)
    for rate, momentum in ((0.0, 0.0), (-1.0, 0.0), (0.1, 1.0)):
        with pytest.raises(ValueError, match="must be"):
            curvature.stability(matrix, rate, key=KEY, momentum=momentum)

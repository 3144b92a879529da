"""Claims about the verdict, on points whose Hessian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gradtx import curvature
from tests.curvature import points

KNOWN = points.points()
KEY = jax.random.key(0)


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def check(point, dtype, tolerance):
    report = curvature.classify(point.loss, cast(point.params, dtype), cast(point.batch, dtype), key=KEY)
    values = point.eigenvalues
    size = np.max(np.abs(values))
    assert report.verdict == points.expected(values, report.threshold), f"{point.name}\n{report}"
    assert abs(report.lambda_min - values.min()) <= tolerance * size
    assert abs(report.lambda_max - values.max()) <= tolerance * size
    low, high = report.lambda_min_interval
    assert low <= values.min() <= high or abs(values.min() - low) <= tolerance * size
    n = len(values)
    if n <= 96:
        counts = [round(share * n) for share in report.shares]
        zero = report.threshold
        assert counts == [np.sum(values < -zero), np.sum(np.abs(values) <= zero), np.sum(values > zero)]
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(report.direction))


def test_there_are_at_least_sixty_points_of_known_index():
    assert len(KNOWN) >= 60
    kinds = {points.expected(point.eigenvalues, 1e-3 * np.max(np.abs(point.eigenvalues))) for point in KNOWN}
    assert kinds == {"maximum", "strict saddle", "strict minimum", "undecided"}


def test_the_index_of_a_factorization_is_the_formula():
    for point, width, singular, chosen in points.factorizations():
        negative = int(np.sum(point.eigenvalues < -1e-9))
        assert negative == points.factorization_index(width, singular, chosen), point.name


@pytest.mark.slow
def test_no_wrong_verdict_in_float32():
    for point in KNOWN:
        check(point, jnp.float32, 2e-6)


@pytest.mark.slow
def test_no_wrong_verdict_in_float64():
    with jax.enable_x64(True):
        for point in KNOWN:
            check(point, jnp.float64, 1e-12)


@pytest.mark.parametrize("point", KNOWN[::12] + KNOWN[-6:], ids=lambda point: point.name)
def test_some_known_points_get_their_verdict(point):
    check(point, jnp.float32, 2e-6)


def the_example(w, batch):
    return (1 - w[0] * w[1]) ** 2


@pytest.mark.parametrize("seed", range(10))
def test_the_two_weight_network_gives_plus_and_minus_two_from_every_start(seed):
    report = curvature.classify(the_example, jnp.zeros(2), None, key=jax.random.key(seed))
    assert report.verdict == "strict saddle"
    assert report.shares == (0.5, 0.0, 0.5)
    np.testing.assert_allclose([report.lambda_min, report.lambda_max], [-2, 2], rtol=1e-6)
    np.testing.assert_allclose(np.abs(report.direction), np.sqrt([0.5, 0.5]), rtol=1e-5)
    assert report.direction[0] * report.direction[1] > 0


def xor_network(params, batch):
    x, y = batch
    logits = jnp.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]
    return jnp.mean(jnp.logaddexp(0, logits) - y * logits)


def zeros(**shapes):
    return {name: jnp.zeros(shape) for name, shape in shapes.items()}


XOR = (jnp.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), jnp.array([0.0, 1, 1, 0]))
HIGHER_ORDER = {
    "monkey saddle": (lambda w, batch: w[0] ** 3 - 3 * w[0] * w[1] ** 2, jnp.zeros(2), None),
    "x^2 - y^4": (lambda w, batch: w[0] ** 2 - w[1] ** 4, jnp.zeros(2), None),
    "XOR at zero weights": (xor_network, zeros(w1=(2, 6), b1=6, w2=6, b2=()), XOR),
    "three linear layers at zero": (
        lambda p, x: jnp.mean((x @ p[0] @ p[1] @ p[2] - x) ** 2), [jnp.zeros((3, 3))] * 3, jnp.eye(3) + 0.5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HIGHER_ORDER)
def test_where_the_second_derivative_does_not_tell_it_is_undecided(name):
    loss, params, batch = HIGHER_ORDER[name]
    report = curvature.classify(loss, params, batch, key=KEY)
    assert report.verdict == "undecided"
    assert report.lambda_min_interval[0] <= 0 <= report.lambda_min_interval[1]


@pytest.mark.parametrize("seed", range(3))
def test_a_neuron_split_in_two_is_a_saddle_or_flat_but_never_a_minimum(seed):
    """Fukumizu and Amari 2000: the outgoing weight of a neuron at a minimum, shared by two copies, is critical."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(seed)
        x = jnp.asarray(rng.normal(size=(20, 2)))
        small = {"first": jnp.asarray(rng.normal(size=(2, 1))), "second": jnp.ones(1)}
        y = jnp.tanh(x @ small["first"]) @ small["second"] + 0.1 * rng.normal(size=20)
        flat, unravel = ravel_pytree(small)
        loss = jax.jit(lambda w: points.split_loss(unravel(w), (x, y)))
        for _ in range(200):  # damped Newton
            g, h = jax.grad(loss)(flat), jax.hessian(loss)(flat)
            values, columns = jnp.linalg.eigh(h)
            flat = flat - columns @ ((columns.T @ g) / (jnp.abs(values) + 1e-3 * jnp.linalg.norm(g)))
        assert float(jnp.linalg.norm(jax.grad(loss)(flat))) < 1e-10
        minimum = unravel(flat)
        share = 0.3
        split = {"first": jnp.tile(minimum["first"], (1, 2)),
                 "second": jnp.concatenate([share * minimum["second"], (1 - share) * minimum["second"]])}  # fmt: skip
        whole, back = ravel_pytree(split)
        exact = np.linalg.eigvalsh(jax.hessian(lambda w: points.split_loss(back(w), (x, y)))(whole))
        report = curvature.classify(points.split_loss, split, (x, y), key=KEY)
        assert report.verdict == points.expected(exact, report.threshold) != "strict minimum"


def test_softmax_regression_at_zero_is_no_saddle_in_float32_for_any_seed():
    point = points.softmax_at_zero(0, 8, 5)
    for seed in range(10):
        report = curvature.classify(
            point.loss, cast(point.params, jnp.float32), cast(point.batch, jnp.float32), key=jax.random.key(seed)
        )
        assert report.verdict == "undecided"


def test_a_slope_is_not_critical_and_a_plane_has_a_flat_gradient():
    assert curvature.classify(the_example, jnp.array([0.5, 2.5]), None, key=KEY).verdict == "not critical"
    plane = curvature.classify(lambda w, batch: jnp.sum(w), jnp.zeros(3), None, key=KEY)
    assert plane.verdict == "flat gradient"
    assert plane.shares == (0.0, 1.0, 0.0)


def test_a_gradient_within_its_sampling_error_counts_as_zero():
    x = jax.random.normal(KEY, (400, 3))

    def loss(w, batch):
        return 0.5 * jnp.mean(jnp.sum((w - batch) ** 2, -1))

    report = curvature.classify(loss, jnp.zeros(3), x, key=KEY)
    assert report.verdict == "strict minimum"
    exact = np.sqrt(np.sum(np.var(x, axis=0, ddof=1)) / 400)
    assert report.gradient_error == pytest.approx(exact, rel=0.6)
    assert curvature.classify(loss, jnp.ones(3), x, key=KEY).verdict == "not critical"


def test_a_batch_that_is_no_list_of_examples_has_no_sampling_error():
    point = next(point for point in KNOWN if point.name.startswith("factorization"))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32) + 0.5, point.params)
    report = curvature.classify(point.loss, params, jnp.asarray(point.batch, jnp.float32), key=KEY)
    assert np.isnan(report.gradient_error)
    assert report.verdict == "not critical"


def test_a_large_ill_conditioned_minimum_has_no_negative_curvature_below_a_bound():
    scales = jnp.linspace(1e-4, 1.0, 300)
    report = curvature.classify(lambda w, batch: jnp.sum(scales * w**2), jnp.zeros(300), None, key=KEY)
    assert report.verdict == "no negative curvature"
    assert report.lambda_min_interval[0] < 2e-4 <= report.lambda_min_interval[1] + 1e-3
    assert report.products <= 100


def test_every_eigenvalue_below_zero_is_a_maximum_in_few_products():
    report = curvature.classify(lambda w, batch: -jnp.sum(w**2), jnp.zeros(1000), None, key=KEY)
    assert report.verdict == "maximum"
    assert report.products <= 8


def test_a_mask_gives_the_verdict_of_a_block():
    params = {"kernel": jnp.zeros(2), "bias": jnp.zeros(2), "steps": jnp.arange(3)}

    def loss(p, batch):
        return jnp.sum(p["kernel"] ** 2) - jnp.sum(p["bias"] ** 2)

    kernel = curvature.classify(loss, params, None, key=KEY, where="kernel")
    assert kernel.verdict == "strict minimum" and kernel.dimension == 2
    assert kernel.direction["bias"].tolist() == [0.0, 0.0]
    assert curvature.classify(loss, params, None, key=KEY, where="bias").verdict == "maximum"


def test_a_threshold_decides_what_is_zero():
    def loss(w, batch):
        return w[0] ** 2 - 1e-2 * w[1] ** 2

    assert curvature.classify(loss, jnp.zeros(2), None, key=KEY).verdict == "strict saddle"
    coarse = curvature.classify(loss, jnp.zeros(2), None, key=KEY, threshold=0.1)
    assert coarse.verdict == "undecided" and coarse.threshold == pytest.approx(0.1)


def test_the_intervals_of_the_shares_hold_what_they_should():
    """Two standard deviations of chance besides rigorous brackets: of 30 intervals, hardly one is wrong."""
    values = jnp.concatenate([jnp.linspace(-1.0, -0.1, 60), jnp.zeros(90), jnp.linspace(0.1, 2.0, 150)])

    def loss(w, scales):
        return 0.5 * jnp.sum(scales * w**2)

    held, widths = 0, []
    for seed in range(10):
        report = curvature.classify(loss, jnp.zeros(300), values, key=jax.random.key(seed), max_products=40)
        exact = zip(report.share_intervals, (0.2, 0.3, 0.5), strict=True)
        held += sum(low <= share <= high for (low, high), share in exact)
        widths.append(report.share_intervals[2][1] - report.share_intervals[2][0])
        assert sum(report.shares) == pytest.approx(1)
    assert held >= 27
    assert np.median(widths) < 0.45


def test_the_report_prints_as_a_table():
    lines = str(curvature.classify(the_example, jnp.zeros(2), None, key=KEY)).splitlines()
    assert lines[0].split(maxsplit=1) == ["verdict", "strict saddle  the curvature along `direction` is -2"]
    assert {line.split("  ")[0].strip() for line in lines} >= {"loss", "gradient norm", "lambda min", "threshold"}


def test_low_precision_parameters_get_a_larger_noise_floor():
    x = jax.random.normal(KEY, (64, 8))

    def loss(w, batch):
        return jnp.mean((batch @ w) ** 2)

    fine = curvature.classify(loss, jnp.zeros(8), x, key=KEY)
    coarse = curvature.classify(loss, jnp.zeros(8, jnp.bfloat16), x.astype(jnp.bfloat16), key=KEY)
    assert coarse.noise > 100 * fine.noise
    assert coarse.verdict in ("strict minimum", "undecided", "no negative curvature")
    assert coarse.direction.dtype == jnp.float32


def test_a_gradient_field_that_is_no_gradient_makes_no_saddle():
    """Its derivative [[0, 3], [0, 0]] is not symmetric; the symmetric part would have eigenvalues of +-1.5."""

    @jax.custom_vjp
    def wrong(w):
        return jnp.sum(w)

    wrong.defvjp(lambda w: (jnp.sum(w), w), lambda w, g: (g * jnp.array([3 * w[1], 0.0]),))
    report = curvature.classify(lambda w, batch: wrong(w), jnp.zeros(2), None, key=KEY)
    assert report.verdict == "undecided"
    assert report.noise > 0.1


def test_the_x64_flag_stays_as_it_was():
    curvature.classify(the_example, jnp.zeros(2), None, key=KEY)
    assert not jax.config.jax_enable_x64

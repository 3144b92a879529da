"""Claims about parts that leave saddles: against dense Hessians in float64, and at saddles that descent stays at."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial

import gradtx
from gradtx import curvature, errors, training
from gradtx.curvature.searching import far_enough

SHAPES = {"a": (2, 2), "b": (3,), "c": ()}
SIZE = 8


def tree(flat):
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    parts = np.split(np.asarray(flat), ends[:-1])
    return {
        name: jnp.asarray(part.reshape(shape)) for (name, shape), part in zip(SHAPES.items(), parts, strict=True)
    }  # fmt: skip


def flat(params):
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(params)])


def symmetric(seed, eigenvalues):
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))[0]
    return basis @ np.diag(eigenvalues) @ basis.T


def quadratic(matrix):
    return Partial(quadratic_form, np.asarray(matrix, np.float32))


def quadratic_form(matrix, params):
    w = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
    return 0.5 * w @ jnp.matmul(matrix.astype(w.dtype), w, precision="highest")


INDEFINITE = (-3.0, -1.0, -0.25, 0.5, 1.0, 2.0, 4.0, 6.0)
CONVEX = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)


def update_of(tx, loss, params, grads=None):
    loss = loss if isinstance(loss, Partial) else Partial(loss)
    return _update_of(tx, loss, params, jax.grad(loss)(params) if grads is None else grads)


@functools.partial(jax.jit, static_argnums=0)
def _update_of(tx, loss, params, grads):
    return tx.update(grads, tx.init(params), params, value_fn=loss)[0]


# The absolute value of the Hessian


def dense_saddle_free(matrix, g, damping):
    theta, vectors = np.linalg.eigh(matrix)
    return vectors @ ((vectors.T @ g) / (np.abs(theta) + damping))


def krylov_saddle_free(matrix, g, damping, dim):
    """In an orthonormal basis of ``g, H g, ...``, from the paper's algorithm."""
    powers = np.stack([np.linalg.matrix_power(matrix, k) @ g for k in range(dim)], axis=1)
    basis = np.linalg.qr(powers)[0]
    return basis @ dense_saddle_free(basis.T @ matrix @ basis, basis.T @ g, damping)


@pytest.mark.parametrize("damping", [1e-3, 0.1, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_in_the_whole_space_the_step_is_that_of_the_dense_absolute_value(seed, damping):
    matrix = symmetric(seed, INDEFINITE).astype(np.float32).astype(np.float64)
    w = np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)
    tx = curvature.scale_by_saddle_free_newton(krylov_dim=20, damping=damping)
    updates = update_of(tx, quadratic(matrix), tree(w))
    expected = dense_saddle_free(matrix, matrix @ w, damping)
    np.testing.assert_allclose(flat(updates), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dim", [1, 2, 4])
def test_in_a_subspace_the_step_is_that_of_the_krylov_space(dim):
    matrix = symmetric(0, INDEFINITE).astype(np.float32).astype(np.float64)
    g = np.random.default_rng(1).normal(size=SIZE).astype(np.float32)
    tx = curvature.scale_by_saddle_free_newton(krylov_dim=dim, damping=0.1)
    updates = update_of(tx, quadratic(matrix), tree(np.zeros(SIZE, np.float32)), tree(g))
    expected = krylov_saddle_free(matrix, g.astype(np.float64), 0.1, dim)
    np.testing.assert_allclose(flat(updates), expected, atol=2e-5 * np.abs(expected).max())


def test_in_float64_the_step_is_exact_to_float64():
    with jax.enable_x64(True):
        matrix = symmetric(0, INDEFINITE).astype(np.float32).astype(np.float64)
        w = np.random.default_rng(0).normal(size=SIZE)
        updates = update_of(curvature.scale_by_saddle_free_newton(SIZE, 0.01), quadratic(matrix), tree(w))
        expected = dense_saddle_free(matrix, matrix @ w, 0.01)
        np.testing.assert_allclose(flat(updates), expected, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("eigenvalue", [-2.0, 0.0, 3.0])
def test_a_subspace_that_closes_at_once_is_no_division_by_zero(eigenvalue):
    matrix = symmetric(0, (eigenvalue,) + (1.0,) * (SIZE - 1))
    direction = np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0][:, 0].astype(np.float32)
    tx = curvature.scale_by_saddle_free_newton(damping=0.5)
    updates = update_of(tx, quadratic(matrix), tree(np.zeros(SIZE, np.float32)), tree(direction))
    np.testing.assert_allclose(flat(updates), direction / (abs(eigenvalue) + 0.5), atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30, 3e38])
def test_gradients_of_all_sizes_give_steps_of_their_size(size):
    matrix = symmetric(0, INDEFINITE)
    direction = np.random.default_rng(2).normal(size=SIZE)
    direction /= np.abs(direction).max()
    grads = tree((size * direction).astype(np.float32))
    tx = curvature.scale_by_saddle_free_newton(damping=1.0)
    updates = flat(update_of(tx, quadratic(matrix), tree(np.zeros(SIZE, np.float32)), grads))
    assert np.isfinite(updates).all()
    if size < 1e38:
        expected = size * dense_saddle_free(matrix, direction, 1.0)
        np.testing.assert_allclose(updates, expected, atol=1e-5 * np.abs(expected).max())


# Newton's method with negative curvature


def newton_cg_direction(matrix, g, curvature_threshold, gradient_threshold):
    """The outcome of the paper's algorithms 1 to 3 where the subspace is the whole space; up to the sign at zero."""
    theta, vectors = np.linalg.eigh(matrix)
    small = np.linalg.norm(g) <= gradient_threshold
    if theta[0] < -curvature_threshold / (2 if small else 1):
        lowest = vectors[:, 0]
        return -np.where(lowest @ g < 0, -1.0, 1.0) * abs(theta[0]) * lowest
    if small:
        return np.zeros_like(g)
    return -np.linalg.solve(matrix + 2 * curvature_threshold * np.eye(len(g)), g)


def backtracked(loss, w, d, decrease=0.01):
    for alpha in 0.5 ** np.arange(31):
        if loss(w + alpha * d) < loss(w) - decrease / 6 * alpha**3 * np.linalg.norm(d) ** 3:
            return alpha
    return 0.0


@pytest.mark.parametrize("eigenvalues", [CONVEX, INDEFINITE], ids=["convex", "indefinite"])
@pytest.mark.parametrize("threshold", [1e-2, 0.2])
@pytest.mark.parametrize("seed", range(2))
def test_newton_cg_is_the_damped_newton_step_or_the_lowest_curvature(eigenvalues, threshold, seed):
    matrix = symmetric(seed, eigenvalues).astype(np.float32).astype(np.float64)
    w = np.random.default_rng(seed).normal(size=SIZE).astype(np.float32)
    tx = curvature.scale_by_newton_cg(key=0, krylov_dim=SIZE, curvature_threshold=threshold)
    updates = update_of(tx, quadratic(matrix), tree(w))
    d = newton_cg_direction(matrix, matrix @ w, threshold, 1e-4)
    expected = -backtracked(lambda x: 0.5 * x @ matrix @ x, w.astype(np.float64), d) * d
    np.testing.assert_allclose(flat(updates), expected, atol=2e-5 * np.abs(expected).max())
    if eigenvalues == CONVEX:
        np.testing.assert_allclose(expected, np.linalg.solve(matrix, matrix @ w), atol=5 * threshold * np.abs(w).max())


@pytest.mark.parametrize(("lowest", "threshold", "leaves"), [
    (-0.5, 0.1, True), (-0.06, 0.1, True), (-0.04, 0.1, False), (0.3, 0.1, False),
])  # fmt: skip
def test_where_the_gradient_is_zero_a_random_start_finds_curvature_below_half_the_threshold(lowest, threshold, leaves):
    matrix = symmetric(3, (lowest, *CONVEX[1:]))
    tx = curvature.scale_by_newton_cg(key=5, krylov_dim=SIZE, curvature_threshold=threshold)
    step = flat(update_of(tx, quadratic(matrix), tree(np.zeros(SIZE, np.float32))))
    if not leaves:
        np.testing.assert_array_equal(step, 0)
        return
    assert np.linalg.norm(step) == pytest.approx(-lowest, rel=1e-4)
    assert step @ matrix @ step / (step @ step) == pytest.approx(lowest, rel=1e-3)


def test_a_step_that_no_halving_makes_a_descent_is_not_made():
    def loss(params):
        return jnp.sum(params**2)

    params = jnp.ones(3)
    uphill = -jax.grad(loss)(params)
    updates = update_of(curvature.scale_by_newton_cg(key=0), loss, params, uphill)
    np.testing.assert_array_equal(updates, 0)


# The search


def searched(f, decrease, first, farther):
    """The rule of the search in plain Python."""

    def holds(t):
        return f(t) < f(0.0) and f(t) <= f(0.0) - decrease(t)

    tries = [first / 2**k for k in range(31)]
    t = next((t for t in tries if holds(t)), 0.0)
    if farther and t == first:
        for _ in range(30):
            if not (holds(2 * t) and f(2 * t) < f(t)):
                break
            t *= 2
    return t


@pytest.mark.parametrize("farther", [False, True])
@pytest.mark.parametrize("first", [1e-3, 1.0, 512.0])
@pytest.mark.parametrize("f", [
    lambda t: -t, lambda t: t, lambda t: (t - 3.0) ** 2, lambda t: (t - 3.0) ** 4 - t, lambda t: t * 0.0,
    lambda t: jnp.where(t > 2, jnp.inf, -t), lambda t: jnp.where(t > 0.1, jnp.nan, -t),
], ids=["down", "up", "bowl", "steep bowl", "flat", "infinite beyond", "NaN beyond"])  # fmt: skip
def test_the_search_takes_the_steps_of_its_rule(f, first, farther):
    expected = searched(f, lambda t: t**2 / 1000, first, farther)
    found = jax.jit(lambda t: far_enough(f, lambda t: t**2 / 1000, t, farther=farther))(jnp.float32(first))
    assert float(found) == pytest.approx(expected, rel=1e-6)


# Noise at saddles


def perturbations(tx, count, grad, size):
    """The updates of zero gradients, with the signal ``grad(step)``."""

    def body(state, slope):
        updates, state = tx.update(jnp.zeros(size), state, grad=slope)
        return state, updates

    slopes = np.tile(grad(np.arange(count))[:, None], size).astype(np.float32)
    return np.asarray(jax.jit(lambda s: jax.lax.scan(body, tx.init(jnp.zeros(size)), s)[1])(slopes))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_perturbations_are_uniform_in_the_ball(size):
    count, radius = 4000, 0.5
    tx = curvature.perturb_at_saddles(1.0, radius, 0, key=0)
    noise = perturbations(tx, count, lambda steps: 0.0 * steps, size).astype(np.float64)
    lengths = np.linalg.norm(noise, axis=1)
    assert lengths.max() <= radius * (1 + 1e-6)
    within = np.sort((lengths / radius) ** size)  # uniform in [0, 1]; Kolmogorov's distance, 1e-4 beyond 2.2
    assert np.sqrt(count) * np.abs(within - np.arange(0.5, count) / count).max() < 2.2
    deviation = radius / np.sqrt(size + 2)
    np.testing.assert_allclose(noise.mean(0), 0, atol=5 * deviation / np.sqrt(count))
    np.testing.assert_allclose(noise.T @ noise / count, np.eye(size) * deviation**2, atol=0.1 * deviation**2)


def test_the_ball_is_one_for_all_leaves_and_complex_ones_count_twice():
    params = {"a": jnp.zeros((40, 5)), "b": jnp.zeros(100, jnp.complex64)}
    tx = curvature.perturb_at_saddles(1.0, 2.0, 0, key=1)
    noise, _ = tx.update(params, tx.init(params), grad=params)
    squares = {name: float(jnp.sum(jnp.abs(leaf) ** 2)) for name, leaf in noise.items()}
    assert 1.9 < np.sqrt(sum(squares.values())) <= 2.0  # 400 dimensions: within 1 % of the surface
    assert squares["a"] == pytest.approx(squares["b"], rel=0.5)
    assert float(jnp.sum(noise["b"].imag ** 2)) == pytest.approx(squares["b"] / 2, rel=0.5)


@pytest.mark.parametrize("wait", [0, 1, 3])
def test_perturbations_come_by_the_rule_alone(wait):
    norms = np.abs(np.random.default_rng(wait).normal(size=60)) * np.sqrt(3)
    expected, last = [], -wait - 1
    for t, norm in enumerate(norms):
        due = norm <= 1.0 and t - last > wait
        last = t if due else last
        expected.append(due)
    assert 5 < sum(expected) < 55
    tx = curvature.perturb_at_saddles(1.0, 0.1, wait, key=0)
    noise = perturbations(tx, 60, lambda steps: norms[steps] / np.sqrt(3), 3)
    np.testing.assert_array_equal((noise != 0).any(1), expected)


def test_noise_is_that_of_its_key_its_step_and_its_path():
    params = {"b": jnp.zeros(3), "a": jnp.zeros(2)}
    tx = curvature.perturb_at_saddles(1.0, 1.0, 0, key=0)
    first, state = tx.update(params, tx.init(params), grad=params)
    again, _ = tx.update(params, tx.init(params), grad=params)
    second, _ = tx.update(params, state, grad=params)
    other = curvature.perturb_at_saddles(1.0, 1.0, 0, key=jax.random.key(1))
    np.testing.assert_array_equal(first["b"], again["b"])
    assert np.all(first["b"] != second["b"])
    assert np.all(first["b"] != other.update(params, other.init(params), grad=params)[0]["b"])


# A look where training has stalled


def test_a_look_comes_after_patience_values_without_progress_and_a_small_gradient():
    """The rule in plain Python, on a flat loss with a saddle; a look shows as an update that is not zero."""
    patience, rtol = 3, 0.1
    random = np.random.default_rng(0)
    values = np.round(100 * np.exp(-np.arange(80) / 40) + random.normal(size=80)).astype(np.float32)
    values[20] = np.nan
    small = random.uniform(size=80) < 0.7
    expected, best, stalled = [], None, 0
    for value, is_small in zip(values, small, strict=True):
        better = np.isfinite(value) and (best is None or value < best - rtol * abs(best))
        best = value if better else best
        stalled = 0 if better else stalled + 1
        due = stalled >= patience and is_small
        stalled = 0 if due else stalled
        expected.append(due)
    assert 5 < sum(expected) < 25
    tx = curvature.escape_saddles(key=0, patience=patience, rtol=rtol, krylov_dim=2)

    def body(state, at):
        value, slope = at
        updates, state = tx.update(jnp.zeros(2), state, jnp.zeros(2), value=value, grad=slope, value_fn=two_weights)
        return state, jnp.any(updates != 0)

    slopes = jnp.where(small, 0.0, 1.0)[:, None] * jnp.ones(2)
    looked = jax.jit(lambda *at: jax.lax.scan(body, tx.init(jnp.zeros(2)), at)[1])(values, slopes)
    np.testing.assert_array_equal(looked, expected)


def test_without_a_stall_nothing_is_evaluated_and_updates_pass_bit_for_bit():
    calls = []

    def loss(params):
        jax.debug.callback(lambda: calls.append(1))
        return two_weights(params)

    tx = curvature.escape_saddles(key=0, patience=5)
    updates, w = jnp.array([0.1, -0.0]), jnp.zeros(2)

    @jax.jit
    def step(state, value):
        return tx.update(updates, state, w, value=value, grad=w, value_fn=loss)

    state = tx.init(w)
    for value in (1.0, 0.5, 0.5, 0.5, 0.5, 0.5):
        passed, state = step(state, value)
        np.testing.assert_array_equal(np.asarray(passed).view(np.int32), np.asarray(updates).view(np.int32))
    jax.effects_barrier()
    assert not calls
    moved, _ = step(state, 0.5)
    jax.effects_barrier()
    assert calls and np.linalg.norm(moved) == pytest.approx(1.0)


@pytest.mark.parametrize(("curvature_threshold", "leaves"), [(1.9, True), (2.1, False)])
def test_curvature_above_the_threshold_is_left_alone(curvature_threshold, leaves):
    tx = curvature.escape_saddles(key=0, patience=1, curvature_threshold=curvature_threshold)
    state, w = tx.init(jnp.zeros(2)), jnp.zeros(2)
    for _ in range(2):
        updates, state = tx.update(w, state, w, value=1.0, grad=w, value_fn=two_weights)
    assert bool(jnp.any(updates != 0)) == leaves


def wild(params, data):
    """Quadratic, cubic and quartic terms and a wave, of any sign."""
    w = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(params)])
    matrix, cubic, wave = data
    return w @ matrix @ w + jnp.sum(cubic * w**3) + jnp.sum(wave * jnp.sin(5 * w)) + 0.1 * jnp.sum(w**4)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, None))
def after_a_look(params, data, step_size):
    tx = curvature.escape_saddles(
        key=0, patience=1, gradient_threshold=1e30, curvature_threshold=0.0, krylov_dim=4, step_size=step_size
    )
    state, loss, zeros = tx.init(params), lambda p: wild(p, data), jax.tree.map(jnp.zeros_like, params)
    value = loss(params)
    for _ in range(2):
        updates, state = tx.update(zeros, state, params, value=value, grad=zeros, value_fn=loss)
    moved = functools.reduce(jnp.logical_or, [jnp.any(leaf != 0) for leaf in jax.tree.leaves(updates)])
    return value, loss(gradtx.apply_updates(params, updates)), moved


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(-3, 3), step_size=st.sampled_from([1e-3, 1.0, 100.0]))
def test_a_look_never_raises_the_loss(seed, scale, step_size):
    """Of 32 losses at once; what the loss itself rounds is no rise."""
    random, count = np.random.default_rng(seed), 32
    params = {name: random.normal(size=(count, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    half, cubic, wave = (random.normal(size=(count, *shape)) for shape in ((SIZE, SIZE), (SIZE,), (SIZE,)))
    data = tuple((10**scale * x).astype(np.float32) for x in (half + half.transpose(0, 2, 1), cubic, wave))
    before, after, moved = (np.asarray(x, np.float64) for x in after_a_look(params, data, step_size))
    assert np.all(after <= before + 1e-6 * np.abs(before) + 1e-6 * 10**scale)
    assert np.all(after[moved > 0] < before[moved > 0] + 1e-6 * 10**scale)
    assert moved.mean() > 0.5 or scale < -0.5  # below that the quartic term wins


# Leaving


def two_weights(w):
    return (1 - w[0] * w[1]) ** 2


def network(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["first"])
    return jnp.mean((hidden @ params["second"] - y) ** 2)


RATE = 0.05
PARTS = {
    "perturb_at_saddles": gradtx.chain(gradtx.sgd(RATE), curvature.perturb_at_saddles(1e-2, 0.1, 10, key=0)),
    "escape_saddles": gradtx.chain(
        gradtx.sgd(RATE), curvature.escape_saddles(key=0, patience=10, gradient_threshold=1e-2, krylov_dim=4)
    ),
    "scale_by_saddle_free_newton": gradtx.chain(
        curvature.scale_by_saddle_free_newton(4), gradtx.clip_by_global_norm(1.0), gradtx.scale_by_learning_rate(1.0)
    ),
    "scale_by_newton_cg": gradtx.chain(
        curvature.scale_by_newton_cg(key=0, krylov_dim=4), gradtx.scale_by_learning_rate(1.0)
    ),
}
every_part = pytest.mark.parametrize("part", PARTS)


def trained(loss, params, batch, tx, steps, by_train_step):
    """The last loss."""
    if by_train_step:
        step = training.make_train_step(training.from_plain(loss), tx)
        state = training.create_train_state(jax.tree.map(jnp.array, params), tx, key=jax.random.key(0))
        for _ in range(steps):
            state, _ = step(state, batch)
        return float(loss(state.params, batch))

    def one(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, batch)
        signals = {"value": value, "grad": grads, "value_fn": lambda p: loss(p, batch)}
        updates, state = tx.update(grads, state, params, **signals)
        return (gradtx.apply_updates(params, updates), state), None

    (params, _), _ = jax.jit(lambda at: jax.lax.scan(one, at, length=steps))((params, tx.init(params)))
    return float(loss(params, batch))


@every_part
@pytest.mark.parametrize("by_train_step", [False, True], ids=["by hand", "by the train step"])
@pytest.mark.parametrize("start", [(0.0, 0.0), (1e-4, 1e-4)], ids=["at the saddle", "beside it"])
def test_each_part_leaves_the_saddle_of_two_weights_where_descent_does_not(part, by_train_step, start):
    if part == "scale_by_saddle_free_newton" and start == (0.0, 0.0):
        start = (0.0, 1e-4)  # where the gradient is zero, so is its step

    def loss(w, batch):
        return two_weights(w)

    params = jnp.array(start)
    assert trained(loss, params, None, gradtx.sgd(RATE), 60, by_train_step) > 0.99
    assert trained(loss, params, None, PARTS[part], 60, by_train_step) < 0.1


@every_part
def test_each_part_leaves_the_zero_weights_of_a_network(part):
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 4)).astype(np.float32)
    batch = (jnp.asarray(x), jnp.asarray(np.tanh(x @ random.normal(size=(4, 2))).astype(np.float32)))
    params = {"first": jnp.zeros((4, 3)), "second": jnp.zeros((3, 2))}
    if part == "scale_by_saddle_free_newton":
        params = {name: 1e-4 * jnp.asarray(random.normal(size=w.shape), jnp.float32) for name, w in params.items()}
    before = float(network(params, batch))
    assert trained(network, params, batch, gradtx.sgd(RATE), 60, False) > 0.99 * before
    assert trained(network, params, batch, PARTS[part], 60, False) < 0.9 * before


def test_a_loss_with_a_reverse_rule_alone_is_differentiated_in_the_other_order():
    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * x * g,))
    w = jnp.array([1.0, -2.0])
    updates = update_of(
        curvature.scale_by_saddle_free_newton(damping=1e-3), lambda p: jnp.sum(square(p)) - 3 * p[0] ** 2, w
    )
    np.testing.assert_allclose(updates, np.array([-4.0, -4.0]) / np.array([4.001, 2.001]), rtol=1e-5)


# Signals, and combinators


LOOKERS = {
    "escape_saddles": curvature.escape_saddles(key=0, patience=1),
    "scale_by_saddle_free_newton": curvature.scale_by_saddle_free_newton(),
    "scale_by_newton_cg": curvature.scale_by_newton_cg(key=0),
}
every_looker = pytest.mark.parametrize("name", LOOKERS)


@every_looker
@pytest.mark.parametrize(
    ("value_fn", "words"),
    [(1.0, "must be a function"), (lambda w: w, "one real number"), (lambda w: (jnp.sum(w), 1), "one real number")],
    ids=["a number", "a vector", "a pair"],
)
def test_a_value_fn_of_another_form_is_refused(name, value_fn, words):
    tx, w = gradtx.chain(gradtx.identity(), LOOKERS[name]), jnp.ones(2)
    with pytest.raises(errors.SignalError, match=f"{words}.*in {name}"):
        tx.update(w, tx.init(w), w, value_fn=value_fn, value=1.0, grad=w)


@every_looker
def test_leaves_of_a_partition_are_refused_where_the_loss_needs_all(name):
    params = {"a": jnp.array([0.1]), "b": jnp.array([0.2])}
    tx = gradtx.masked(LOOKERS[name], {"a": True, "b": False})
    signals = {"value": 1.0, "grad": params}
    with pytest.raises(
        errors.SignalError, match=rf"in {name}\), got a tree with None in 1 places.*masked or partition"
    ):
        tx.update(params, tx.init(params), params, value_fn=lambda p: (1 - p["a"][0] * p["b"][0]) ** 2, **signals)

    def of_its_own(p):
        return jnp.sum(p["a"] ** 2)

    updates, _ = tx.update(params, tx.init(params), params, value_fn=of_its_own, **signals)
    np.testing.assert_array_equal(updates["b"], params["b"])


def test_in_a_partition_noise_is_that_of_its_leaves():
    params = {"a": jnp.zeros(3), "b": jnp.zeros(3)}
    rules = {"noisy": curvature.perturb_at_saddles(1.0, 0.5, 0, key=0), "calm": gradtx.identity()}
    tx = gradtx.partition(rules, {"a": "noisy", "b": "calm"})
    updates, _ = tx.update(params, tx.init(params), params, grad=params)
    assert 0 < float(jnp.linalg.norm(updates["a"])) <= 0.5
    np.testing.assert_array_equal(updates["b"], 0)

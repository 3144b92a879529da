"""Line searches and L-BFGS: the step is the one of the book, costs no evaluation twice, and survives bad losses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx
from gradtx import errors
from tests.papers import quasi_newton_oracles as oracles

BACKTRACKING = gradtx.scale_by_backtracking_linesearch
ZOOM = gradtx.scale_by_zoom_linesearch


def step_along(search, loss, params, direction, state=None):
    """The step length that a search takes, and its new state."""
    state = search.init(params) if state is None else state
    value, grad = jax.value_and_grad(loss)(params)
    updates, state = search.update(direction, state, params, value=value, grad=grad, value_fn=loss)
    return updates, state


def rosenbrock(p):
    return jnp.sum(100.0 * (p[1:] - p[:-1] ** 2) ** 2 + (1.0 - p[:-1]) ** 2)


@pytest.mark.parametrize("seed", range(4))
def test_backtracking_takes_the_first_step_that_is_low_enough(seed):
    with jax.enable_x64(True):
        params = jnp.asarray(np.random.default_rng(seed).normal(size=4))
        grad = jax.grad(rosenbrock)(params)
        search = BACKTRACKING(60, slope_rtol=0.1, decrease_factor=0.7, increase_factor=1.5, max_learning_rate=10.0)
        _, state = step_along(search, rosenbrock, params, -grad)
        arguments = {"steps": 60, "slope_rtol": 0.1, "decrease_factor": 0.7}
        exact = oracles.backtracking(rosenbrock, params, -grad, -jnp.sum(grad**2), 1.5, **arguments)
        np.testing.assert_allclose(state.learning_rate, exact, rtol=1e-12)
        theirs = optax.scale_by_backtracking_linesearch(
            60, slope_rtol=0.1, decrease_factor=0.7, increase_factor=1.5, max_learning_rate=10.0
        )
        _, their_state = step_along(theirs, rosenbrock, params, -grad)
        np.testing.assert_allclose(their_state.learning_rate, exact, rtol=1e-12)


# More and Thuente 1994, section 5: functions that are hard to search along, and Rosenbrock's valley.
LINES = {
    "function 1": lambda a: -a / (a**2 + 2.0),
    "function 2": lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4,
    "function 4": lambda a: 0.999 * jnp.sqrt((1 - a) ** 2 + 1e-6) + 0.001 * jnp.sqrt(a**2 + 1e-6) - 0.001 * a,
    "valley": lambda a: rosenbrock(jnp.stack([-1.2 + 2.0 * a, 1.0 + 1.5 * a])),
    "cosine": lambda a: jnp.cos(3.0 * a) - 0.1 * a,
}


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
def test_zoom_ends_where_the_strong_wolfe_conditions_hold(name, first):
    with jax.enable_x64(True):
        line = LINES[name]
        params = jnp.asarray(0.01)
        f0, s0 = jax.value_and_grad(line)(params)
        direction = -jnp.sign(s0) * first
        search = ZOOM(40, slope_rtol=1e-3, curv_rtol=0.1, approx_dec_rtol=None, stepsize_precision=0.0)
        updates, state = step_along(search, line, params, direction)
        t = state.learning_rate
        f, s = jax.value_and_grad(line)(params + updates)
        assert oracles.wolfe(float(f0), float(s0 * direction), float(t), float(f), float(s * direction), 1e-3, 0.1)
        assert int(state.evaluations) < 25


def test_a_good_first_trial_is_the_only_evaluation():
    _, state = step_along(ZOOM(20), lambda p: 0.5 * jnp.sum(p**2), jnp.array([2.0]), jnp.array([-2.0]))
    assert int(state.evaluations) == 1 and float(state.learning_rate) == 1.0


@pytest.mark.parametrize("search", [BACKTRACKING(40, store_grad=True), ZOOM(20)], ids=["backtracking", "zoom"])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda dtype: dtype.__name__)
def test_what_the_state_keeps_is_the_loss_where_the_parameters_really_are(search, dtype):
    def loss(p):
        assert p["w"].dtype == dtype
        return jnp.sum((p["w"].astype(jnp.float32) - 3.0) ** 4)

    params = {"w": jnp.array([1.0, -2.0, 0.3], dtype)}
    grad = jax.grad(loss)(params)
    direction = jax.tree.map(lambda g: -0.3 * g.astype(jnp.float32), grad)
    updates, state = step_along(search, loss, params, direction)
    value, grad = jax.value_and_grad(loss)(gradtx.apply_updates(params, updates))
    np.testing.assert_array_equal(state.value, value)
    np.testing.assert_array_equal(state.grad["w"], grad["w"].astype(jnp.float32))
    kept_value, kept_grad = gradtx.value_and_grad_from_state(loss)(params, state=state)
    np.testing.assert_array_equal(kept_value, value)
    np.testing.assert_array_equal(kept_grad["w"], grad["w"].astype(jnp.float32))


@pytest.mark.parametrize("search", [BACKTRACKING(40), ZOOM(20)], ids=["backtracking", "zoom"])
def test_a_step_into_a_region_without_values_is_shortened(search):
    """The logarithm is NaN beyond its edge; what is taken is lower than where it began, and finite."""

    def barrier(p):
        return jnp.sum(-jnp.log(1.0 - p) - 3.0 * p)

    params = jnp.array([0.0])
    updates, state = step_along(search, barrier, params, jnp.array([5.0]))
    assert 0 < updates[0] < 1
    assert barrier(params + updates) < barrier(params)
    assert np.isfinite(state.value)


@pytest.mark.parametrize("search", [BACKTRACKING(40), ZOOM(20)], ids=["backtracking", "zoom"])
def test_a_direction_uphill_or_of_length_zero_gives_no_step(search):
    def loss(p):
        return jnp.sum(p**2)

    for direction in (jnp.array([1.0]), jnp.array([0.0])):
        updates, state = step_along(search, loss, jnp.array([1.0]), direction)
        assert updates.tolist() == [0.0]
        assert float(state.value) == 1.0


def test_the_step_grows_where_the_loss_goes_on_falling_and_stops_at_its_limit():
    def loss(p):
        return -jnp.sum(p)

    updates, _ = step_along(ZOOM(30, max_learning_rate=100.0), loss, jnp.array([0.0]), jnp.array([1.0]))
    assert updates.tolist() == [100.0]


def trained(tx, loss, params, steps):
    """The parameters after a run in one compiled loop, and the number of evaluations that it made."""
    value_and_grad = gradtx.value_and_grad_from_state(loss)

    def step(carry, _):
        params, state = carry
        value, grad = value_and_grad(params, state=state)
        updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=loss)
        kept = gradtx.core.states_of(gradtx.transforms.LinesearchState, state)[0][1]
        return (gradtx.apply_updates(params, updates), state), (value, kept.evaluations)

    (params, _), (values, evaluations) = jax.jit(
        lambda carry: jax.lax.scan(step, carry, length=steps)
    )((params, tx.init(params)))  # fmt: skip
    return params, np.asarray(values), np.asarray(evaluations)


@pytest.mark.parametrize("memory_size", [1, 3, 10])
def test_the_direction_is_that_of_the_dense_matrices(memory_size):
    random = np.random.default_rng(0)
    matrix = random.normal(size=(6, 6))
    matrix = matrix @ matrix.T + np.eye(6)
    tx = gradtx.scale_by_lbfgs(memory_size)
    with jax.enable_x64(True):
        p, pairs, last = random.normal(size=6), [], None
        state = tx.init({"a": jnp.zeros((2, 2)), "b": jnp.zeros(2)})
        for _ in range(8):
            g = matrix @ p
            if last is not None:
                pairs.append((p - last[0], g - last[1]))
            tree = [{"a": jnp.asarray(x[:4].reshape(2, 2)), "b": jnp.asarray(x[4:])} for x in (g, p)]
            direction, state = tx.update(tree[0], state, tree[1])
            exact = oracles.lbfgs_direction(pairs, g, memory_size)
            found = np.concatenate([np.ravel(direction["a"]), direction["b"]])
            np.testing.assert_allclose(found, exact, rtol=1e-9, atol=1e-12 * np.abs(exact).max())
            last = p, g
            p = p - 0.3 * exact + 0.05 * random.normal(size=6)


def test_lbfgs_and_optax_go_the_same_way():
    with jax.enable_x64(True):
        params = jnp.array([-1.2, 1.0, 0.5])
        ours, theirs = params, params
        tx, peer = gradtx.lbfgs(memory_size=3), optax.lbfgs(memory_size=3)
        state, their_state = tx.init(ours), peer.init(theirs)
        for _ in range(6):
            value, grad = jax.value_and_grad(rosenbrock)(ours)
            updates, state = tx.update(grad, state, ours, value=value, grad=grad, value_fn=rosenbrock)
            their_value, their_grad = jax.value_and_grad(rosenbrock)(theirs)
            their_updates, their_state = peer.update(
                their_grad, their_state, theirs, value=their_value, grad=their_grad, value_fn=rosenbrock
            )
            angle = jnp.vdot(updates, their_updates) / jnp.linalg.norm(updates) / jnp.linalg.norm(their_updates)
            assert angle > 0.99
            ours = theirs = optax.apply_updates(theirs, their_updates)
            their_state, state = their_state, state


def test_a_pair_of_negative_curvature_is_left_out():
    tx = gradtx.scale_by_lbfgs()
    state = tx.init(jnp.zeros(2))
    for params in (jnp.array([1.0, 0.0]), jnp.array([2.0, 0.0])):
        grad = -params  # the loss bends down
        direction, state = tx.update(grad, state, params)
        assert jnp.vdot(direction, grad) > 0
    assert int(state.pairs) == 0


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_where_the_memory_is_full_a_pair_left_out_takes_the_oldest_with_it(bad):
    tx = gradtx.scale_by_lbfgs(memory_size=2)
    curvature, state = np.array([1.0, 4.0, 9.0]), tx.init(jnp.zeros(3))
    points = [np.array([1.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.5]), np.array([0.0, 0.5, 1.0])]
    for point in points:
        _, state = tx.update(jnp.asarray(curvature * point, jnp.float32), state, jnp.asarray(point, jnp.float32))
    _, state = tx.update(jnp.asarray(bad * curvature, jnp.float32), state, jnp.asarray(points[-1] + 1, jnp.float32))
    assert int(state.pairs) == 2
    step, change = points[2] - points[1], curvature * (points[2] - points[1])
    state = state._replace(params=jnp.zeros(3), grad=jnp.zeros(3))
    direction, _ = tx.update(jnp.ones(3), state, jnp.zeros(3))
    expected = oracles.lbfgs_direction([(step, change)], np.ones(3), 2)
    np.testing.assert_allclose(direction, expected, rtol=1e-6)


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_directions_are_finite_for_gradients_of_any_size(size):
    tx = gradtx.scale_by_lbfgs()
    state, params = tx.init(jnp.zeros(3)), jnp.array([1.0, -2.0, 3.0])
    for _ in range(4):
        direction, state = tx.update(size * params, state, params)
        assert np.all(np.isfinite(direction)) and np.any(direction != 0)
        params = params - 0.1 * direction / jnp.max(jnp.abs(direction))


def test_lbfgs_solves_rosenbrock_with_no_more_evaluations_than_optax():
    """Both in float32, from the classical start; value and gradient are evaluated together."""
    start = jnp.array([-1.2, 1.0, -1.2, 1.0])
    params, values, evaluations = trained(gradtx.lbfgs(), rosenbrock, start, 60)
    np.testing.assert_allclose(params, 1.0, atol=1e-3)
    peer = optax.lbfgs()

    def their_step(carry, _):
        params, state = carry
        value, grad = optax.value_and_grad_from_state(rosenbrock)(params, state=state)
        updates, state = peer.update(grad, state, params, value=value, grad=grad, value_fn=rosenbrock)
        return (optax.apply_updates(params, updates), state), (value, state[-1].info.num_linesearch_steps)

    _, (their_values, their_evaluations) = jax.jit(
        lambda carry: jax.lax.scan(their_step, carry, length=60)
    )((start, peer.init(start)))  # fmt: skip

    def needed(values, evaluations):
        return int(np.sum(np.asarray(evaluations)[: int(np.argmax(np.asarray(values) < 1e-4))]))

    assert needed(values, evaluations) <= needed(their_values, their_evaluations)


def test_slopes_go_on_where_the_rounding_of_the_loss_hides_the_decrease():
    """A loss of 1e4 that is known to 4e-7 of itself, as one that sums many terms in float32."""
    curvature = jnp.logspace(0.0, 2.0, 8)

    def loss(p):
        rounding = jax.lax.stop_gradient(4e-3 * jnp.sin(1e5 * jnp.sum(p)))
        return 1e4 + 0.5 * jnp.sum(curvature * (p - 1.0) ** 2) + rounding

    ends = {}
    for rtol in (None, 1e-6):
        tx = gradtx.lbfgs(linesearch=ZOOM(20, approx_dec_rtol=rtol, initial_guess_strategy="one"))
        params, _, _ = trained(tx, loss, jnp.zeros(8), 40)
        ends[rtol] = float(jnp.linalg.norm(jax.grad(loss)(params)))
    assert ends[1e-6] < 1e-4 and ends[None] > 1e-2


def test_a_search_in_a_selection_says_where_to_stand():
    tx = gradtx.only(gradtx.chain(gradtx.sgd(1.0), ZOOM(5)), "w")
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}

    def loss(p):
        return jnp.sum(p["w"] ** 2) + jnp.sum(p["b"] ** 2)

    with pytest.raises(errors.SignalError, match="None in it"):
        tx.update(jax.grad(loss)(params), tx.init(params), params, value=1.0, grad=params, value_fn=loss)


def test_a_state_without_a_search_is_an_error():
    with pytest.raises(errors.StructureError, match="store_grad=True"):
        gradtx.value_and_grad_from_state(rosenbrock)(jnp.ones(2), state=gradtx.sgd(0.1).init(jnp.ones(2)))

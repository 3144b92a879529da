"""Claims about projections, held against float64 oracles that search for the nearest point by bisection."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gradtx import errors, projections

EPS = float(np.finfo(np.float32).eps)
A = {"w": np.array([[1.0, -2.0], [0.5, 0.0]]), "b": np.array([3.0])}


# ---------------------------------------------------------------------------------------------------------------------
# Oracles, for one float64 vector.


def bisect(function, low, high):
    """Where an increasing function is zero."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return high


def simplex(x, scale):
    """The multiplier of the condition on the sum, by bisection: ``p = max(x - tau, 0)`` is what the others leave."""
    tau = bisect(lambda tau: scale - np.maximum(x - tau, 0).sum(), x.max() - scale - 1, x.max() + 1)
    return np.maximum(x - tau, 0)


def l1_sphere(x, scale):
    return np.where(x < 0, -1, 1) * simplex(np.abs(x), scale)


def l1_ball(x, scale):
    return x if np.abs(x).sum() <= scale else l1_sphere(x, scale)


def l2_sphere(x, scale):
    return scale * (x / np.linalg.norm(x) if x.any() else np.full(x.size, x.size**-0.5))


def l2_ball(x, scale):
    return x if np.linalg.norm(x) <= scale else l2_sphere(x, scale)


def hyperplane(x, b):
    a = flat(A)
    return x - (a @ x - b) / (a @ a) * a


def halfspace(x, b):
    return x if flat(A) @ x <= b else hyperplane(x, b)


def vector(x):
    a = flat(A)
    return (a @ x) / (a @ a) * a


def flat(tree):
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


SETS = {
    "non_negative": (projections.projection_non_negative, lambda x: np.maximum(x, 0)),
    "box": (lambda x: projections.projection_box(x, -0.5, 1.5), lambda x: np.clip(x, -0.5, 1.5)),
    "hypercube": (lambda x: projections.projection_hypercube(x, 2.0), lambda x: np.clip(x, 0, 2)),
    "linf_ball": (lambda x: projections.projection_linf_ball(x, 0.7), lambda x: np.clip(x, -0.7, 0.7)),
    "simplex": (projections.projection_simplex, lambda x: simplex(x, 1)),
    "simplex, wide": (lambda x: projections.projection_simplex(x, 7.5), lambda x: simplex(x, 7.5)),
    "l1_sphere": (projections.projection_l1_sphere, lambda x: l1_sphere(x, 1)),
    "l1_ball": (lambda x: projections.projection_l1_ball(x, 2.5), lambda x: l1_ball(x, 2.5)),
    "l2_sphere": (lambda x: projections.projection_l2_sphere(x, 3.0), lambda x: l2_sphere(x, 3)),
    "l2_ball": (lambda x: projections.projection_l2_ball(x, 2.0), lambda x: l2_ball(x, 2)),
    "hyperplane": (lambda x: projections.projection_hyperplane(x, A, -1.5), lambda x: hyperplane(x, -1.5)),
    "halfspace": (lambda x: projections.projection_halfspace(x, A, -1.5), lambda x: halfspace(x, -1.5)),
    "vector": (lambda x: projections.projection_vector(x, A), vector),
}
every_set = pytest.mark.parametrize("name", SETS)
CONVEX = [name for name in SETS if "sphere" not in name]
SMOOTH = [name for name in SETS if name != "non_negative"]

numbers = st.floats(-1e4, 1e4, width=32) | st.floats(-2, 2, width=32) | st.sampled_from([0.0, 1.0, -1.0, 0.5])
vectors = st.lists(numbers, min_size=5, max_size=5).map(lambda x: np.array(x, np.float32))


def tree_of(x):
    return {"w": x[1:].reshape(2, 2), "b": x[:1]}


@functools.cache
def compiled(name):
    return jax.jit(SETS[name][0])


def size(x):
    """What the error of a projection of ``x`` is compared with."""
    return np.linalg.norm(x) + 8


@every_set
@hypothesis.given(x=vectors)
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_projection_is_that_of_float64(name, x):
    expected = SETS[name][1](x.astype(np.float64))
    found = flat(compiled(name)(tree_of(x)))
    hypothesis.assume(name != "l2_sphere" or np.linalg.norm(x) > 1e-30)
    np.testing.assert_allclose(found, expected, rtol=0, atol=8 * EPS * size(x))


@every_set
@hypothesis.given(x=vectors, others=st.lists(vectors, min_size=5, max_size=5))
@hypothesis.settings(max_examples=30, deadline=None)
def test_no_other_point_of_the_set_is_nearer(name, x, others):
    p = flat(compiled(name)(tree_of(x)))
    for other in others:
        point = SETS[name][1](other.astype(np.float64))
        assert np.linalg.norm(x - p) <= np.linalg.norm(x - point) + 8 * EPS * size(x)


@every_set
@hypothesis.given(x=vectors)
@hypothesis.settings(max_examples=30, deadline=None)
def test_what_is_projected_stays_where_it_is(name, x):
    once = compiled(name)(tree_of(x))
    np.testing.assert_allclose(flat(compiled(name)(once)), flat(once), rtol=0, atol=16 * EPS * size(flat(once)))


@pytest.mark.parametrize("name", CONVEX)
@hypothesis.given(x=vectors, y=vectors)
@hypothesis.settings(max_examples=30, deadline=None)
def test_two_points_are_not_farther_apart_than_they_were(name, x, y):
    project = compiled(name)
    apart = np.linalg.norm(flat(project(tree_of(x))) - flat(project(tree_of(y))))
    assert apart <= np.linalg.norm(x.astype(float) - y) + 8 * EPS * (size(x) + size(y))


@every_set
def test_optax_finds_the_same_point(name):
    x = tree_of(np.array([0.5, -2.0, 1.25, 0.125, 3.0], np.float32))
    theirs = {
        "box": lambda x: optax.projections.projection_box(x, jax.tree.map(lambda _: -0.5, x), like(x, 1.5)),
        "hypercube": lambda x: jax.tree.map(lambda leaf: optax.projections.projection_hypercube(leaf, 2.0), x),
        "linf_ball": lambda x: jax.tree.map(lambda leaf: optax.projections.projection_linf_ball(leaf, 0.7), x),
        "simplex, wide": lambda x: optax.projections.projection_simplex(x, 7.5),
        "l1_ball": lambda x: optax.projections.projection_l1_ball(x, 2.5),
        "l2_sphere": lambda x: optax.projections.projection_l2_sphere(x, 3.0),
        "l2_ball": lambda x: optax.projections.projection_l2_ball(x, 2.0),
        "hyperplane": lambda x: optax.projections.projection_hyperplane(x, A, -1.5),
        "halfspace": lambda x: optax.projections.projection_halfspace(x, A, -1.5),
        "vector": lambda x: optax.projections.projection_vector(x, A),
    }.get(name, getattr(optax.projections, f"projection_{name}", None))
    np.testing.assert_allclose(flat(compiled(name)(x)), flat(theirs(x)), rtol=1e-5, atol=1e-6)


def like(tree, value):
    return jax.tree.map(lambda _: value, tree)


@every_set
@pytest.mark.parametrize("scale", [1e-30, 1e-3, 2.9, 1e30])
def test_the_jacobian_is_that_of_differences(name, scale):
    """In float64, where differences tell; the set stays the same, and the vector comes from afar."""
    x = scale * np.array([0.5, -2.0, 1.25, 0.125, 3.0])
    project, oracle = SETS[name]
    with jax.enable_x64(True):
        found = jax.jacobian(lambda x: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(project(tree_of(x)))]))
        found = np.asarray(found(x))
    if name == "non_negative" or scale >= 1e-3:
        steps = np.eye(5) * scale * 1e-6
        expected = np.stack([(oracle(x + h) - oracle(x - h)) / (2 * h.sum()) for h in steps], -1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert np.isfinite(found).all()


@every_set
@pytest.mark.parametrize("x", [np.zeros(5), np.full(5, 1e38), np.array([2e38, -1e38, 1e-38, 0, 1]), np.full(5, 2e-38)])
def test_extreme_points_have_finite_projections_and_gradients(name, x):
    x = x.astype(np.float32)
    value = np.asarray(flat(compiled(name)(tree_of(x))))
    assert np.isfinite(value).all()
    np.testing.assert_allclose(
        value, SETS[name][1](x.astype(float)), rtol=8 * EPS, atol=8 * EPS * (np.abs(x).max() + 1)
    )
    gradient = jax.grad(lambda t: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(SETS[name][0](t))))(tree_of(x))
    largest = 1e39 if name == "l2_sphere" else 10
    assert (np.abs(flat(gradient)) < largest).all()


@pytest.mark.parametrize("scale", [0.0, 2e-38, 1e-20, 1e20, 3e38])
@pytest.mark.parametrize("name", ["simplex", "l1_sphere", "l1_ball", "l2_sphere", "l2_ball", "linf_ball"])
def test_a_set_may_be_huge_or_tiny(name, scale):
    x = np.array([0.5, -2.0, 1.25, 0.125, 3.0], np.float32)
    found = np.asarray(getattr(projections, f"projection_{name}")(x, scale))
    oracle = {"linf_ball": lambda x, s: np.clip(x, -s, s), "simplex": simplex}.get(name) or globals()[name]
    if scale in (2e-38, 1e-20) and name in (
        "simplex",
        "l1_sphere",
        "l1_ball",
    ):  # bisection cannot tell 3 - 1e-20 from 3
        np.testing.assert_array_equal(found, np.float32(scale) * np.array([0, 0, 0, 0, 1]))
        return
    np.testing.assert_allclose(found, oracle(x.astype(float), scale), rtol=4 * EPS, atol=4 * EPS * scale + 2e-38)


def test_the_derivative_by_the_scale_is_that_of_differences():
    x = np.array([0.5, -2.0, 1.25, 0.125, 3.0])
    with jax.enable_x64(True):
        for name in ("simplex", "l1_sphere", "l1_ball", "l2_sphere", "l2_ball"):
            project = functools.partial(getattr(projections, f"projection_{name}"), x)
            found = jax.jacobian(project)(2.0)
            expected = (project(2.0 + 1e-6) - project(2.0 - 1e-6)) / 2e-6
            np.testing.assert_allclose(found, expected, atol=1e-8)


def test_a_large_simplex_is_found_in_few_passes_with_its_sum():
    for x in (np.random.default_rng(0).normal(size=100_000), np.geomspace(1e-12, 1, 100_000), np.ones(100_000)):
        p = np.asarray(projections.projection_simplex(x.astype(np.float32)), np.float64)
        assert abs(p.sum() - 1) < 1e-5
        np.testing.assert_allclose(p, simplex(x.astype(np.float32).astype(float), 1), atol=4 * EPS)


def test_impossible_elements_of_a_simplex_are_zero():
    p = projections.projection_simplex(jnp.array([0.0, -jnp.inf, 0.5]))
    np.testing.assert_allclose(p, [0.25, 0, 0.75])


def test_zeros_have_a_nearest_point_on_a_sphere():
    for name in ("l1_sphere", "l2_sphere"):
        p = np.asarray(getattr(projections, f"projection_{name}")(jnp.zeros(4), 2.0))
        np.testing.assert_allclose(p, np.full(4, 0.5 if name == "l1_sphere" else 1.0))
    slope = jax.grad(lambda x: projections.projection_l2_sphere(x).sum())(jnp.zeros(4))
    np.testing.assert_array_equal(slope, np.zeros(4))


def test_without_a_normal_there_is_no_plane():
    x, zeros = jnp.array([1.0, 2.0]), jnp.zeros(2)
    for b in (-1.0, 0.0, 1.0):
        np.testing.assert_array_equal(projections.projection_hyperplane(x, zeros, b), x)
        np.testing.assert_array_equal(projections.projection_halfspace(x, zeros, b), x)
    np.testing.assert_array_equal(projections.projection_vector(x, zeros), zeros)
    slopes = jax.grad(lambda a: projections.projection_vector(x, a).sum())(zeros)
    assert np.isfinite(slopes).all()


@every_set
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_in_float32_and_rounded_once(name, dtype):
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree_of(np.array([0.5, -2.0, 1.25, 0.125, 3.0])))
    wide = SETS[name][0](jax.tree.map(lambda leaf: leaf.astype(jnp.float32), x))
    for found, expected in zip(jax.tree.leaves(SETS[name][0](x)), jax.tree.leaves(wide), strict=True):
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected.astype(dtype))


@every_set
def test_nan_stays_visible(name):
    assert np.isnan(flat(SETS[name][0](tree_of(np.array([1.0, np.nan, 0, 0, 0], np.float32))))).any()


@every_set
@pytest.mark.parametrize("bad", [np.array([1, 2]), np.array([1j]), True])
def test_other_dtypes_are_an_error_that_names_the_leaf(name, bad):
    with pytest.raises(errors.DtypeError, match="'b'"):
        SETS[name][0]({"b": bad, "w": np.zeros(2, np.float32)} if name[0] not in "hv" else {"b": bad})


@every_set
def test_vmap_projects_each_row_by_itself(name):
    x = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    rows = jax.vmap(lambda x: SETS[name][0](tree_of(x)))(x)
    for index in range(3):
        row = jax.tree.map(lambda leaf, index=index: leaf[index], rows)
        np.testing.assert_allclose(flat(row), flat(SETS[name][0](tree_of(x[index]))), atol=4 * EPS)


@pytest.mark.parametrize("name", ["simplex", "l1_sphere", "l1_ball", "l2_sphere", "l2_ball", "linf_ball"])
@pytest.mark.parametrize(
    ("scale", "error"), [(-1.0, errors.ArgumentRangeError), (np.nan, errors.ArgumentRangeError),
                         ("1", errors.ArgumentTypeError), (None, errors.ArgumentTypeError)],
)  # fmt: skip
def test_a_bad_scale_is_named(name, scale, error):
    with pytest.raises(error, match="scale must be"):
        getattr(projections, f"projection_{name}")(jnp.ones(2), scale)


def test_an_empty_tree_stays_one():
    for name in ("simplex", "l1_ball", "l2_sphere", "l2_ball", "non_negative"):
        assert getattr(projections, f"projection_{name}")({}) == {}
        assert getattr(projections, f"projection_{name}")(jnp.zeros(0)).shape == (0,)


def test_bounds_are_numbers_or_trees_of_them():
    x = {"w": jnp.array([[-3.0, 0.0], [2.0, 5.0]]), "b": jnp.array([7.0])}
    found = projections.projection_box(x, {"w": jnp.array([-1.0, 1.0]), "b": 0.0}, 4.0)
    np.testing.assert_array_equal(found["w"], [[-1, 1], [2, 4]])
    np.testing.assert_array_equal(found["b"], [4])
    found = projections.projection_hypercube({"w": {"v": x["w"]}, "b": x["b"]}, {"w": 1.0, "b": jnp.inf})
    np.testing.assert_array_equal(found["w"]["v"], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(found["b"], [7])


@pytest.mark.parametrize(
    ("lower", "upper", "error", "words"),
    [
        (1.0, 0.0, errors.ArgumentRangeError, "nothing is in the box"),
        ({"v": 1.0}, 2.0, errors.SelectionError, "lower must be a tree"),
        ({"w": jnp.zeros(3)}, 2.0, errors.ShapeError, "'w'"),
        ("0", 2.0, errors.ArgumentTypeError, "bounds must be numbers"),
        (None, 2.0, errors.SelectionError, "lower must be a tree"),
    ],
)
def test_a_bad_bound_is_named(lower, upper, error, words):
    with pytest.raises(error, match=words) as caught:
        projections.projection_box({"w": jnp.ones(2)}, lower, upper)
    assert str(caught.value).startswith("projection_box(")


def test_another_tree_as_the_normal_is_named():
    with pytest.raises(errors.StructureError, match="a must have the structure of x"):
        projections.projection_vector({"w": jnp.ones(2)}, {"v": jnp.ones(2)})
    with pytest.raises(errors.ShapeError, match="a must have the shapes of x"):
        projections.projection_halfspace({"w": jnp.ones(2)}, {"w": jnp.ones(1)}, 0.0)

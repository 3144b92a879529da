"""Claims about lines and planes of the loss, and about the directions that span them."""

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest

from gradtx import curvature

mpl.use("Agg")
KEY = jax.random.key(0)


def quadratic(params, batch):
    return 0.5 * jnp.sum(batch * params["w"] ** 2) + jnp.sum(params["b"])


def trees(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {"w": jnp.asarray(rng.normal(size=(3, 4)), dtype), "b": jnp.asarray(rng.normal(size=4), dtype)}


SCALES = jnp.asarray(np.random.default_rng(9).uniform(1, 5, (3, 4)), jnp.float32)


def exact(params):
    w, b, scales = (np.asarray(x, np.float64) for x in (params["w"], params["b"], SCALES))
    return 0.5 * np.sum(scales * w**2) + np.sum(b)


def slope_of(params, direction):
    w, scales = np.asarray(params["w"], np.float64), np.asarray(SCALES, np.float64)
    return np.sum(scales * w * direction["w"]) + np.sum(direction["b"])


def mixed(*pairs):
    return {name: sum(weight * np.asarray(tree[name], np.float64) for weight, tree in pairs) for name in "wb"}


@pytest.mark.parametrize("slopes", [False, True])
def test_a_line_is_the_parabola_that_it_should_be(slopes):
    start, end = trees(0), trees(1)
    line = curvature.loss_line(quadratic, start, SCALES, end=end, slopes=slopes)
    np.testing.assert_allclose(line.losses, [exact(mixed((1 - a, start), (a, end))) for a in line.alphas], rtol=2e-6)
    along = curvature.loss_line(quadratic, start, SCALES, direction=end, slopes=slopes)
    np.testing.assert_allclose(along.losses, [exact(mixed((1, start), (a, end))) for a in along.alphas], rtol=2e-6)
    if slopes:
        down = mixed((1, end), (-1, start))
        at = [slope_of(mixed((1 - a, start), (a, end)), down) for a in line.alphas]
        np.testing.assert_allclose(line.slopes, at, rtol=1e-5, atol=1e-5)
        at = [slope_of(mixed((1, start), (a, end)), mixed((1, end))) for a in along.alphas]
        np.testing.assert_allclose(along.slopes, at, rtol=1e-5, atol=1e-5)
    else:
        assert line.slopes is None


def test_a_plane_is_the_paraboloid_that_it_should_be():
    start, u, v = trees(0), trees(1), trees(2)
    plane = curvature.loss_plane(quadratic, start, SCALES, directions=(u, v), xs=[-1, 0, 2], ys=[-0.5, 1])
    right = [[exact(mixed((1, start), (x, u), (y, v))) for x in plane.xs] for y in plane.ys]
    np.testing.assert_allclose(plane.losses, right, rtol=2e-6)
    assert plane.losses.shape == (2, 3) and plane.losses.dtype == np.float64


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("slopes", [False, True])
def test_both_ends_of_a_line_are_the_solutions_themselves(dtype, slopes):
    """``w + 1 (w' - w)`` would be off by rounding, and by all of ``w'`` where ``w`` is much larger."""
    seen = []

    def loss(params, batch):
        jax.debug.callback(lambda w: seen.append(np.asarray(w)), params["w"], ordered=True)
        return quadratic(params, batch).astype(jnp.float32)

    start, end = trees(0, dtype), trees(1, dtype)
    start["w"] = start["w"] * 1000
    line = curvature.loss_line(loss, start, SCALES, end=end, alphas=[0, 1], slopes=slopes)
    jax.effects_barrier()
    np.testing.assert_array_equal(seen[0], start["w"])
    np.testing.assert_array_equal(seen[-1], end["w"])
    np.testing.assert_allclose(line.losses, [float(quadratic(p, SCALES)) for p in (start, end)], rtol=1e-2)
    default = curvature.loss_line(quadratic, start, SCALES, end=end).alphas
    assert 0.0 in default and 1.0 in default


def test_a_whole_grid_compiles_one_program_for_any_parameters_and_batch():
    traced = []

    def loss(params, batch):
        traced.append(1)
        return quadratic(params, batch)

    for seed in range(3):
        curvature.loss_plane(loss, trees(seed), SCALES + seed, directions=(trees(1), trees(2)))
        curvature.loss_line(loss, trees(seed), SCALES, end=trees(seed + 1))
        curvature.loss_line(loss, trees(seed), SCALES, direction=trees(seed + 1))
    assert len(traced) == 2  # the plane's, and one for both lines


def test_a_data_set_gives_the_line_of_one_batch_and_unselected_leaves_stay():
    def loss(params, batch):
        return jnp.mean((batch @ params["w"] + params["b"]) ** 2)

    x = jax.random.normal(KEY, (10, 3))
    parts = curvature.dataset([x[:3], x[3:]])
    for slopes in (False, True):
        whole, cut = (
            curvature.loss_line(loss, trees(0), b, end=trees(1), slopes=slopes, where="w") for b in (x, parts)
        )
        np.testing.assert_allclose(cut.losses, whole.losses, rtol=1e-5)
        if slopes:
            np.testing.assert_allclose(cut.slopes, whole.slopes, rtol=1e-4, atol=1e-4)
    half = {"w": trees(1)["w"], "b": trees(0)["b"]}
    at_end = curvature.loss_line(loss, trees(0), x, end=trees(1), where="w", alphas=1.0).losses
    np.testing.assert_allclose(at_end, [float(loss(half, x))], rtol=1e-6)


def test_losses_that_are_not_finite_are_shown_as_they_are():
    def loss(w, batch):
        return jnp.log(w[0]) + jnp.where(w[1] > 0.5, jnp.inf, 0.0)

    line = curvature.loss_line(loss, jnp.array([1.0, 0.0]), direction=jnp.array([-1.0, 0.0]), alphas=[0, 1, 2])
    assert line.losses[0] == 0 and line.losses[1] == -np.inf and np.isnan(line.losses[2])
    axes = curvature.plot_line(line)
    assert "not finite" in [drawn.get_label() for drawn in axes.get_lines()]
    plane = curvature.loss_plane(loss, jnp.array([1.0, 0.0]), directions=(jnp.array([1.0, 0]), jnp.array([0, 1.0])))
    assert np.isinf(plane.losses[-1, -1]) and np.isnan(curvature.plot_line(line).get_lines()[0].get_ydata()[2])
    axes = curvature.plot_plane(plane, points={"start": (0, 0)})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["not finite", "start"]
    nothing = plane._replace(losses=np.full_like(plane.losses, np.nan))
    assert curvature.plot_plane(nothing).get_xlabel() == "x"
    flat = plane._replace(losses=np.ones_like(plane.losses))
    curvature.plot_plane(flat).figure.canvas.draw()


# ---------------------------------------------------------------------------------------------------------------------
# Directions.


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_each_filter_gets_the_length_of_the_parameters(axis):
    rng = np.random.default_rng(0)
    params = {"conv": rng.normal(size=(3, 3, 4, 5)), "dense": rng.normal(size=(6, 7)), "bias": rng.normal(size=5),
              "scale": np.float32(2.0)}  # fmt: skip
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    direction = curvature.random_direction(KEY, params)
    found = curvature.filter_normalized(direction, params, axis=axis)
    for name in ("conv", "dense"):
        others = tuple(i for i in range(params[name].ndim) if i != axis % params[name].ndim)
        d, w, f = (np.asarray(tree[name], np.float64) for tree in (direction, params, found))
        np.testing.assert_allclose(np.sqrt(np.sum(f**2, others)), np.sqrt(np.sum(w**2, others)), rtol=1e-6)
        ratio = f / d
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio.mean(others, keepdims=True), ratio.shape), rtol=1e-5)
    assert not found["bias"].any() and found["scale"] == 0


def test_filters_of_zeros_and_of_huge_or_tiny_entries_stay_finite():
    params = jnp.array([[0.0, 3e38, 1e-30, 1.0], [0.0, 0.0, 1e-30, 1.0]])
    direction = jnp.array([[1.0, 1e-30, 3e38, 0.0], [1.0, 0.0, 3e38, 0.0]])
    found = curvature.filter_normalized(direction, params)
    np.testing.assert_allclose(found, [[0, 3e38, 1e-30, 0], [0, 0, 1e-30, 0]], rtol=1e-6)


def relu_network(params, batch):
    x, y = batch
    hidden = jax.nn.relu(x @ params["first"] + params["bias"])
    return jnp.mean((hidden @ params["second"] - y) ** 2)


def network(scale):
    keys = jax.random.split(KEY, 5)
    params = {"first": scale * jax.random.normal(keys[0], (3, 8)), "bias": scale * jax.random.normal(keys[1], (8,)),
              "second": jax.random.normal(keys[2], (8, 2)) / scale}  # fmt: skip
    return params, (jax.random.normal(keys[3], (20, 3)), jax.random.normal(keys[4], (20, 2)))


def test_rescaling_a_pair_of_relu_layers_leaves_the_filter_normalized_picture_as_it_was():
    pictures = {True: [], False: []}
    for scale in (1.0, 8.0):
        params, batch = network(scale)
        raw = curvature.random_direction(KEY, params)
        for normalized, lines in pictures.items():
            direction = curvature.filter_normalized(raw, params) if normalized else raw
            lines.append(curvature.loss_line(relu_network, params, batch, direction=direction).losses)
    np.testing.assert_allclose(*pictures[True], rtol=1e-6)
    assert not np.allclose(*pictures[False], rtol=0.1)


def test_a_random_direction_is_standard_normal_and_its_own_for_each_leaf():
    params = {"a": jnp.zeros((50, 40), jnp.bfloat16), "b": jnp.zeros((50, 40)), "steps": jnp.arange(3)}
    found = curvature.random_direction(KEY, params)
    assert found["a"].dtype == jnp.float32 and not found["steps"].any()
    for name in "ab":
        assert abs(float(found[name].mean())) < 0.1 and abs(float(found[name].std()) - 1) < 0.1
    assert abs(float(jnp.corrcoef(found["a"].ravel(), found["b"].ravel())[0, 1])) < 0.1
    assert (curvature.random_direction(KEY, params)["a"] == found["a"]).all()


@pytest.mark.parametrize("seed", range(3))
def test_a_plane_through_three_solutions_holds_them(seed):
    a, b, c = (trees(3 * seed + i) for i in range(3))
    plane = curvature.plane_through(a, b, c)
    u, v = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(d)]) for d in plane.directions)
    np.testing.assert_allclose([u @ u, v @ v, u @ v], [1, 1, 0], atol=1e-6)
    for (x, y), solution in zip(plane.points, (a, b, c), strict=True):
        there = jax.tree.map(lambda w, p, q, x=x, y=y: w + x * p + y * q, a, *plane.directions)
        for name in "wb":
            np.testing.assert_allclose(there[name], solution[name], atol=2e-6)
        found = curvature.loss_plane(quadratic, plane.origin, SCALES, directions=plane.directions, xs=[x], ys=[y])
        np.testing.assert_allclose(found.losses, float(quadratic(solution, SCALES)), rtol=3e-6)
    for axis, grid in enumerate((plane.xs, plane.ys)):
        assert grid[0] < plane.points[:, axis].min() and grid[-1] > plane.points[:, axis].max()


def test_solutions_on_a_line_or_twice_the_same_span_no_plane():
    a, b, c = (trees(i) for i in range(3))
    middle = jax.tree.map(lambda x, y: 0.3 * x + 0.7 * y, a, b)
    for three, said in (((a, a, c), "b equal to a"), ((a, b, a), "c equal to a"), ((a, b, b), "on one line"),
                        ((a, b, middle), "on one line")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            curvature.plane_through(*three)
    with pytest.raises(ValueError, match="c must have the structure"):
        curvature.plane_through(a, b, {"w": c["w"]})
    same_biases = [tree | {"b": a["b"], "steps": jnp.arange(2)} for tree in (a, b, c)]
    plane = curvature.plane_through(*same_biases, where="w")
    assert not plane.directions[0]["b"].any() and plane.origin is same_biases[0]


BAD = {
    "no end": (lambda p, d: curvature.loss_line(quadratic, p, SCALES), "either end or direction, got neither"),
    "both": (lambda p, d: curvature.loss_line(quadratic, p, SCALES, end=d, direction=d), "got both"),
    "equal solutions": (lambda p, d: curvature.loss_line(quadratic, p, SCALES, end=p), "two different solutions"),
    "zero direction": (
        lambda p, d: curvature.loss_line(quadratic, p, SCALES, direction=jax.tree.map(jnp.zeros_like, p)), "not zero",
    ),
    "other structure": (lambda p, d: curvature.loss_line(quadratic, p, SCALES, end={"w": d["w"]}), "without 'b'"),
    "other shape": (
        lambda p, d: curvature.loss_line(quadratic, p, SCALES, direction=d | {"b": jnp.ones(3)}), "at 'b'",
    ),
    "no points": (lambda p, d: curvature.loss_line(quadratic, p, SCALES, end=d, alphas=[]), "at least one number"),
    "a text": (lambda p, d: curvature.loss_line(quadratic, p, SCALES, end=d, alphas="x"), "a list of numbers"),
    "NaN": (lambda p, d: curvature.loss_line(quadratic, p, SCALES, end=d, alphas=[0, np.nan]), "finite, got nan"),
    "one direction": (lambda p, d: curvature.loss_plane(quadratic, p, SCALES, directions=d), "a pair of trees"),
    "a zero direction": (
        lambda p, d: curvature.loss_plane(quadratic, p, SCALES, directions=(d, jax.tree.map(jnp.zeros_like, p))),
        r"directions\[1\] of zeros",
    ),
    "no xs": (lambda p, d: curvature.loss_plane(quadratic, p, SCALES, directions=(d, p), xs=[]), "xs of at least one"),
    "a training loss": (lambda p, d: curvature.loss_line(lambda w, s, b, k: 0.0, p, end=d), "frozen_loss"),
    "integers": (lambda p, d: curvature.loss_line(quadratic, p | {"i": jnp.arange(2)}, end=d), "int32"),
    "another axis": (lambda p, d: curvature.filter_normalized(d, p, axis=2), "an axis that every kernel has"),
    "another tree": (lambda p, d: curvature.filter_normalized(d["w"], p), "direction must have the structure"),
    "a seed": (lambda p, d: curvature.random_direction(0, p), "random key"),
    "a line of nothing": (lambda p, d: curvature.plot_line([1.0]), "must be a LossLine"),
    "a plane of nothing": (lambda p, d: curvature.plot_plane(np.ones((3, 3))), "must be a LossPlane"),
    "a flat plane": (
        lambda p, d: curvature.plot_plane(curvature.LossPlane(np.ones(1), np.ones(2), np.ones((2, 1)))), "2 by 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_what_to_write(name):
    call, said = BAD[name]
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        call(trees(0), trees(1))
    assert caught.value.code

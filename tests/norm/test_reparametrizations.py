"""Claims about weight and spectral normalization."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradtx
from gradtx import errors
from gradtx.norm import DirectionAndScale, spectral_norm, weight_norm
from tests.papers import normalization_oracles as oracles


def weights(seed=0, size=1.0, dtype=jnp.float32):
    random = np.random.default_rng(seed)
    return {
        "dense": {"kernel": jnp.asarray(random.normal(size=(5, 4)) * size, dtype), "bias": jnp.ones(4, dtype)},
        "conv": {"kernel": jnp.asarray(random.normal(size=(3, 3, 2, 4)) * size, dtype)},
    }


def assert_close(actual, expected, tolerance=2e-6):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.all(np.abs(actual - expected) <= tolerance * np.abs(expected).max())


@pytest.mark.parametrize("normalization", [weight_norm, spectral_norm])
@pytest.mark.parametrize("size", [1.0, 1e-30, 1e37])
def test_only_what_is_selected_changes_and_structure_and_dtypes_return(normalization, size):
    tree = weights(size=size)
    layer = normalization("*kernel")
    params, state = layer.init(tree)
    found, _ = jax.jit(layer.apply)(params, state)
    assert jax.tree.map(jax.typeof, found) == jax.tree.map(jax.typeof, tree)
    np.testing.assert_array_equal(found["dense"]["bias"], tree["dense"]["bias"])
    if normalization is weight_norm:
        for name in ("dense", "conv"):
            assert isinstance(params[name]["kernel"], DirectionAndScale)
            assert_close(found[name]["kernel"], tree[name]["kernel"])
    else:
        for name in ("dense", "conv"):
            largest = np.linalg.norm(np.float64(found[name]["kernel"]).reshape(-1, 4), 2)
            assert 1 - 1e-6 <= largest < 1.05


@pytest.mark.parametrize("normalization", [weight_norm, spectral_norm])
def test_low_precision_is_computed_in_float32(normalization):
    tree = weights(dtype=jnp.bfloat16)
    layer = normalization("*kernel")
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    found, expected = (layer.apply(*layer.init(leaves))[0]["dense"]["kernel"] for leaves in (tree, wide))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected.astype(jnp.bfloat16))


def test_weight_norm_and_its_gradients_are_the_papers():
    random = np.random.default_rng(1)
    v, g, by_w = (random.normal(size=shape).astype(np.float32) for shape in ((5, 4), (4,), (5, 4)))
    layer = weight_norm("kernel")
    w, pull = jax.vjp(lambda params: layer.apply(params, ())[0]["kernel"], {"kernel": DirectionAndScale(v, g)})
    (found,) = pull(by_w)
    by_v, by_g = oracles.weight_gradients(v, g, by_w)
    assert_close(w, oracles.weight(v, g))
    assert_close(found["kernel"].direction, by_v)
    assert_close(found["kernel"].scale, by_g)


def test_the_axes_of_outputs_may_be_others_or_none():
    tree = {"kernel": jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 5)), jnp.float32)}
    for axis, axes, shape in ((0, (1, 2), (3,)), ((0, -1), (1,), (3, 5)), ((), (0, 1, 2), ())):
        layer = weight_norm("kernel", axis=axis)
        params, state = layer.init(tree)
        assert params["kernel"].scale.shape == shape
        assert_close(params["kernel"].scale, np.sqrt((np.float64(tree["kernel"]) ** 2).sum(axes)))
        assert_close(layer.apply(params, state)[0]["kernel"], tree["kernel"])


@pytest.mark.parametrize("normalization", [weight_norm, spectral_norm])
def test_zeros_stay_zero_with_finite_gradients(normalization):
    layer = normalization("*kernel")
    params, state = layer.init(jax.tree.map(jnp.zeros_like, weights()))
    total = lambda params: sum(jnp.sum(3 * leaf) for leaf in jax.tree.leaves(layer.apply(params, state)[0]))  # noqa: E731
    found, gradient = jax.value_and_grad(total)(params)
    assert found == 0 and all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))


def test_spectral_norm_takes_the_papers_steps():
    layer = spectral_norm("*", n_steps=1)
    tree, by_w = [np.random.default_rng(3).normal(size=(6, 4)).astype(np.float32) for _ in range(2)]
    params, state = layer.init({"kernel": jnp.asarray(tree)})
    u = np.ones(4) / 2
    state = {"kernel": jnp.float32(u)}
    for _ in range(3):
        (w, state), pull = jax.vjp(lambda params, state=state: layer.apply(params, state, True), params)
        u, v, size = oracles.power_step(np.float64(tree).T, u)
        assert_close(w["kernel"], tree / size)
        assert_close(state["kernel"], u)
        (found,) = pull(({"kernel": jnp.asarray(by_w)}, jax.tree.map(jnp.zeros_like, state)))
        assert_close(found["kernel"], oracles.spectral_gradient(np.float64(tree).T, u, v, np.float64(by_w).T).T)


def test_spectral_norm_follows_weights_through_training():
    tree = weights()
    layer, tx = spectral_norm("*kernel"), gradtx.sgd(0.01)
    params, state = layer.init(tree)
    opt_state = tx.init(params)

    @jax.jit
    def step(params, state, opt_state):
        def loss(params):
            found, new = layer.apply(params, state, True)
            return sum(jnp.sum((leaf - 1) ** 2) for leaf in jax.tree.leaves(found)), new

        grads, state_ = jax.grad(loss, has_aux=True)(params)
        updates, opt_state_ = tx.update(grads, opt_state, params)
        return gradtx.apply_updates(params, updates), state_, opt_state_

    for _ in range(30):
        params, state, opt_state = step(params, state, opt_state)
    found, same = layer.apply(params, state)
    assert all(np.array_equal(same[path], u) for path, u in state.items())
    for name in ("dense", "conv"):
        np.testing.assert_allclose(np.linalg.norm(np.float64(found[name]["kernel"]).reshape(-1, 4), 2), 1, rtol=1e-3)


def test_pytorch_agrees_on_weight_norm():
    torch = pytest.importorskip("torch", reason="PyTorch is a peer; its CPU build is enough")
    kernel = np.random.default_rng(4).normal(size=(4, 5)).astype(np.float32)
    theirs = torch.nn.Linear(5, 4, bias=False)
    theirs.weight.data = torch.tensor(kernel)
    theirs = torch.nn.utils.parametrizations.weight_norm(theirs)
    layer = weight_norm("weight", axis=0)
    params, state = layer.init({"weight": kernel})
    np.testing.assert_allclose(params["weight"].scale, theirs.parametrizations.weight.original0.detach()[:, 0], 1e-6)
    x = np.random.default_rng(5).normal(size=(3, 5)).astype(np.float32)
    grads = jax.grad(lambda p: jnp.sum((x @ layer.apply(p, state)[0]["weight"].T) ** 2))(params)
    (theirs(torch.tensor(x)) ** 2).sum().backward()
    assert_close(grads["weight"].scale, theirs.parametrizations.weight.original0.grad[:, 0])
    assert_close(grads["weight"].direction, theirs.parametrizations.weight.original1.grad, 5e-6)


def test_flax_and_pytorch_agree_on_spectral_norm():
    nn = pytest.importorskip("flax.linen")
    kernel = np.random.default_rng(6).normal(size=(5, 4)).astype(np.float32)
    x = np.eye(5, dtype=np.float32)
    theirs = nn.SpectralNorm(nn.Dense(4, use_bias=False), n_steps=2)
    variables = theirs.init(jax.random.key(0), x, update_stats=True)
    u = np.ones((1, 4), np.float32) / 2
    stats = jax.tree.map(lambda leaf: jnp.asarray(u) if leaf.shape == u.shape else leaf, variables["batch_stats"])
    given = {"params": jax.tree.map(lambda _: jnp.asarray(kernel), variables["params"]), "batch_stats": stats}
    layer = spectral_norm("kernel", n_steps=2)
    expected, new = theirs.apply(given, x, update_stats=True, mutable=["batch_stats"])
    found, state = layer.apply({"kernel": jnp.asarray(kernel)}, {"kernel": jnp.asarray(u[0])}, True)
    assert_close(found["kernel"], expected)
    assert_close(state["kernel"], next(leaf for leaf in jax.tree.leaves(new) if leaf.shape == u.shape)[0])

    torch = pytest.importorskip("torch", reason="PyTorch is a peer; its CPU build is enough")
    linear = torch.nn.Linear(5, 4, bias=False)
    linear.weight.data = torch.tensor(kernel.T)
    linear = torch.nn.utils.parametrizations.spectral_norm(linear, n_power_iterations=200)
    converged = spectral_norm("kernel", n_steps=200)
    found, _ = converged.apply(*converged.init({"kernel": jnp.asarray(kernel)}), True)
    assert_close(found["kernel"], linear.weight.detach().numpy().T)


@pytest.mark.parametrize("normalization", [weight_norm, spectral_norm])
def test_mistakes_are_named(normalization):
    layer = normalization("*kernel")
    params, state = layer.init(weights())
    with pytest.raises(errors.SelectionError, match="a pattern that matches some leaf"):
        normalization("*weight").init(weights())
    with pytest.raises(errors.ShapeError, match="at 'dense/bias'"):
        normalization("*").init(weights())
    with pytest.raises(errors.DtypeError, match="floating weights"):
        layer.init({"kernel": jnp.ones((2, 2), jnp.int32)})
    with pytest.raises(errors.ArgumentTypeError, match="axis must be"):
        normalization("*kernel", axis=None)
    with pytest.raises(errors.StructureError):
        layer.apply(weights(), weights())
    if normalization is spectral_norm:
        with pytest.raises(errors.ShapeError, match="as at init"):
            layer.apply({**params, "dense": {"kernel": jnp.ones((5, 3)), "bias": jnp.ones(3)}}, state)
        with pytest.raises(errors.ArgumentTypeError, match="train must be"):
            layer.apply(params, state, None)

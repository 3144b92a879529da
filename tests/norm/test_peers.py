"""Claims about Flax's and PyTorch's layers: modules that hold ours, and parameters that go back and forth."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from flax.training.train_state import TrainState

from gradtx import errors, norm

EPS = 1e-5
SHAPE = (4, 6, 5, 8)
LAYERS = {
    "BatchNorm": (norm.batch_norm(decay=0.8), lambda **keywords: nn.BatchNorm(momentum=0.8, epsilon=EPS, **keywords)),
    "LayerNorm": (norm.layer_norm(eps=EPS), lambda **keywords: nn.LayerNorm(epsilon=EPS, **keywords)),
    "RMSNorm": (norm.rms_norm(eps=EPS), lambda **keywords: nn.RMSNorm(epsilon=EPS, **keywords)),
    "GroupNorm": (norm.group_norm(4, eps=EPS), lambda **keywords: nn.GroupNorm(4, epsilon=EPS, **keywords)),
    "InstanceNorm": (norm.instance_norm(eps=EPS), lambda **keywords: nn.InstanceNorm(epsilon=EPS, **keywords)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)


def data(seed=0):
    return np.random.default_rng(seed).normal(0.5, 2.0, SHAPE).astype(np.float32)


def varied(variables):
    """Other numbers than one and zero, the statistics positive."""
    random = np.random.default_rng(1)
    return jax.tree.map(lambda leaf: jnp.asarray(random.uniform(0.5, 2, leaf.shape), leaf.dtype), variables)


def linen(name, train, **keywords):
    more = {"use_running_average": not train} if name == "BatchNorm" else {}
    return LAYERS[name][1](**more, **keywords)


def assert_close(actual, expected):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=5e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Flax.


@every_layer
@pytest.mark.parametrize("train", [True, False])
def test_with_converted_variables_linen_agrees_and_they_come_back(name, train):
    x, layer = data(), LAYERS[name][0]
    theirs = linen(name, train)
    variables = varied(theirs.init(jax.random.key(0), x))
    expected, updated = theirs.apply(variables, x, mutable=["batch_stats"])
    params, state = norm.from_flax(variables, *layer.init(SHAPE))
    y, new = layer.apply(params, state, x, train)
    assert_close(y, expected)
    assert_close(norm.to_flax(params, new).get("batch_stats", {}), updated.get("batch_stats", {}))
    assert_close(norm.to_flax(params, state), variables)


@every_layer
def test_a_checkpoint_of_linen_fits_the_module_that_holds_ours(name):
    """In a network whose modules have no names: the paths are the same."""
    x, layer = data(), LAYERS[name][0]

    class Theirs(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(3)(linen(name, train)(x))

    class Ours(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(3)(norm.linen_module(layer)(x, train))

    variables = varied(Theirs().init(jax.random.key(0), x, True))
    own = Ours().init(jax.random.key(0), x, True)
    assert jax.tree.map(jnp.shape, own["params"]) == jax.tree.map(jnp.shape, variables["params"])
    assert_close(Ours().apply(variables, x, False), Theirs().apply(variables, x, False))
    expected, updated = Theirs().apply(variables, x, True, mutable=["batch_stats"])
    y, found = Ours().apply(variables, x, True, mutable=["batch_stats"])
    assert_close(y, expected)
    if name == "BatchNorm":
        stats = dict(found["batch_stats"]["BatchNorm_0"])
        assert stats.pop("step") == 1
        assert_close(stats, updated["batch_stats"]["BatchNorm_0"])


def test_a_linen_module_trains_and_evaluates_in_a_train_state():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = norm.linen_module(norm.batch_renorm(decay=None), name="first")(x, train)
            return nn.Dense(1)(x)

    model, x = Network(), data()[:, 0, 0]
    variables = model.init(jax.random.key(0), x, True)
    assert variables["batch_stats"]["first"]["step"] == 0  # init does not move the statistics
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optax.sgd(0.1))

    @jax.jit
    def step(state, stats):
        def loss(params):
            y, new = model.apply({"params": params, "batch_stats": stats}, x, True, mutable=["batch_stats"])
            return jnp.mean(y**2), new["batch_stats"]

        (value, stats_), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
        return state.apply_gradients(grads=grads), stats_, value

    stats, losses = variables["batch_stats"], []
    for _ in range(5):
        state, stats, value = step(state, stats)
        losses.append(float(value))
    assert losses == sorted(losses, reverse=True) and stats["first"]["step"] == 5
    np.testing.assert_allclose(stats["first"]["mean"], x.mean(0), rtol=1e-5, atol=1e-6)
    with pytest.raises(errors.ArgumentTypeError, match="train must be True or False"):
        model.apply({"params": state.params, "batch_stats": stats}, x, None)


def nnx_layer(name):
    keywords = dict(epsilon=EPS, rngs=nnx.Rngs(0))
    if name == "BatchNorm":
        return nnx.BatchNorm(8, momentum=0.8, **keywords)
    return nnx.GroupNorm(8, num_groups=4, **keywords) if name == "GroupNorm" else getattr(nnx, name)(8, **keywords)


@every_layer
def test_nnx_agrees_with_converted_variables_and_with_the_module_that_holds_ours(name):
    x, layer = data(), LAYERS[name][0]
    theirs, ours = nnx_layer(name), norm.nnx_module(layer, SHAPE)
    pure = varied(nnx.to_pure_dict(nnx.state(theirs)))
    nnx.update(theirs, pure)
    own = nnx.to_pure_dict(nnx.state(ours))
    assert set(own) - {"step"} == set(pure)
    nnx.update(ours, {**own, **pure})
    params, state = norm.from_flax(pure, *layer.init(SHAPE))
    for train in (True, False):
        for model in (theirs, ours):
            model.train() if train else model.eval()
        expected = theirs(x)
        y, state = layer.apply(params, state, x, train)
        assert_close((y, nnx.jit(lambda model, x: model(x))(ours, x)), (expected, expected))
        after = nnx.to_pure_dict(nnx.state(ours))
        assert_close({key: after[key] for key in pure}, nnx.to_pure_dict(nnx.state(theirs)))
    grads = nnx.grad(lambda model: jnp.mean(model(x) ** 2))(ours)
    assert set(nnx.to_pure_dict(grads)) == set(params)


def test_a_layer_without_scale_or_bias_is_one_with_one_and_zero():
    x, layer = data(), LAYERS["LayerNorm"][0]
    theirs = nn.LayerNorm(epsilon=EPS, use_scale=False)
    variables = varied(theirs.init(jax.random.key(0), x))
    params, state = norm.from_flax(variables, *layer.init(SHAPE))
    assert_close(layer.apply(params, state, x)[0], theirs.apply(variables, x))


def test_flax_that_is_not_installed_is_named(monkeypatch):
    from gradtx.norm import flax_modules

    monkeypatch.setitem(__import__("sys").modules, "flax", None)
    for cached in (flax_modules._linen_class, flax_modules._nnx_class):
        with pytest.raises(errors.MissingExtra, match=r"write pip install gradtx\[examples\]"):
            cached.__wrapped__("BatchNorm")


# ---------------------------------------------------------------------------------------------------------------------
# PyTorch.

TORCH = {
    "BatchNorm2d": (norm.batch_norm(axis=1, decay=0.7, unbiased=True), lambda nn: nn.BatchNorm2d(6, momentum=0.3)),
    "BatchNorm2d, cumulative": (
        norm.batch_norm(axis=1, decay=None, unbiased=True), lambda nn: nn.BatchNorm2d(6, momentum=None),
    ),
    "BatchNorm2d, not affine": (norm.batch_norm(axis=1, unbiased=True), lambda nn: nn.BatchNorm2d(6, affine=False)),
    "LayerNorm": (norm.layer_norm(axis=(-2, -1), eps=EPS), lambda nn: nn.LayerNorm((5, 8))),
    "RMSNorm": (norm.rms_norm(eps=EPS), lambda nn: nn.RMSNorm(8, eps=EPS)),
    "GroupNorm": (norm.group_norm(3, axis=1, eps=EPS), lambda nn: nn.GroupNorm(3, 6)),
    "InstanceNorm2d": (norm.instance_norm(axis=1, eps=EPS), lambda nn: nn.InstanceNorm2d(6, affine=True)),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_with_a_converted_state_dict_pytorch_agrees_and_it_comes_back(name):
    torch = pytest.importorskip("torch", reason="PyTorch is a peer; its CPU build is enough")
    layer, make = TORCH[name][0], TORCH[name][1]
    theirs = make(torch.nn)
    with torch.no_grad():
        for leaf in theirs.state_dict().values():
            if leaf.is_floating_point():
                leaf.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(0))
    params, state = norm.from_torch(theirs.state_dict(), *layer.init(SHAPE))
    g = np.random.default_rng(9).normal(size=SHAPE).astype(np.float32)
    for seed in range(3):  # statistics and step go on as PyTorch's do
        x = data(seed)
        y, pull, state = jax.vjp(lambda p, x, state=state: layer.apply(p, state, x, True), params, x, has_aux=True)
        at = torch.tensor(x, requires_grad=True)
        theirs.zero_grad()
        out = theirs(at)
        out.backward(torch.tensor(g))
        dparams, dx = pull(g)
        assert_close((y, dx), (out.detach().numpy(), at.grad.numpy()))
        if getattr(theirs, "weight", None) is not None:
            assert_close(dparams["scale"], theirs.weight.grad.numpy())
    assert_close(layer.apply(params, state, x, False)[0], theirs.eval()(torch.tensor(x)).detach().numpy())

    back = {name: torch.as_tensor(leaf) for name, leaf in norm.to_torch(params, state).items()}
    expected = theirs.state_dict()
    for key, leaf in expected.items():
        assert back[key].dtype == leaf.dtype
        np.testing.assert_allclose(back[key], leaf, rtol=2e-5, atol=1e-6)
    theirs.load_state_dict({key: back[key] for key in expected})


def test_a_state_dict_in_bfloat16_is_read():
    torch = pytest.importorskip("torch", reason="PyTorch is a peer; its CPU build is enough")
    theirs = torch.nn.LayerNorm(3).to(torch.bfloat16)
    params, _ = norm.from_torch(theirs.state_dict(), *norm.layer_norm().init((2, 3)))
    assert params["scale"].dtype == jnp.float32 and params["scale"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("convert", [norm.from_flax, norm.from_torch])
def test_variables_of_something_else_are_an_error(convert):
    params, state = norm.layer_norm().init((2, 3))
    scale = "scale" if convert is norm.from_flax else "weight"
    with pytest.raises(errors.StructureError, match="variables of one layer"):
        convert({"Dense_0": np.ones(3)}, params, state)
    with pytest.raises(errors.StructureError, match="got none"):
        convert({}, params, state)
    with pytest.raises(errors.ShapeError, match=f"expected|at '{scale}'"):
        convert({scale: np.ones(4)}, params, state)

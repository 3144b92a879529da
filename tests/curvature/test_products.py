"""Claims about products with Hessian, Gauss-Newton and Fisher matrices."""

import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from gradtx import curvature

KEY = jax.random.key(0)


def network(params, batch):
    return jnp.tanh(batch["x"] @ params["first"] + params["bias"]) @ params["second"]


def of_outputs(outputs, batch):
    return 0.5 * jnp.mean(jnp.sum((outputs - batch["y"]) ** 2, -1))


def loss(params, batch):
    return of_outputs(network(params, batch), batch)


def losses(params, batch):
    return 0.5 * jnp.sum((network(params, batch) - batch["y"]) ** 2, -1)


def example(count=10):
    keys = jax.random.split(KEY, 6)
    params = {"first": jax.random.normal(keys[0], (3, 4)), "bias": jax.random.normal(keys[1], (4,)),
              "second": jax.random.normal(keys[2], (4, 2))}  # fmt: skip
    batch = {"x": jax.random.normal(keys[3], (count, 3)), "y": jax.random.normal(keys[4], (count, 2))}
    direction = jax.tree.map(lambda leaf: jax.random.normal(keys[5], leaf.shape), params)
    return params, batch, direction


def split(batch, *cuts):
    bounds = [slice(*pair) for pair in zip((0, *cuts), (*cuts, None), strict=True)]
    return [jax.tree.map(operator.itemgetter(bound), batch) for bound in bounds]


def agree(tree, vector, tolerance=2e-6):
    flat = ravel_pytree(tree)[0]
    np.testing.assert_allclose(flat, vector, atol=tolerance * float(jnp.max(jnp.abs(vector))))


def test_hvp_is_the_hessian_times_the_direction():
    params, batch, direction = example()
    flat, back = ravel_pytree(params)
    exact = jax.hessian(lambda w: loss(back(w), batch))(flat) @ ravel_pytree(direction)[0]
    agree(curvature.hvp(loss, params, batch, direction), exact)
    agree(jax.jit(lambda p, b, d: curvature.hvp(loss, p, b, d))(params, batch, direction), exact)
    agree(curvature.hvp(lambda p, b: (loss(p, b), {"aux": b["x"]}), params, batch, direction), exact)


def test_ggn_and_fisher_are_what_their_formulas_say():
    params, batch, direction = example()
    flat, back = ravel_pytree(params)
    d = ravel_pytree(direction)[0]
    jacobian = jax.jacobian(lambda w: network(back(w), batch).ravel())(flat)
    agree(curvature.ggn_product(network, of_outputs, params, batch, direction), jacobian.T @ (jacobian @ d) / 10)
    gradients = jax.jacobian(lambda w: losses(back(w), batch))(flat)
    agree(curvature.fisher_product(losses, params, batch, direction), gradients.T @ (gradients @ d) / 10)


@pytest.mark.parametrize("cuts", [(4, 8), (5,), (1, 2, 9)])
def test_a_ragged_data_set_gives_the_products_of_one_batch(cuts):
    params, batch, direction = example()
    data = curvature.dataset(split(batch, *cuts))
    for product in (
        lambda b: curvature.hvp(loss, params, b, direction),
        lambda b: curvature.ggn_product(network, of_outputs, params, b, direction),
        lambda b: curvature.fisher_product(losses, params, b, direction),
    ):
        agree(product(data), ravel_pytree(product(batch))[0])


def test_the_quadratic_model_stands_beside_the_loss():
    params, batch, direction = example()
    for size in (1e-1, 1e-2):
        step = jax.tree.map(lambda leaf, size=size: size * leaf, direction)
        model = curvature.quadratic_model(loss, params, batch, step)
        assert model.value == pytest.approx(float(loss(params, batch)), rel=1e-6)
        moved = jax.tree.map(jnp.add, params, step)
        assert model.actual == pytest.approx(float(loss(moved, batch)), rel=1e-6)
        assert model.predicted == pytest.approx(model.value + model.slope + model.curvature / 2)
        assert abs(model.predicted - model.actual) < 40 * size**3 + 1e-5


def convolutional(params, batch):
    x = batch
    for kernel in params["kernels"]:
        x = jax.nn.relu(
            jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
    return jnp.mean((jnp.mean(x, (1, 2)) @ params["output"]) ** 2)


def attending(params, batch):
    x = batch
    for block in params:
        q, k, v = (x @ block[name] for name in "qkv")
        weights = jax.nn.softmax(jnp.einsum("bid,bjd->bij", q, k) / 8.0, -1)
        x = x + jnp.einsum("bij,bjd->bid", weights, v)
        x = x + jax.nn.gelu(x @ block["up"]) @ block["down"]
    return jnp.mean(x**2)


def of_width(width):
    square = {name: jnp.eye(width) for name in "qkv"}
    return square | {"up": jnp.eye(width, 4 * width), "down": jnp.eye(4 * width, width)}


WIDE = 128
COSTS = {
    "perceptron": (
        loss,
        {"first": jnp.ones((WIDE, WIDE)), "bias": jnp.ones(WIDE), "second": jnp.ones((WIDE, WIDE))},
        {"x": jnp.ones((64, WIDE)), "y": jnp.ones((64, WIDE))},
    ),
    "convolutions": (
        convolutional,
        {"kernels": [jnp.ones((3, 3, 8, 16)), jnp.ones((3, 3, 16, 16))], "output": jnp.ones((16, 10))},
        jnp.ones((8, 12, 12, 8)),
    ),
    "transformer": (attending, [of_width(64), of_width(64)], jnp.ones((4, 32, 64))),
}


@pytest.mark.parametrize("name", COSTS)
def test_a_product_costs_at_most_so_many_gradients(name):
    """By the operations that the compiler counts: two in a run, at most 8/3 for one alone.

    A gradient multiplies three times for each matrix inside a network (forward, to the input, to the weight), a product
    eight times: the first two again, and each of the three has a derivative of two terms. The first matrix has fewer.
    An operator does the first two once.
    """
    function, params, batch = COSTS[name]

    def flops(program, *arguments):
        return jax.jit(program).lower(*arguments).compile().cost_analysis()["flops"]

    gradient = flops(jax.grad(function), params, batch)
    product = flops(lambda p, b, d: curvature.hvp(function, p, b, d), params, batch, params)
    assert 1 < product / gradient <= (8 / 3 if name == "transformer" else 2.6)
    matrix, vector = curvature.hessian(function, params, batch), tuple(jax.tree.leaves(params))
    matrix.apply(vector)
    assert 1 < flops(matrix.apply, vector) / gradient <= 2.05


def once_reversible(forward_is_custom):
    """A square with a reverse mode of its own; a forward mode has either none or only the inner function."""

    @jax.custom_vjp
    def square(x):
        return x * x

    square.defvjp(lambda x: (square(x) if forward_is_custom else x * x, x), lambda x, g: (2 * x * g,))
    return square


@pytest.mark.parametrize("forward_is_custom", [True, False])
def test_functions_with_a_reverse_mode_only_have_products(forward_is_custom):
    square = once_reversible(forward_is_custom)
    w, v = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.5])
    result = curvature.hvp(lambda w, batch: jnp.sum(square(w) * w), w, None, v)
    np.testing.assert_allclose(result, 6 * w * v, rtol=1e-6)
    pushed = curvature.ggn_product(lambda w, b: square(w), lambda out, b: jnp.sum(out**2), w, None, v)
    np.testing.assert_allclose(pushed, 8 * w**2 * v, rtol=1e-6)
    (held,) = curvature.hessian(lambda w, batch: jnp.sum(square(w) * w), w, None).apply((v,))
    np.testing.assert_allclose(held, 6 * w * v, rtol=1e-6)


def test_what_an_operator_holds_gives_the_products_of_each_kind():
    params, batch, direction = example()
    vector = tuple(jax.tree.leaves(direction))

    def losses(p, b):
        return 0.5 * jnp.sum((network(p, b) - b["y"]) ** 2, -1)

    for held, single in [
        (curvature.hessian(loss, params, batch), curvature.hvp(loss, params, batch, direction)),
        (
            curvature.gauss_newton(network, of_outputs, params, batch),
            curvature.ggn_product(network, of_outputs, params, batch, direction),
        ),
        (curvature.fisher(losses, params, batch), curvature.fisher_product(losses, params, batch, direction)),
    ]:
        for scale in (1.0, -2.0):
            products = held.apply(tuple(scale * leaf for leaf in vector))
            for ours, expected in zip(products, jax.tree.leaves(single), strict=True):
                np.testing.assert_allclose(ours, scale * expected, rtol=2e-5, atol=1e-6)


def test_a_loop_without_reverse_mode_is_named():
    def looped(w, batch):
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 100, lambda c: c * 2.0, w).sum()

    with pytest.raises(TypeError, match=r"hvp\(looped.*the primitive 'while'"):
        curvature.hvp(looped, jnp.ones(2), None, jnp.ones(2))


def test_a_callback_is_named():
    def called(w, batch):
        return jax.pure_callback(lambda x: np.float32(np.sum(x)), jax.ShapeDtypeStruct((), jnp.float32), w)

    with pytest.raises(TypeError, match="the primitive 'pure_callback'"):
        curvature.hvp(called, jnp.ones(2), None, jnp.ones(2))


def test_one_function_is_compiled_for_new_parameters_and_batches():
    traced = []

    def counted(params, batch):
        traced.append(1)
        return loss(params, batch)

    params, batch, direction = example()
    curvature.hvp(counted, params, batch, direction)
    before = len(traced)
    other = jax.tree.map(lambda leaf: leaf + 1, (params, batch, direction))
    curvature.hvp(counted, *other)
    curvature.hvp(counted, other[0], curvature.dataset([batch]), direction)
    assert len(traced) == before


def test_a_frozen_training_loss_is_compiled_once_for_all_its_moments():
    traced = []

    class State:
        def __init__(self, model_state):
            self.model_state = model_state

    def training_loss(params, model_state, batch, key):
        traced.append(1)
        noise = jax.random.normal(key, params.shape)
        return jnp.sum((params - model_state["mean"]) ** 2 * batch) + 0 * jnp.sum(noise), (model_state, {})

    for moment in range(3):
        frozen = curvature.frozen_loss(training_loss, State({"mean": jnp.ones(2) * moment}), jax.random.key(moment))
        assert float(frozen(jnp.ones(2), 1.0)) == 2 * (1 - moment) ** 2
        product = curvature.hvp(frozen, jnp.zeros(2), 3.0, jnp.ones(2))
        assert product.tolist() == [6.0, 6.0]
        if moment == 0:
            before = len(traced)
    assert len(traced) == before + 2  # called once itself at each later moment


def test_float32_stays_float32_and_bfloat16_gets_float32_vectors():
    params, batch, direction = example()
    exact = curvature.hvp(loss, params, batch, direction)
    assert {leaf.dtype for leaf in jax.tree.leaves(exact)} == {jnp.dtype("float32")}
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    product = curvature.hvp(loss, low, batch, direction)
    assert {leaf.dtype for leaf in jax.tree.leaves(product)} == {jnp.dtype("float32")}
    agree(product, ravel_pytree(exact)[0], 0.1)


BAD = {
    "not scalar": (lambda w, b: w**2, jnp.ones(2), None, jnp.ones(2), "one real number.*jnp.mean"),
    "no number": (lambda w, b: "loss", jnp.ones(2), None, jnp.ones(2), "one real number"),
    "integer loss": (lambda w, b: jnp.int32(1), jnp.ones(2), None, jnp.ones(2), "one real number"),
    "training loss": (lambda w, s, b, k: w, jnp.ones(2), None, jnp.ones(2), "frozen_loss"),
    "no function": (3.0, jnp.ones(2), None, jnp.ones(2), "must be a function"),
    "integer leaf": (lambda w, b: w["a"].sum() * 1.0, {"a": jnp.arange(2)}, None, {"a": jnp.ones(2)}, "int32.*at 'a'"),
    "complex leaf": (lambda w, b: jnp.abs(w).sum(), jnp.ones(2) * 1j, None, jnp.ones(2), "complex64"),
    "empty tree": (lambda w, b: 0.0, {}, None, {}, "at least one leaf"),
    "no entries": (lambda w, b: jnp.sum(w), jnp.zeros((0, 3)), None, jnp.zeros((0, 3)), "at least one number"),
    "other structure": (lambda w, b: jnp.sum(w["a"]), {"a": jnp.ones(2)}, None, {"b": jnp.ones(2)}, "direction"),
    "other shape": (lambda w, b: jnp.sum(w), jnp.ones(2), None, jnp.ones(3), "direction"),
    "text in the batch": (lambda w, b: jnp.sum(w), jnp.ones(2), {"name": "x"}, jnp.ones(2), "tree of arrays"),
    "a generator": (lambda w, b: jnp.sum(w), jnp.ones(2), iter([1.0]), jnp.ones(2), r"curvature\.dataset\(batches\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_what_to_write(name):
    function, params, batch, direction, said = BAD[name]
    with pytest.raises((TypeError, ValueError), match=said) as caught:
        curvature.hvp(function, params, batch, direction)
    assert caught.value.code


def test_a_mistake_of_the_loss_itself_comes_out_as_it_is():
    with pytest.raises(TypeError, match=r"dot_general requires contracting dimensions|incompatible"):
        curvature.hvp(lambda w, x: jnp.sum(x @ w), jnp.ones(2), jnp.ones((3, 3)), jnp.ones(2))


def test_a_used_up_generator_is_told_apart():
    generator = (jnp.ones((2, 2)) for _ in range(3))
    assert curvature.dataset(generator).examples == (2, 2, 2)
    with pytest.raises(ValueError, match="only once"):
        curvature.dataset(generator)
    with pytest.raises(ValueError, match="no common leading axis"):
        curvature.dataset([{"x": jnp.ones((2, 2)), "y": jnp.ones(3)}])
    with pytest.raises(TypeError, match="iterable"):
        curvature.dataset(3)
    assert curvature.dataset([{"x": jnp.ones((2, 2)), "y": jnp.ones(3)}], examples=lambda b: 2).examples == (2,)

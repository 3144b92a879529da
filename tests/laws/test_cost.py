"""What a step costs, in numbers that the compiler counts and that no load on the machine changes.

The benchmark ``benchmarks.step_cost`` shows the same counts beside other implementations, with times.
"""

import jax
import jax.numpy as jnp
import pytest

import gradtx
from benchmarks.step_cost import CASES, compiled_train_steps
from benchmarks.steps import bytes_moved, equal_leaves, fusions, lowered, parameter_copies, traces

LARGE = equal_leaves(4, 100_000)

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are those of the compiler for CPUs")


@pytest.mark.parametrize(
    ("what", "bound"), [("sgd", 3.1), ("momentum", 6.1), ("adamw", 10.2), ("clip, adamw", 11.2)]
)  # fmt: skip
def test_a_step_moves_no_more_bytes_than_its_loops_need(what, bound):
    """In bytes of the parameters; adamw: each moment reads gradient and moment and writes it (3 + 3), the step reads
    both and the parameter and writes it (4); clipping reads the gradients once more.
    """
    compiled = lowered(CASES[what]["gradtx"], LARGE).compile()
    assert bytes_moved(compiled, LARGE) <= bound


def test_clipping_many_small_leaves_reads_the_gradients_once_more():
    small = equal_leaves(40, 1_000)
    assert bytes_moved(lowered(CASES["clip, adamw"]["gradtx"], small).compile(), small) <= 11.2


@pytest.mark.parametrize("what", CASES)
def test_a_step_never_copies_a_donated_buffer(what):
    compiled = lowered(CASES[what]["gradtx"], LARGE).compile()
    assert parameter_copies(compiled, LARGE) == 0
    assert compiled.memory_analysis().temp_size_in_bytes < LARGE["leaf_0000"].nbytes / 10


@pytest.mark.parametrize("what", CASES)
def test_a_step_is_traced_once(what):
    """The state's type is a fixpoint, so the second and third call find the first one's program."""
    assert traces(CASES[what]["gradtx"], equal_leaves(2, 100), calls=3) == 1


@pytest.mark.parametrize("tx", [gradtx.sgd(1e-3), gradtx.adamw(1e-3)], ids=["sgd", "adamw"])
def test_the_train_step_is_the_one_by_hand_and_copies_no_donated_buffer(tx):
    ours, by_hand = compiled_train_steps(tx, LARGE).values()
    assert parameter_copies(ours, LARGE) == 0
    assert bytes_moved(ours, LARGE) == pytest.approx(bytes_moved(by_hand, LARGE), rel=1e-4)  # a few scalars
    assert fusions(ours) <= fusions(by_hand)


def test_equal_leaves_are_traced_once_and_other_shapes_once_each():
    count = 0

    @gradtx.transformation(locality="elementwise")
    def counted() -> gradtx.GradientTransformation:
        def twice(update):
            nonlocal count
            count += 1
            return 2.0 * update

        return gradtx.stateless(twice)

    tx = gradtx.chain(counted(), gradtx.scale(0.5))
    params = equal_leaves(40, 100)
    jax.jit(tx.update).lower(params, tx.init(params))
    assert count == 1
    params |= {"matrix": jnp.ones((10, 10)), "bias": jnp.ones(10)}
    jax.jit(tx.update).lower(params, tx.init(params))
    assert count == 3

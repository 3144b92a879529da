"""What leaving steps out costs, in numbers that the compiler counts: bytes moved for each byte of parameters.

Beside Optax, in the same run: ``MultiSteps(adamw)`` moves 23, ``apply_if_finite(adamw)`` 14.5; adamw alone 10.
"""

import jax
import jax.numpy as jnp
import optax
import pytest

import gradtx
from benchmarks.steps import bytes_moved, equal_leaves, lowered, parameter_copies, traces, transforming
from gradtx import training

LARGE = equal_leaves(4, 100_000)
ADAMW = gradtx.adamw(1e-3, weight_decay=0.01)
THEIRS = optax.adamw(1e-3, weight_decay=0.01)

pytestmark = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the bounds are those of the compiler for CPUs")

CASES = {
    "accumulate, sgd": (gradtx.accumulate(gradtx.sgd(1e-3), 4), 7.01),
    "accumulate, adamw": (gradtx.accumulate(ADAMW, 4), 14.01),
    "skip_nonfinite, momentum": (gradtx.skip_nonfinite(gradtx.sgd(1e-3, momentum=0.9)), 9.01),
    "skip_nonfinite, adamw": (gradtx.skip_nonfinite(ADAMW), 14.01),
    "skip_large, adamw": (gradtx.skip_large(ADAMW, deviations=3.0), 11.01),
    "dynamic_loss_scale, adamw": (gradtx.dynamic_loss_scale(ADAMW), 14.01),
    "conditionally_mask, adamw": (gradtx.conditionally_mask(ADAMW, lambda step: step % 2 == 0), 10.01),
}
every_case = pytest.mark.parametrize(("tx", "bound"), CASES.values(), ids=CASES)


def compiled(tx, apply_updates=gradtx.apply_updates):
    return lowered(transforming(tx, apply_updates), LARGE).compile()


@every_case
def test_a_step_moves_no_more_than_its_loops_need_and_copies_nothing(tx, bound):
    """Elementwise work is done either way: accumulation reads and adds the gradient (1 + 3); a guard computes what will
    come out (adamw reads 4, momentum 3) before it does it; a bound on the norm reads the gradient (1).
    """
    program = compiled(tx)
    assert bytes_moved(program, LARGE) <= bound
    assert parameter_copies(program, LARGE) == 0
    assert program.memory_analysis().temp_size_in_bytes < LARGE["leaf_0000"].nbytes / 10


@pytest.mark.parametrize("what", ["accumulate, adamw", "skip_nonfinite, adamw"])
def test_the_judgement_is_not_repeated_in_the_loops_of_many_leaves(what):
    """It would be 0.004 bytes for each leaf, and minutes of compilation with 400."""
    small = equal_leaves(60, 1_000)
    program = lowered(transforming(CASES[what][0], gradtx.apply_updates), small).compile()
    assert bytes_moved(program, small) <= 14.1


@pytest.mark.parametrize(
    ("what", "theirs"),
    [("accumulate, adamw", optax.MultiSteps(THEIRS, 4)), ("skip_nonfinite, adamw", optax.apply_if_finite(THEIRS, 5))],
)
def test_it_moves_less_than_optax_does(what, theirs):
    assert bytes_moved(compiled(CASES[what][0]), LARGE) < bytes_moved(compiled(theirs, optax.apply_updates), LARGE)


@every_case
def test_a_step_is_traced_once(tx, bound):
    assert traces(transforming(tx, gradtx.apply_updates), equal_leaves(2, 100), calls=3) == 1


def test_a_compiled_step_in_parts_adds_one_part_for_four_bytes():
    """One to see whether the gradients are finite, three to add them. With a convolution, so that the parts are written
    out and each one is counted; the gradients of the large leaves come from a product.
    """

    def loss(params, batch):
        image = jax.lax.conv_general_dilated(batch[:, None, None], jnp.ones((1, 1, 1, 1)), (1, 1), "SAME")
        return sum(jnp.mean(jnp.tanh(image[:, 0, 0] @ leaf.reshape(10, -1)) ** 2) for leaf in jax.tree.leaves(params))

    def program(parts):
        state = training.create_train_state(LARGE, gradtx.sgd(1e-3), key=jax.random.key(0))
        step = training.make_train_step(training.from_plain(loss), gradtx.sgd(1e-3), accumulate=parts)
        return step.lower(state, jnp.ones((2 * parts, 10))).compile()

    gradient = bytes_moved(jax.jit(jax.value_and_grad(loss)).lower(LARGE, jnp.ones((2, 10))).compile(), LARGE)
    few, many = program(2), program(6)
    assert (bytes_moved(many, LARGE) - bytes_moved(few, LARGE)) / 4 - gradient <= 4.05
    temporary = [each.memory_analysis().temp_size_in_bytes for each in (few, many)]
    assert temporary[1] < 1.01 * temporary[0]


def test_accumulation_in_a_loop_needs_no_more_memory_for_more_parts():
    def loss(params, batch):
        return sum(jnp.mean(jnp.tanh(batch @ leaf.reshape(10, -1)) ** 2) for leaf in jax.tree.leaves(params))

    def temporary(parts):
        state = training.create_train_state(LARGE, ADAMW, key=jax.random.key(0))
        step = training.make_train_step(training.from_plain(loss), ADAMW, accumulate=parts)
        return step.lower(state, jnp.ones((64, 10))).compile().memory_analysis().temp_size_in_bytes

    assert temporary(16) <= temporary(4) < temporary(1) * 2

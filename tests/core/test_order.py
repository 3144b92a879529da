"""Which parts may stand inside which: what would be silently wrong is refused where it is made."""

import jax.numpy as jnp
import pytest

import gradtx
from gradtx import errors

SGD = gradtx.sgd(0.1)
SCALED = gradtx.dynamic_loss_scale(SGD)
GUARDS = {
    "skip_nonfinite": gradtx.skip_nonfinite,
    "skip_large": lambda tx: gradtx.skip_large(tx, max_norm=1.0),
    "accumulate": lambda tx: gradtx.accumulate(tx, every=2),
}
AVERAGES = {
    "exponential_average": gradtx.exponential_average,
    "uniform_average": gradtx.uniform_average,
    "lookahead": lambda tx: gradtx.lookahead(tx, sync_period=2, slow_step_size=0.5),
    "schedule_free": lambda tx: gradtx.schedule_free(tx, learning_rate=0.1),
    "primal_average": gradtx.primal_average,
}
AROUND_THE_SCALE = {
    "a chain": lambda tx: gradtx.chain(gradtx.clip_by_global_norm(1.0), tx),
    "a partition": lambda tx: gradtx.partition({"a": tx, "b": SGD}, lambda path, leaf: "a"),
    "sam": gradtx.sam,
    "watch": gradtx.watch,
    "another scale": gradtx.dynamic_loss_scale,
    "a guard": gradtx.skip_nonfinite,
    "an average": gradtx.exponential_average,
}


@pytest.mark.parametrize("around", AROUND_THE_SCALE.values(), ids=AROUND_THE_SCALE)
def test_nothing_that_sees_gradients_stands_around_the_loss_scale(around):
    with pytest.raises(errors.ArgumentTypeError, match="multiplied loss"):
        around(SCALED)


def test_what_only_adds_gradients_up_stands_around_the_loss_scale():
    gradtx.accumulate(SCALED, every=2)
    gradtx.chain(SCALED)


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_a_guard_goes_around_an_average_and_not_inside(average, guard):
    guard(average(SGD))
    for inner in (guard(SGD), gradtx.chain(gradtx.clip(1.0), guard(SGD))):
        with pytest.raises(errors.ArgumentTypeError, match="where there was no step"):
            average(inner)


@pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
def test_an_average_is_the_last_part_of_a_chain(average):
    gradtx.chain(gradtx.clip(1.0), average(SGD))
    for part in (average(SGD), gradtx.partition({"a": average(SGD), "b": SGD}, lambda path, leaf: "a")):
        with pytest.raises(errors.ArgumentTypeError, match="which later parts would change"):
            gradtx.chain(part, gradtx.clip(1.0))


def test_a_read_out_for_parameters_of_another_shape_is_refused():
    state = gradtx.exponential_average(SGD).init({"w": jnp.ones(2)})
    with pytest.raises(errors.ShapeError, match=r"'w'"):
        gradtx.averaged_params(state, {"w": jnp.ones((3, 1))})


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: gradtx.storage.stored(tx, gradtx.storage.cast("bfloat16")),
        gradtx.exponential_average,
        gradtx.uniform_average,
        lambda tx: gradtx.schedule_free(tx, 1e-3),
        gradtx.flatten,
        gradtx.cautious,
        gradtx.mechanize,
        lambda tx: gradtx.total(tx, gradtx.sgd(0.1)),
        gradtx.storage.master_weights,
    ],
)
def test_master_weights_stand_around_what_would_hide_the_low_precision_from_them(around):
    """Inside they would see parameters in float32, and keep nothing."""
    inner = gradtx.storage.master_weights(gradtx.sgd(1e-3))
    with pytest.raises(errors.ArgumentTypeError, match="master_weights around"):
        around(inner)

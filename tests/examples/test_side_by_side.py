"""Claims about what the examples of Flax share: runs in turns, tables, pictures."""

import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradtx


def loss(params, model_state, batch, key):
    return jnp.mean((batch @ params["line"]) ** 2), (model_state, {"largest": jnp.max(params["line"])})


def trial(example, sides, **given):
    evaluate = example.linen_evaluation(loss, np.ones((3, 2), np.float32))
    batches = (np.eye(2, dtype=np.float32) for _ in iter(int, 1))
    return example.Trial("Line", "linen", "SGD", "rows", "row", sides, batches, 2, 2, evaluate)._replace(**given)


def test_sides_see_the_same_batches_and_change_places(example):
    seen = []

    def side(name):
        def step(state, batch):
            seen.append((name, float(batch[0])))
            return state + 1, {"loss": jnp.float32(state)}

        return example.Side(0, step)

    sides = {name: side(name) for name in (example.OURS, example.THEIRS)}
    batches = iter([np.float32([1]), np.float32([2]), np.float32([3])])
    asked = []
    found = example.run(
        trial(example, sides, batches=batches, evaluate=lambda state: asked.append(state) or {"loss": 7}), 2
    )
    assert seen == [("gradtx", 1), ("Optax", 1), ("Optax", 2), ("gradtx", 2)]
    assert asked == [2, 2] and found.held_out["Optax"] == {"loss": 7.0}
    np.testing.assert_array_equal(found.curves["gradtx"]["loss"], [0, 1])


def test_both_steps_take_the_same_path_and_a_watch_changes_nothing(example):
    params = {"line": jnp.array([1.0, -2.0])}
    sides = example.linen_sides(loss, params, {}, gradtx.sgd(0.1), optax.sgd(0.1), watched=True)
    changed = np.asarray(sides[example.NUDGED].state.params["line"])
    np.testing.assert_array_equal(changed, np.nextafter(np.float32([1, -2]), np.float32(9)))
    found = example.run(trial(example, sides), 5)
    expected = [0.9 ** (2 * step) * 2.5 for step in range(5)]  # the gradient is the parameters themselves
    for name in (example.OURS, example.THEIRS, example.WATCHED):
        np.testing.assert_allclose(found.curves[name]["loss"], expected, rtol=1e-6)
        assert found.rates[name] > 0
    np.testing.assert_array_equal(found.curves[example.OURS]["loss"], found.curves[example.WATCHED]["loss"])
    np.testing.assert_allclose(found.curves[example.WATCHED]["update_ratio"], 0.1, rtol=1e-4)
    assert example.differences(found, example.NUDGED).max() < 1e-5
    assert params["line"].tolist() == [1.0, -2.0]  # no step took the caller's own


def test_the_row_has_the_largest_difference_early_and_in_all(example):
    ours, theirs = np.zeros(30), np.zeros(30)
    theirs[3], theirs[25] = 0.5, -2.0
    curves = {example.OURS: {"loss": ours}, example.THEIRS: {"loss": theirs}, example.NUDGED: {"loss": theirs + 0.125}}
    held_out = {name: {"loss": 1.0, "accuracy": 0.25} for name in curves}
    found = example.Found(curves, held_out, dict.fromkeys(curves, 10.0))
    row = example.row(trial(example, dict.fromkeys(curves)), found)
    assert (row["early_difference"], row["largest_difference"], row["steps"]) == (0.5, 2.0, 30)
    assert (row["early_yardstick"], row["largest_yardstick"]) == (0.125, 0.125) and len(row["sides"]) == 2
    assert row["sides"]["Optax"] == {"loss": 1.0, "accuracy": 0.25, "examples_per_second": 10.0}
    assert "0.2500" in example.report([row]) and json.loads(json.dumps(row)) == row


def test_the_two_steps_of_nnx_differ_in_the_transformation_only(example):
    model = example.nnx.Linear(2, 1, use_bias=False, rngs=example.nnx.Rngs(0))
    before = model.kernel[...]

    def nnx_loss(model, batch):
        return jnp.mean(model(batch) ** 2), {}

    sides = example.nnx_sides(nnx_loss, model, gradtx.sgd(0.1), optax.sgd(0.1), watched=True)
    changed = sides[example.NUDGED].state[0].kernel[...]
    np.testing.assert_array_equal(changed, np.nextafter(np.asarray(before), np.float32(9)))
    evaluate = example.nnx_evaluation(nnx_loss, np.ones((3, 2), np.float32))
    found = example.run(trial(example, sides, evaluate=evaluate), 3)
    assert example.differences(found).max() < 1e-6
    assert found.curves[example.WATCHED]["update_ratio/kernel"].shape == (3,)
    assert (model.kernel[...] == before).all()


def test_means_over_held_out_data_count_examples(example):
    data = np.arange(example.EVALUATED + 1, dtype=np.float32)
    assert example.mean(lambda batch: {"loss": jnp.mean(batch)}, data) == {"loss": pytest.approx(np.mean(data))}


@pytest.mark.parametrize("option", ["--steps", "--batch-size"])
def test_nonsense_is_refused(example, capsys, option):
    with pytest.raises(SystemExit) as caught:
        example.parse("name", "What.", [option, "0"], 5, 2, 8, None)
    assert caught.value.code == 2 and f"{option} must be at least 1" in capsys.readouterr().err


def test_an_unusable_folder_is_one_line(example, tmp_path, capsys):
    def make_trials(options):
        return example.digits(options.data)

    given = ["--data", str(tmp_path / "none")]
    assert example.show("name", "What.", make_trials, given, steps=1, short_steps=1, batch_size=1, data="folder") == 2
    assert capsys.readouterr().err == f"name.py: {tmp_path / 'none'}: no such folder\n"

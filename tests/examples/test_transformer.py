"""Claims about the example of a small transformer."""

import json

import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.slow
def test_a_few_steps_on_any_text_learn_the_same_with_both_libraries(example, tmp_path):
    text, rows = tmp_path / "text.txt", tmp_path / "rows.json"
    text.write_text("Ein kleiner Löwe, ein großer Bär. " * 100, "utf-8")
    given = ["--steps", "10", "--batch-size", "4", "--data", str(text), "--out", str(tmp_path), "--json", str(rows)]
    assert example.main(given) == 0
    for name in ("transformer", "transformer_watched"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (row,) = json.loads(rows.read_text())
    assert row["data"] == "text.txt" and row["largest_difference"] < 1e-2
    assert row["sides"]["gradtx"]["loss"] < 0.9 * row["first_loss"]


@pytest.mark.slow
def test_no_letter_sees_those_after_it(example):
    model = example.Transformer(5, example.nnx.Rngs(0))
    letters = np.zeros((1, example.CONTEXT), int)
    changed = letters.copy()
    changed[0, 40] = 3
    before, after = np.asarray(model(jnp.asarray(letters))), np.asarray(model(jnp.asarray(changed)))
    np.testing.assert_allclose(before[0, :40], after[0, :40], rtol=1e-5, atol=1e-6)
    assert np.all(np.any(before[0, 40:] != after[0, 40:], axis=-1))


def test_the_bundled_text_is_long_and_its_end_is_held_out(example):
    name, data, held_out, different = example.numbered(None)
    assert name == "Python's help texts" and len(data) > 9 * example.CONTEXT and 50 < different < 1000
    assert max(data.max(), held_out.max()) < different and len(held_out) == pytest.approx(len(data) / 9, abs=1)
    np.testing.assert_array_equal(example.windows(data, np.array([0, 7]))[1], data[7 : 8 + example.CONTEXT])


def test_an_unusable_text_is_one_line(example, tmp_path, capsys):
    assert example.main(["--data", str(tmp_path / "none.txt")]) == 2
    (tmp_path / "short.txt").write_text("too short")
    (tmp_path / "bytes").write_bytes(b"\xff\xff\xff")
    assert example.main(["--data", str(tmp_path / "short.txt")]) == 2
    assert example.main(["--data", str(tmp_path / "bytes")]) == 2
    missing, short, garbled = capsys.readouterr().err.splitlines()
    assert missing.startswith(f"transformer.py: {tmp_path / 'none.txt'}: cannot be read")
    assert short == "transformer.py: short.txt: expected at least 650 letters, got 9"
    assert "as text in UTF-8" in garbled

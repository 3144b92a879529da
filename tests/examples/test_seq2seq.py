"""Claims about the example that adds numbers letter by letter."""

import json

import numpy as np
import pytest


@pytest.mark.slow
def test_a_few_steps_learn_the_same_with_both_libraries(example, tmp_path):
    rows = tmp_path / "rows.json"
    given = ["--steps", "20", "--batch-size", "32", "--out", str(tmp_path), "--json", str(rows)]
    assert example.main(given) == 0
    for name in ("seq2seq", "seq2seq_watched"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (row,) = json.loads(rows.read_text())
    assert row["largest_difference"] < 1e-3
    assert row["sides"]["gradtx"]["loss"] < 0.9 * row["first_loss"]


def test_problems_are_right_and_those_held_out_are_never_shown(example):
    asked = {}
    for held_out in (False, True):
        batch = example.problems(np.random.default_rng(0), 500, held_out)
        texts = ["".join(example.LETTERS[code] for code in row) for row in np.hstack([*batch.values()])]
        assert batch["question"].shape == (500, example.READ) and batch["answer"].shape == (500, example.WRITTEN)
        for text in texts:
            question, answer = text.split("=")
            assert sum(map(int, question.split("+"))) == int(answer)
        asked[held_out] = {text.split("=")[0] for text in texts}
    assert not asked[False] & asked[True]


def test_a_letter_is_written_from_those_before_it(example):
    assert example.shifted(np.array([[1, 2, 3]])).tolist() == [[example.CODE["="], 1, 2]]

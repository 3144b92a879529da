"""Claims about the example that draws schedules and trains with some."""

import inspect

import numpy as np
import pytest

from gradtx import schedules

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


def test_every_schedule_of_the_library_is_drawn(example):
    makers = {name for name in schedules.__all__ if inspect.isfunction(getattr(schedules, name))}
    assert set(example.PANELS) == makers - {"plot_schedule", "render_schedule"}
    for drawn in example.PANELS.values():
        for schedule in drawn.values():
            values = np.asarray(schedule(np.arange(example.STEPS + 1)))
            assert values.min() >= 0 and values.max() <= 1


@pytest.mark.slow
def test_a_short_run_makes_two_drawings_and_decay_ends_below_a_constant(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    for name in ("schedules.png", "schedules_training.png"):
        assert (tmp_path / "new" / "folder" / name).read_bytes().startswith(b"\x89PNG")
    rows = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()[-5:]]
    above = {name: float(value) for name, value, _ in rows}
    assert above.keys() == example.rates(100, 10).keys()
    assert all(0 <= value < above["constant"] / 2 for name, value in above.items() if name != "constant")
    assert all(float(accuracy) > 0.9 for *_, accuracy in rows)


def test_the_same_seed_gives_the_same_run(example):
    data, _ = example.digits()
    options = example.parse(["--epochs", "1", "--seed", "3"])
    first, second = (example.train(example.rates(89, 89)["on plateaus"], data, options) for _ in range(2))
    np.testing.assert_array_equal(first[0], second[0])


def test_an_unwritable_folder_is_one_line_on_stderr_and_status_2(example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "rates", lambda *_: {"warm-up and cosine": schedules.constant_schedule(0.1)})
    (tmp_path / "file").write_text("")
    assert example.main(["--epochs", "1", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("schedules.py: ")


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--seed", "x"]])
def test_bad_options_end_with_status_2(example, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        example.main(arguments)
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err

"""Claims about the example that compares regularizers."""

import re

import pytest


def test_a_short_run_compares_four_ways_and_only_the_proximal_step_makes_zeros(example, tmp_path, capsys):
    assert example.main(["--short", "--epochs", "20", "--seed", "1", "--out", str(tmp_path / "new")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (tmp_path / "new" / "regularization.png").read_bytes().startswith(b"\x89PNG")
    rows = [re.findall(r"([\d.]+)%", line) for line in lines if line.count("%") == 2 * len(example.METHODS)]
    assert len(rows) == 6
    zeros = {method: [float(row[2 * at]) for row in rows] for at, method in enumerate(example.METHODS)}
    assert [sum(shares) for method, shares in zeros.items() if method != example.PROXIMAL] == [0, 0, 0]
    assert zeros[example.PROXIMAL] == sorted(zeros[example.PROXIMAL]) and zeros[example.PROXIMAL][-1] > 90
    assert lines[-1].startswith("test accuracy ") and float(lines[-1].split()[-1]) > 0.85


def test_an_unwritable_folder_is_one_line_on_stderr_and_status_2(example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(example, "METHODS", {example.PROXIMAL: example.METHODS[example.PROXIMAL]})
    (tmp_path / "file").write_text("")
    assert example.main(["--short", "--epochs", "1", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("regularization.py: ")


@pytest.mark.parametrize("arguments", [["--epochs", "-1"], ["--networks", "-2"], ["--seed", "x"]])
def test_bad_options_end_with_status_2(example, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        example.main(arguments)
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err

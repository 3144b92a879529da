"""Claims about the example of saddle points."""

import pytest


def test_the_digits_network_starts_at_a_saddle_that_descent_never_leaves(example):
    data = example.digits()
    saddle = example.digits_saddle(data)
    report, info, runs = example.compare(example.digits_loss, saddle, saddle, data, 0.5, 5)
    assert report.verdict == "strict saddle"
    assert info.loss_after < info.loss_before - 0.4
    assert max(runs["gradient descent"][0]) - min(runs["gradient descent"][0]) < 1e-5
    assert runs["escape, then descent"][0][-1] < info.loss_after


@pytest.mark.slow
def test_a_run_draws_and_tells_what_escaping_gains(example, tmp_path, capsys):
    assert example.main(["--steps", "20", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "saddle.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("strict saddle") == 2

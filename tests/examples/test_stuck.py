"""Claims about the example of training that is stuck at no critical point."""

import numpy as np


def test_a_short_run_names_the_bouncing_and_cutting_the_rate_ends_it(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "stuck.png").read_bytes().startswith(b"\x89PNG")
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.partition(":")[0] for line in lines[::2]] == ["valley", "network"]
    for seen, after in zip(lines[::2], lines[1::2], strict=True):
        assert "bouncing between the walls" in seen
        before, _, now = after.rpartition("from ")[2].partition(" to ")
        assert float(now) < 0.95 * float(before)


def fake(losses, norms, cosines):
    return np.stack([np.broadcast_to(values, 200) for values in (losses, norms, cosines)])


def test_every_verdict_has_its_evidence(example):
    falling, norms = np.geomspace(10, 0.01, 200), np.geomspace(5, 1e-4, 200)
    cases = {
        "converged": (1.0, norms, 0.0),
        "bouncing": (1.0, 5.0, -0.9),
        "progressing": (falling, 5.0, 0.9),
        "noise": (1.0, 5.0, 0.0),
    }
    for expected, curves in cases.items():
        run = example.Run(*fake(*curves), points=np.zeros(0))
        assert example.verdict(run, 200, 0.1).startswith(expected)

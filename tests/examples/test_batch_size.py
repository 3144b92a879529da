"""Claims about the example that compares batch sizes."""

import numpy as np
import pytest


def test_a_short_run_draws_and_shows_quieter_gradients_and_less_learned(example, tmp_path, capsys):
    assert example.main(["--short", "--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "batch_size.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.replace(",", "").split() for line in capsys.readouterr().out.splitlines()[2:]]
    sizes, variances, losses = (np.array([float(row[column]) for row in rows]) for column in (0, 4, 5))
    assert sizes.tolist() == list(example.SHORT_BATCH_SIZES)
    np.testing.assert_allclose(variances[0] / variances[1], 128 / 16 * (1000 - 16) / (1000 - 128), rtol=0.5)
    assert variances[2] < 1e-6 * variances[0]
    assert losses.tolist() == sorted(losses)


def test_a_number_of_epochs_below_one_is_refused(example, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(["--epochs", "0"])
    assert caught.value.code == 2 and "--epochs must be at least 1" in capsys.readouterr().err

"""Claims about the example that draws paths down a bowl."""

import numpy as np
import pytest


def test_momentum_bounces_less_and_arrives_sooner_than_gradient_descent(example, tmp_path, capsys):
    assert example.main(["--out", str(tmp_path / "new" / "folder")]) == 0
    assert (tmp_path / "new" / "folder" / "quadratic.png").read_bytes().startswith(b"\x89PNG")
    rows = [line.rsplit(maxsplit=3) for line in capsys.readouterr().out.splitlines()[2:]]
    steps = {name: float(needed) if needed != "-" else np.inf for name, _, _, needed in rows}
    assert steps.keys() == example.OPTIMIZERS.keys()
    assert steps["Nesterov"] < steps["momentum"] < steps["gradient descent"] / 2
    assert steps["Adam"] < steps["gradient descent"] / 2


def test_a_path_is_that_of_the_optimizer_alone(example):
    hessian = example.bowl(10.0)
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [1.0, 10.0])
    (path,) = example.run(example.OPTIMIZERS["gradient descent"], [0.1], hessian, steps=3)
    expected = np.array(example.START)
    for point in path:
        np.testing.assert_allclose(point, expected, rtol=1e-5)
        expected = expected - 0.1 * hessian @ expected


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--condition", "0.5"], ["--condition", "nan"]])
def test_bad_options_end_with_status_2(example, capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        example.main(arguments)
    assert caught.value.code == 2 and arguments[0] in capsys.readouterr().err

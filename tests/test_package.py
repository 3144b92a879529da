"""Claims about what is built and installed."""

import pathlib
import subprocess
import sys
import tarfile
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command, cwd):
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The names in the sdist and in the wheel, and the path of the wheel, which is built from the sdist."""
    pytest.importorskip("build", reason="the package `build` is missing; write pip install gradtx[test]")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = [name.partition("/")[2] for name in archive.getnames()]
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    return in_sdist, in_wheel, wheel


def test_the_wheel_holds_the_package_and_nothing_else(built):
    _, in_wheel, _ = built
    assert {name.split("/")[0].split("-")[0] for name in in_wheel} == {"gradtx"}
    sources = {f"gradtx/{path.relative_to(ROOT / 'gradtx').as_posix()}" for path in (ROOT / "gradtx").rglob("*.py")}
    assert {name for name in in_wheel if name.endswith(".py")} == sources
    assert "gradtx/py.typed" in in_wheel
    assert any(name.endswith("licenses/LICENSE") for name in in_wheel)


def test_the_sdist_holds_no_tests(built):
    in_sdist, _, _ = built
    assert {name.split("/")[0] for name in in_sdist} == {
        *("gradtx", "pyproject.toml", "PKG-INFO", "LICENSE", "README.md", "CHANGELOG.md", ".gitignore")
    }


def test_the_wheel_works_in_an_empty_environment(built, tmp_path):
    _, _, wheel = built
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    program = (
        "import gradtx, jax.numpy as jnp; tx = gradtx.adamw(1e-3); p = {'w': jnp.ones(3)};"
        "u, _ = tx.update(p, tx.init(p), p); print(gradtx.__file__, gradtx.apply_updates(p, u)['w'].shape)"
    )
    file, shape = run(python, "-c", program, cwd=tmp_path).split(maxsplit=1)
    assert pathlib.Path(file).is_relative_to(tmp_path)
    assert shape.strip() == "(3,)"

"""The documentation is true today: its code runs, and what it points at exists."""

import pathlib
import re

import jax.numpy as jnp
import matplotlib as mpl
import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def run_blocks(page: pathlib.Path) -> dict:
    """Every Python block of a page, in order, in one namespace."""
    namespace: dict = {}
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    return namespace


@every_page
def test_every_python_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mpl.use("Agg")
    run_blocks(page)


@every_page
def test_every_link_to_a_file_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_trains_what_it_says():
    namespace = run_blocks(README)
    assert jnp.allclose(namespace["params"]["w"], jnp.arange(3.0), atol=0.1)
    own = namespace["optimizer"]
    updates, _ = own.update(namespace["params"], own.init(namespace["params"]))
    assert updates.keys() == {"w", "b"}


def test_every_page_is_in_the_table_of_contents():
    contents = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in PAGES[1:]:
        assert str(page.relative_to(ROOT / "docs")) in contents

"""Every Python block of the README runs, in order, in one namespace."""

import pathlib
import re

import jax.numpy as jnp

README = pathlib.Path(__file__).parent.parent / "README.md"


def test_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 4
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), namespace)
    assert jnp.allclose(namespace["params"]["w"], jnp.arange(3.0), atol=0.1)
    own = namespace["optimizer"]
    updates, _ = own.update(namespace["params"], own.init(namespace["params"]))
    assert updates.keys() == {"w", "b"}

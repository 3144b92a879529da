"""Each module here is about the example that it is named after."""

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example(request):
    """The module ``examples/NAME.py`` or ``examples/flax/NAME.py`` for the tests in ``test_NAME.py``."""
    name = request.module.__name__.rpartition("test_")[2]
    (path,) = EXAMPLES.rglob(f"{name}.py")
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"{name}_example", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(path.parent))

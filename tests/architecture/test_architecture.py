"""Claims about how the package is laid out, read off its sources."""

import ast
import importlib
import inspect
import subprocess
import sys

import pytest

import gradtx
from tests.architecture.floor_plan import (
    MAY_IMPORT,
    MODULES,
    ROOMS,
    exports,
    functions_and_classes,
    imports,
    own_imports,
    room_of,
    tree_of,
)

every_module = pytest.mark.parametrize("module", MODULES)
every_room = pytest.mark.parametrize("room", ROOMS)

RECIPES = [module for module in MODULES if module.startswith("gradtx.optimizers.")]
EXTRAS = {"orbax", "flax", "matplotlib"}  # imported where they are used
FOUNDATION = {"jax", "jaxlib", "numpy"}
NEEDED_BY_JAX = {"ml_dtypes", "opt_einsum", "scipy"}


@every_room
def test_a_room_is_on_the_floor_plan(room):
    assert room in MAY_IMPORT


@every_module
def test_imports_go_only_downwards(module):
    room = room_of(module)
    allowed = set(MAY_IMPORT) - {"optax"} if room == "" else {room, *MAY_IMPORT[room]}
    for target in own_imports(module):
        assert room_of(target), f"{module} imports the front door"
        assert room_of(target) in allowed, f"{module} imports {target}: {room} is below {room_of(target)}"


@every_module
def test_the_imports_within_a_room_have_no_cycle(module):
    seen, waiting = set(), [module]
    while waiting:
        above = {target for target in own_imports(waiting.pop()) if room_of(target) == room_of(module)} - seen
        assert module not in above, f"{module} imports itself by way of {sorted(seen)}"
        seen |= above
        waiting += above


@every_module
def test_a_module_name_says_what_is_in_it(module):
    for name in module.split("."):
        assert name not in {"utils", "util", "misc", "common", "helpers", "helper", "base"}
        assert not name.startswith("_")


@every_module
def test_no_module_is_named_like_a_public_function(module):
    public = {name for room in ROOMS for name in exports(room)}
    if module != "gradtx":
        assert module.rpartition(".")[2] not in public


@every_room
def test_a_room_exports_its_own_things_and_says_so(room):
    module = importlib.import_module(f"gradtx.{room}")
    for name, source in exports(room).items():
        assert room_of(source) == room, f"gradtx.{room}.{name} belongs to {source}"
    if hasattr(module, "__all__"):
        assert len(set(module.__all__)) == len(module.__all__)
        assert set(module.__all__) == set(exports(room))


def test_a_public_thing_has_one_address():
    """But for functions of trees, which are written with their room, ``tree.scale``, like those of ``jax.tree``."""
    addresses = {}
    for room in sorted({*ROOMS} - {"tree"}):
        for name, source in exports(room).items():
            addresses.setdefault(name, set()).add(source)
    assert {name: found for name, found in addresses.items() if len(found) > 1} == {}


@every_room
def test_a_public_thing_is_defined_once(room):
    """Where a room exports it from, and not again in another module of the room."""
    for name, source in exports(room).items():
        others = [other for other in MODULES if room_of(other) == room and name in functions_and_classes(other)]
        assert set(others) <= {source}, f"{name} comes from {source}, and is defined in {others}"


def test_the_front_door_reexports_one_list():
    assert list(gradtx.__all__) == sorted(set(gradtx.__all__))
    named = {name: source for source, _, name in imports("gradtx")}
    assert set(gradtx.__all__) == set(named)
    for name, source in named.items():
        assert hasattr(gradtx, name)
        assert source == "gradtx" or name in exports(room_of(source)), f"{name} is not public in {source}"
        assert source.count(".") <= 1, f"{name} comes from inside a room: {source}"


@pytest.mark.parametrize("module", RECIPES)
def test_a_recipe_holds_no_arithmetic(module):
    """No JAX or NumPy, and no operator but the ``|`` of an annotation and the sign of a literal number."""
    for source, _, _ in imports(module):
        assert source.split(".")[0] in {"gradtx", "collections", "typing"}
    for node in ast.walk(tree_of(module)):
        is_union = isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr)
        is_number = isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)
        is_negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not is_number
        computes = (isinstance(node, ast.BinOp) and not is_union) or isinstance(node, ast.AugAssign) or is_negative
        assert not computes, f"{module} computes {ast.unparse(node)}"


@every_module
def test_other_packages_are_imported_where_they_are_used(module):
    statements = tree_of(module).body
    for source, _, _ in imports(module):
        root = source.split(".")[0]
        assert root in {"gradtx", *FOUNDATION, *EXTRAS} or root in sys.stdlib_module_names
    at_top = {s.split(".")[0] for node in statements if isinstance(node, ast.Import | ast.ImportFrom)
              for s, _, _ in imports(module, node)}  # fmt: skip
    assert at_top.isdisjoint(EXTRAS)


def test_importing_the_package_imports_nothing_beyond_jax_and_numpy():
    program = (
        "import sys, jax, numpy; before = set(sys.modules); import gradtx; "
        "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    added = set(run.stdout.split()) - set(sys.stdlib_module_names)
    assert added <= {"gradtx", *FOUNDATION, *NEEDED_BY_JAX}


def test_importing_the_package_starts_no_device():
    program = "import gradtx; from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized())"
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "False"


@every_room
def test_public_functions_have_docstrings(room):
    module = importlib.import_module(f"gradtx.{room}")
    assert inspect.getdoc(module)
    for name in exports(room):
        thing = getattr(module, name)
        if inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"gradtx.{room}.{name} has no docstring"

"""The rooms of the package, what each may import, and how to read it off the sources."""

import ast
import functools
import pathlib

PACKAGE = pathlib.Path(__file__).parents[2] / "gradtx"

GROUND = {"errors", "tree", "tables", "rounding", "linalg", "projections", "assignment"}
PARTS = {*GROUND, "core", "schedules", "combinators", "storage", "transforms"}
RECIPES = {*PARTS, "preconditioners", "curvature", "optimizers"}
EVERYTHING = {*RECIPES, "norm", "losses", "training"}

MAY_IMPORT = {
    "errors": set(),
    "tree": {"errors"},
    "tables": set(),
    "rounding": {"tree", "errors"},
    "linalg": {"errors"},
    "projections": {"tree", "errors"},
    "assignment": {"errors"},
    "core": {"tree", "rounding", "errors"},
    "schedules": {"errors"},
    "combinators": {"core", "tree", "tables", "errors", "schedules"},
    "storage": {"core", "tree", "rounding", "errors", "combinators"},
    "transforms": PARTS - {"transforms"},
    "preconditioners": PARTS,
    "curvature": {"core", "tree", "tables", "linalg", "errors", "combinators"},
    "optimizers": RECIPES - {"optimizers"},
    "norm": {"tree", "schedules", "combinators", "errors"},
    "losses": {"tree", "projections", "errors"},
    "training": EVERYTHING - {"training"},
    "optax": EVERYTHING,
}

MODULES = {
    ".".join(("gradtx", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def room_of(module: str) -> str:
    """The room that a module of the package stands in; the front door's is empty."""
    return module.removeprefix("gradtx").lstrip(".").split(".")[0]


ROOMS = sorted({room_of(module) for module in MODULES} - {""})


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str, node: ast.AST | None = None) -> list[tuple[str, str, str]]:
    """All imports in a module, or in a part of it: where from, what, and the name that it gets; "" is the whole."""
    found = []
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for statement in ast.walk(node or tree_of(module)):
        if isinstance(statement, ast.Import):
            found += [(alias.name, "", alias.asname or alias.name) for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - statement.level + 1] if statement.level else []
            source = ".".join([*above, *([statement.module] if statement.module else [])])
            found += [(source, alias.name, alias.asname or alias.name) for alias in statement.names]
    return found


@functools.cache
def own_imports(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    names = set()
    for source, name, _ in imports(module):
        if source.split(".")[0] == "gradtx":
            inner = f"{source}.{name}"
            names.add(inner if inner in MODULES else source)
    return names


def functions_and_classes(module: str) -> dict[str, ast.AST]:
    """What a module defines at its top level, by name."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return {node.name: node for node in tree_of(module).body if isinstance(node, kinds)}


@functools.cache
def exports(room: str) -> dict[str, str]:
    """The public names of a room, and the module that each comes from."""
    module = f"gradtx.{room}"
    if MODULES[module].name != "__init__.py":
        return {name: module for name in functions_and_classes(module) if not name.startswith("_")}
    return {name: source for source, _, name in imports(module) if source.startswith("gradtx")}

"""The shape of the code: imports go one way and never in a circle, and no private JAX."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import inspect
import sys
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

from isnet_jax.objective import losses

PACKAGE = Path(__file__).parents[1] / "isnet_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import of the others. `lrp` and `models` stand beside each
# other; whatever an arrow does not reach has to be given as an argument.
FOUNDATION = {"_lazy", "errors", "files", "memory"}
PARTS = {
    "lrp": {"errors"},
    "models": FOUNDATION,
    "objective": FOUNDATION | {"lrp"},
    "data": FOUNDATION,
    "evaluation": FOUNDATION | {"lrp", "models", "objective", "data"},
    "report": FOUNDATION,
    "methods": FOUNDATION | {"lrp", "models", "objective", "data", "evaluation"},
    "training": FOUNDATION | {"lrp", "models", "objective", "data", "methods"},
}
PARTS["commands"] = {*PARTS, *FOUNDATION}
# The package itself re-exports.
PARTS["__init__"] = {"_lazy", "_moved", "errors", "lrp", "models", "objective"}


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


@functools.cache
def imports(file: Path) -> frozenset[str]:
    """Full names of the modules, and of what is taken from them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno}: a relative import"
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return frozenset(found)


def modules_imported(file: Path) -> set[str]:
    """The modules of this package that a file imports, also where only type checkers do."""
    names = [name for name in imports(file) if name.split(".")[0] == "isnet_jax"]
    return {name if name in MODULES else name.rpartition(".")[0] for name in names}


def part_of(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    allowed = PARTS.get(part_of(module), FOUNDATION) | {part_of(module)}
    assert {part_of(name) for name in modules_imported(MODULES[module])} <= allowed


def test_no_circles():
    """Not even through a package's own `__init__`: its modules import each other by name."""
    graph = {module: modules_imported(file) - {module} for module, file in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("package", ["", ".data", ".methods", ".report", ".training"])
def test_type_checkers_and_users_see_the_same_names(package):
    module = importlib.import_module(f"isnet_jax{package}")
    (block,) = (n for n in ast.parse(inspect.getsource(module)).body if isinstance(n, ast.If))
    typed = {name.name for node in block.body for name in getattr(node, "names", ())}
    assert typed == set(dir(module)) & typed
    for name in typed:
        assert getattr(module, name) is not None


def test_lrp_knows_only_jax_and_numpy():
    outside = {
        name.split(".")[0]
        for module, file in MODULES.items()
        if part_of(module) == "lrp"
        for name in imports(file)
        if not name.startswith(("isnet_jax.errors", "isnet_jax.lrp"))
    }
    assert outside - set(sys.stdlib_module_names) <= {"jax", "numpy"}


@pytest.mark.parametrize("module", MODULES)
def test_no_private_jax(module):
    assert "jax._src" not in MODULES[module].read_text()


def test_one_file_touches_the_jaxpr_api():
    touching = [
        module
        for module, file in MODULES.items()
        if any(name.startswith("jax.extend") for name in imports(file))
    ]
    assert len(touching) == 1


@pytest.mark.parametrize("module", MODULES)
def test_shapes_are_stated_only_where_tests_check_them(module, pytestconfig):
    checked = pytestconfig.getoption("--jaxtyping-packages").split(",")[:-1]
    stated = {name for name in imports(MODULES[module]) if name.startswith("jaxtyping.")}
    if stated - {"jaxtyping.Array"}:
        assert any(f"{module}.".startswith(f"{package}.") for package in checked)


def test_shapes_are_checked_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.foreground_loss(jnp.ones((2, 1, 4, 4, 3)), jnp.ones((3, 4, 4, 1)), bounds=(1, 2))


@pytest.mark.parametrize("name", ["isnet_jax.run_folder", "isnet_jax.data.readers.table"])
def test_former_names_of_modules_are_the_modules_themselves(name: str):
    moved = importlib.import_module("isnet_jax._moved").MOVED
    before = next(old for old in moved if name.startswith(old))
    sys.modules.pop(name, None)
    with pytest.deprecated_call():
        found = importlib.import_module(name)
    assert found is importlib.import_module(name.replace(before, moved[before]))

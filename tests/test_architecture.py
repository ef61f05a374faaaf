"""The shape of the code: imports go one way, no private JAX, files that are read in one sitting."""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

import isnet_jax
import isnet_jax.data
import isnet_jax.training
from isnet_jax import losses

PACKAGE = Path(__file__).parents[1] / "isnet_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# What each part of the package may import of the others; itself and `errors` always.
FOUNDATIONS = {"_lazy", "errors", "files"}
PARTS = {
    "_lazy": set(),
    "errors": set(),
    "files": {"errors"},
    "lrp": {"errors"},
    "losses": {"errors"},
    "models": FOUNDATIONS,
    "data": FOUNDATIONS,
    "visualize": FOUNDATIONS,
    "classification": {"errors"},
    "options": {"errors", "lrp"},
    "config": {"errors", "losses", "lrp", "classification"},
    "explanations": {"errors", "losses", "lrp", "config"},
    "objective": {"errors", "classification", "config", "explanations"},
    "evaluation": FOUNDATIONS | {"lrp"},
    "training": FOUNDATIONS
    | {"classification", "config", "objective", "options", "models", "data"},
}
# Above those stand the main job's parts, which may import all of them but not the command line.
TOP = {"cli"}
# `isnet_jax/__init__.py` re-exports.
EXPORTS = {"_lazy", "lrp", "models", "errors", "classification", "config", "objective"}


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> set[str]:
    """Full names of the modules and of what is taken from them."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name}:{node.lineno}: a relative import"
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return found


def parts_imported(file: Path) -> set[str]:
    names = [name.split(".") for name in imports(file)]
    return {name[1] for name in names if name[0] == "isnet_jax" and len(name) > 1}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    part, imported = part_of(file), parts_imported(file)
    if part == "__init__":
        assert imported <= EXPORTS
    elif part in PARTS:
        assert imported <= PARTS[part] | {part}
    else:
        assert part in TOP or not imported & TOP


@pytest.mark.parametrize("package", [isnet_jax, isnet_jax.data, isnet_jax.training])
def test_type_checkers_and_users_see_the_same_names(package):
    (block,) = (n for n in ast.parse(inspect.getsource(package)).body if isinstance(n, ast.If))
    typed = {name.name for node in block.body for name in getattr(node, "names", ())}
    assert typed <= set(dir(package))
    for name in typed:
        assert getattr(package, name) is not None


def test_lrp_knows_only_jax_and_numpy():
    outside = {
        name.split(".")[0]
        for file in FILES
        if part_of(file) == "lrp"
        for name in imports(file)
        if not name.startswith(("isnet_jax.errors", "isnet_jax.lrp"))
    }
    assert outside - set(sys.stdlib_module_names) <= {"jax", "numpy"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_private_jax_and_files_of_one_sitting(file):
    text = file.read_text()
    assert "jax._src" not in text
    assert len(text.splitlines()) <= 400


def test_one_file_touches_the_jaxpr_api():
    touching = {
        file.name for file in FILES if any(name.startswith("jax.extend") for name in imports(file))
    }
    assert touching == {"_jaxpr.py"}


def test_shapes_are_checked_in_tests():
    with pytest.raises(jaxtyping.TypeCheckError):
        losses.foreground_loss(jnp.ones((2, 1, 4, 4, 3)), jnp.ones((3, 4, 4, 1)), bounds=(1, 2))

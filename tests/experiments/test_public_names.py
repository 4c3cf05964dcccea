"""Experiments are written as a user would write them: with the public names alone."""

import ast
from pathlib import Path

import pytest

import fednas_jax as fn

FOLDER = Path(__file__).parents[2] / "experiments"
FILES = sorted(path.name for path in FOLDER.glob("*.py"))


def imported(source):
    """Modules of this project that a file imports from."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{a.name}" for a in node.names] if node.module == "fednas_jax" else [node.module]
    return [name for name in names if name and name.split(".")[0] == "fednas_jax"]


def named(source):
    """What a file takes of `fn`."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "fn"}


@pytest.mark.parametrize("name", FILES)
def test_an_experiment_uses_the_public_names_alone(name):
    source = (FOLDER / name).read_text()
    assert [module for module in imported(source) if module != "fednas_jax"] == []
    assert named(source) <= set(fn.__all__)


def test_an_import_of_an_internal_is_found():
    source = "import fednas_jax as fn\nfrom fednas_jax.run import loop\nfrom fednas_jax import data\nfn.nothing"
    assert imported(source) == ["fednas_jax", "fednas_jax.run", "fednas_jax.data"]
    assert named(source) == {"nothing"}
    assert len(FILES) > 2

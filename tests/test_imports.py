"""One-way imports: a module of the package imports only from its own package and those listed before it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fednas_jax"

# In order: each may import from those before it. `docs/architecture.md` says what lives in each.
PACKAGES = (
    *("errors", "registry", "files", "forms", "seeds"),
    *("config", "runtime", "space", "nets", "data", "engine", "phones", "search", "run", "sweep", "report"),
    *("bench", "cli"),
)
_FRONTS = tuple(f"{package}/__init__.py" for package in PACKAGES)
NEEDS_NO_JAX = ("config", "errors.py", "registry.py", "files.py", "forms.py", "__init__.py", "__main__.py", *_FRONTS)
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def package_of(file):
    """The package that a file lies in; a module beside the packages counts as one, and __main__ as the command line."""
    first = Path(file).parts[0].removesuffix(".py")
    return "cli" if first == "__main__" else first


def imported(source, file):
    """What a file imports of this project, wherever in it the import stands, as [package, ...]; '' is all of it."""
    names = []
    here = ("fednas_jax", *Path(file).parts[:-1])
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(here[: len(here) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            names += [f"{module}.{alias.name}" for alias in node.names] if module == "fednas_jax" else [module]
    return {[*name.split("."), ""][1] for name in names if name.split(".")[0] == "fednas_jax"}


def offenders(source, file):
    """Packages that a file imports though they are not listed before its own."""
    own = package_of(file)
    before = PACKAGES[: PACKAGES.index(own) + 1]
    return imported(source, file) - set(before)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_module_imports_only_from_its_own_package_and_those_before_it(file):
    if str(file) == "__init__.py":  # the public names: it may import anything
        return
    assert package_of(file) in PACKAGES, f"{file} lies in no package that this test lists: say where it belongs"
    assert offenders((PACKAGE / file).read_text(), file) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_listed_is_there_and_says_what_it_is(package):
    of = [file for file in FILES if package_of(file) == package]
    assert of
    front = PACKAGE / (f"{package}.py" if len(of) == 1 else f"{package}/__init__.py")
    assert ast.get_docstring(ast.parse(front.read_text()))


def test_no_module_of_a_package_has_the_name_of_a_function_in_it():
    for package in PACKAGES:
        modules = {file.stem for file in FILES if package_of(file) == package and len(file.parts) == 2}
        for file in (file for file in FILES if package_of(file) == package):
            tree = ast.parse((PACKAGE / file).read_text())
            defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
            assert not defined & modules, f"{file}: {defined & modules}"


@pytest.mark.parametrize("file", [f for f in FILES if str(f).startswith(NEEDS_NO_JAX)], ids=str)
def test_what_the_command_line_reads_first_needs_no_jax(file):
    for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
        named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {name.split(".")[0] for name in named} & {"jax", "flax", "optax", "jaxlib"}, file


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("engine/local.py", "from fednas_jax.space.network import Widths", set()),
        ("engine/local.py", "from fednas_jax.engine import fleet", set()),
        ("engine/local.py", "import fednas_jax.run.loop", {"run"}),
        ("engine/local.py", "from fednas_jax import errors, run", {"run"}),
        ("engine/local.py", "import jax, numpy", set()),
        ("engine/local.py", "def f():\n    from fednas_jax.run.loop import run_search", {"run"}),
        ("engine/local.py", "from . import fleet", set()),
        ("engine/local.py", "from ..run import loop", {"run"}),
        ("nets/cnn.py", "from .pool import max_pool", set()),
        ("nets/cnn.py", "from ..data import pack", {"data"}),
        ("space/masks.py", "from fednas_jax.config import Config", set()),
        ("config/schema.py", "from fednas_jax.space.network import Widths", {"space"}),
        ("errors.py", "from fednas_jax.config import Config", {"config"}),
        ("run/loop.py", "import fednas_jax", {""}),
        ("run/loop.py", "from fednas_jax import nonsense", {"nonsense"}),
        ("__main__.py", "from fednas_jax.cli.app import main", set()),
    ],
)
def test_an_offender_is_named(file, source, wrong):
    assert offenders(source, file) == wrong

"""One-way doors: a file of the package imports only from rows above its own."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fednas_jax"

# Row of each room; `nets`, `data` and `bench` are folders, whose files may import each other, as __main__ may its cli.
ROWS = {
    -1: {"errors"},
    0: {"cache", "config", "cores", "hosts", "seeds", "space"},
    1: {
        *("nets", "data", "controller", "presets", "schedule", "devices", "draw", "training_macs", "compression"),
        *("lut", "program", "stacks", "inputs", "stopwatch"),
    },
    2: {"augment", "local", "cost", "feed", "participation", "latency", "memory"},
    3: {"resources", "tuning", "checkpoint", "rundir"},
    4: {"candidates", "fleet", "parents", "runstate"},
    5: {"prices"},
    6: {"setup", "bench", "reprice", "tiers"},
    7: {"rounds", "results", "report", "progress", "show"},
    8: {"search"},
    9: {"cli"},
}
ROW_OF = {room: row for row, rooms in ROWS.items() for room in rooms}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(file):
    first = Path(file).parts[0].removesuffix(".py")
    return "cli" if first == "__main__" else first


def imported_rooms(source, file):
    """The rooms that a file imports, wherever in it the import stands; '' is the package itself."""
    rooms = set()
    package = ("fednas_jax", *Path(file).parts[:-1])
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (above, node.module) if part)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "fednas_jax" else [module]
        rooms |= {[*name.split("."), ""][1] for name in names if name.split(".")[0] == "fednas_jax"}
    return rooms


def wrong_doors(source, file):
    """Rooms imported that do not lie above the file's own, nor are its own."""
    own = room_of(file)
    return {room for room in imported_rooms(source, file) - {own} if ROW_OF.get(room, 99) >= ROW_OF[own]}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_stands_in_a_row_and_imports_only_from_rows_above(file):
    if str(file) == "__init__.py":  # the public names: it may import anything
        return
    assert room_of(file) in ROW_OF, f"{file} is in no row: say in this test where it belongs"
    assert wrong_doors((PACKAGE / file).read_text(), file) == set()


@pytest.mark.parametrize("room", ["errors", "config", "space", "nets", "data", "controller", "candidates", "search"])
def test_the_rooms_that_others_stand_on_are_there(room):
    assert any(room_of(file) == room for file in FILES)


def test_the_settings_import_no_jax():
    for file in ("config.py", "errors.py"):
        for node in ast.walk(ast.parse((PACKAGE / file).read_text())):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in named} & {"jax", "flax", "optax", "jaxlib"}, file


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("local.py", "from fednas_jax.space import Widths", set()),
        ("local.py", "from fednas_jax import space, fleet", {"fleet"}),
        ("local.py", "import fednas_jax.cost", {"cost"}),
        ("local.py", "import jax, numpy", set()),
        ("local.py", "def f():\n    from fednas_jax.search import run", {"search"}),
        ("local.py", "from . import search", {"search"}),
        ("local.py", "from .search import run", {"search"}),
        ("nets/cnn.py", "from fednas_jax.nets.pool import max_pool", set()),
        ("nets/cnn.py", "from .pool import max_pool", set()),
        ("nets/cnn.py", "from ..data import pack", {"data"}),
        ("nets/cnn.py", "from fednas_jax.data import pack", {"data"}),
        ("space.py", "from fednas_jax.config import Config", {"config"}),
        ("config.py", "from fednas_jax.errors import ConfigError", set()),
        ("search.py", "import fednas_jax", {""}),
        ("search.py", "from fednas_jax import nonsense", {"nonsense"}),
        ("__main__.py", "from fednas_jax.cli import main", set()),
    ],
)
def test_a_wrong_door_is_seen(file, source, wrong):
    assert wrong_doors(source, file) == wrong

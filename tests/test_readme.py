"""What the README shows works as it stands, and the public names are there."""

import ast
import re
import shlex
import sys
from pathlib import Path

import pytest

import fednas_jax
from fednas_jax.cli.app import main
from fednas_jax.run import problem as setup

HOME = Path(__file__).parent.parent
README = (HOME / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
PAGES = (README, *(page.read_text() for page in sorted((HOME / "docs").glob("*.md"))))
# Searches on digits with options, in a block or in a sentence. Those that need a loop of the shell, several hosts,
# files of the reader's own or a finished run are left to other tests.
SEARCHES = sorted(
    {
        command
        for page in PAGES
        for command in re.findall(r"fednas (search digits [^`\n]+) --out", page)
        if not re.search(r"\$|--hosts|--help|--parent|--data\.folder|\bmy_(?!net:)\w+:", command)
    }
)


def test_every_public_name_is_there():
    assert fednas_jax.__all__ == sorted(fednas_jax.__all__, key=lambda name: (not name.isupper(), name))
    assert all(getattr(fednas_jax, name) is not None for name in fednas_jax.__all__)
    assert set(fednas_jax.__all__) == set(fednas_jax._HOMES)
    # Editors and type checkers read the imports that never run.
    (block,) = (node for node in ast.parse(Path(fednas_jax.__file__).read_text()).body if isinstance(node, ast.If))
    typed = {a.asname or a.name: f"{n.module}:{a.name}" for n in block.body for a in n.names}
    homes = {name: home if ":" in home else f"{home}:{name}" for name, home in fednas_jax._HOMES.items()}
    assert typed == {name: f"fednas_jax.{home}" for name, home in homes.items()}
    assert Path(fednas_jax.__file__).with_name("py.typed").exists()


def test_the_network_of_the_readme_is_probed(capsys):
    (block,) = [b for b in BLOCKS if "class Net" in b]
    exec(compile(block, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert said.startswith("(Dim(group=0, repeat=64), Dim(group=1, repeat=1))")
    # conv 64 x 9 x 16, dense 64 x 16 x 64, classifier 64 x 10; then half the convolution's width.
    assert f"{64 * 9 * 16 + 64 * 16 * 64 + 640} {64 * 9 * 8 + 64 * 8 * 64 + 640}" in said


def test_the_files_of_the_readme_are_there():
    for path in re.findall(r"(?:python )?((?:experiments|docs)/\w+\.\w+)", README):
        assert (Path(__file__).parent.parent / path).is_file(), path


def test_nothing_is_left_to_be_filled_in():
    assert not re.findall(r"\b(FAMILY|CLAIMS|SETTLE|FASHION|RANDOM)\b", README)


class Begun(BaseException):  # the command line takes other exceptions for bugs
    """A search had nothing to refuse, and would train now."""


@pytest.mark.parametrize("command", SEARCHES)
def test_searches_that_the_pages_show_are_not_refused(command, tmp_path, monkeypatch):
    (block,) = [b for b in BLOCKS if "class Net" in b]
    (tmp_path / "my_net.py").write_text(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def begin(*args, **more):
        raise Begun

    monkeypatch.setattr(setup.Fleet, "__init__", begin)
    with pytest.raises(Begun):
        main([*shlex.split(command), "--out", "run"])
    sys.modules.pop("my_net", None)


def test_the_pages_show_searches():
    assert any("--search.resource" in command for command in SEARCHES)
    assert any("my_net" in command for command in SEARCHES)

"""What docs/your_network.md says is done: its files are written, its commands run, and its refusals provoked."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from fednas_jax import nets
from fednas_jax.cli.app import main
from fednas_jax.config.schema import NetConfig
from fednas_jax.errors import FednasError
from fednas_jax.run import parents
from fednas_jax.space import probing

PAGE = (Path(__file__).parents[2] / "docs" / "your_network.md").read_text()
FILES = {name: code for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)}
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
ROWS = [
    tuple(cell.strip("` ") for cell in row) for row in re.findall(r"^\| (`.*?`) \| (`.*?`) \| (`.*?`) \|$", PAGE, re.M)
]
ABOUT_FILES = [row for row in ROWS if row[0] in FILES["to_safetensors.py"]]
ABOUT_NETWORKS = [row for row in ROWS if row not in ABOUT_FILES]
# Appended to the page's commands, so that they take seconds.
TINY = shlex.split(
    "--data.clients 2 --finetune.rounds 0 --train.batch-size 200 --search.groups 2 --search.score-clients 0 "
    "--search.max-iterations 1 --engine.lanes 1"
)
ONE_ROUND = ["--pretrain.rounds", "1"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


def write(folder, name, code):
    """A file as the page shows it, whose first line names it."""
    (folder / name).write_text(f"# {name}\n{code}")


def run_file(folder, name, code):
    write(folder, name, code)
    exec(compile(code, name, "exec"), {})


def answer(folder, change, name="my_nnx.py"):
    """What a network's file with one change is answered with, or why it is trained sliced."""
    before, after = change
    assert FILES[name].count(before) >= 1
    write(folder, name, FILES[name].replace(before, after, 1))
    try:
        return probing.probe(nets.build(NetConfig(name=f"{name.removesuffix('.py')}:make"), (8, 8, 1), 10)).inexact
    except FednasError as error:
        return str(error)


def without_size(message):
    """How far masked and sliced training differ depends on the machine's rounding."""
    return re.sub(r"\d\.\de-\d\d", "SIZE", message)


def test_the_page_has_what_the_tests_look_for():
    assert list(FILES) == ["my_nnx.py", "my_linen.py", "my_text.py", "to_safetensors.py"]
    assert len(COMMANDS) == 6
    assert (len(ABOUT_NETWORKS), len(ABOUT_FILES)) == (16, 7)
    assert PAGE.count("\n| `") == len(ROWS)


@pytest.mark.exhaustive
def test_the_commands_of_the_page_run_as_they_stand(here, capsys):
    for name in ("my_nnx.py", "my_linen.py", "my_text.py"):
        write(here, name, FILES[name])
    run_file(here, "to_safetensors.py", FILES["to_safetensors.py"])
    for line in COMMANDS:
        fednas, *args = shlex.split(line)
        assert fednas == "fednas"
        rounds = [] if "--parent" in args else ONE_ROUND
        assert main([*args, *([] if "--tiny" in args else [*TINY, *rounds])]) == 0, line
    said = capsys.readouterr().out
    assert "for searches with --parent runs/parent: validation accuracy 0." in said
    results = {p.parent.name: json.loads(p.read_text()) for p in (here / "runs").glob("*/result.json")}
    text = results.pop("text")
    assert (text["candidates"], list(text["parent"]["widths"])) == ("masked", ["embedding", "conv"])
    assert set(results) == {"nnx", "linen", "parent", "from_parent", "from_file"}
    assert all(r["parent"]["widths"] == {"conv": 16, "dense": 64} for r in results.values())
    # The same network at the same seed: what was pretrained apart is what the search would have pretrained.
    assert results["from_parent"]["parent"]["score"] == results["nnx"]["parent"]["score"]
    assert results["from_parent"]["models"] == results["nnx"]["models"]
    spent = results["nnx"]["client_cost"]["pretrain"]
    assert results["from_parent"]["parent_source"] == {
        "path": "runs/parent",
        "in_ledger": False,
        "client_cost": spent,
        "parent_source": None,
    }
    assert 0 < results["from_parent"]["client_cost"]["pretrain"]["seconds"]["mean"] < spent["seconds"]["mean"]
    not_counted = f"Not counted: the parent, from runs/parent ({spent['seconds']['mean']:,.1f} s of a client"
    assert not_counted in said
    assert not_counted in (here / "runs" / "from_parent" / "report.html").read_text()
    # The same command in the same folder.
    assert main([*shlex.split(COMMANDS[0])[1:], *TINY, *ONE_ROUND]) == 0
    assert "this run is finished; nothing was changed" in capsys.readouterr().out


def test_a_module_that_is_not_there_is_answered_as_the_page_says(here, capsys):
    ((command, said),) = re.findall(r"```\n\$ fednas (.*)\n(.*)\n```", PAGE)
    assert main(shlex.split(command)) == 2
    assert capsys.readouterr().err == f"{said}\n"
    assert not list(here.iterdir())


@pytest.mark.parametrize(("before", "after", "message"), ABOUT_NETWORKS, ids=[row[1] for row in ABOUT_NETWORKS])
def test_a_change_of_the_pages_network_is_answered_as_the_page_says(here, before, after, message):
    assert without_size(answer(here, (before, after))) == without_size(message)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (
            "self.seen = nnx.BatchStat(x[:, 0]); return self.classifier(x)",
            r"my_nnx: after a training step the statistic 'seen' is of shape \(2,\), want none, as it was made",
        ),
        (
            "import jax; return jax.lax.while_loop(lambda x: x[0, 0] > 1, lambda x: x / 2, self.classifier(x))",
            r"net.name: my_nnx:make at widths conv=16, dense=64: ValueError: Reverse-mode differentiation.*",
        ),
        (
            "return self.classifier(x).astype(int)",
            r"net.name: my_nnx:make turns images into an array of int32, want one array of floating-point logits",
        ),
    ],
    ids=["statistic", "loop", "integers"],
)
def test_what_cannot_be_trained_is_one_line_before_anything_is(here, after, message):
    assert re.fullmatch(message, answer(here, ("return self.classifier(x)", after)))


@pytest.mark.parametrize(("before", "after", "message"), ABOUT_FILES, ids=[row[1] for row in ABOUT_FILES])
def test_a_change_of_the_pages_weights_is_answered_as_the_page_says(here, before, after, message):
    write(here, "my_nnx.py", FILES["my_nnx.py"])
    code = FILES["to_safetensors.py"]
    run_file(here, "to_safetensors.py", code.replace(before, after, 1))
    found = probing.probe(nets.build(NetConfig(name="my_nnx:make"), (8, 8, 1), 10), check=False)
    with pytest.raises(FednasError) as caught:
        parents.load(Path("parent.safetensors"), found)
    assert str(caught.value) == message

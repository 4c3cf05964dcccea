"""What docs/extend.md says is done: its files are written, its commands run, and its refusals provoked."""

import functools
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from fednas_jax.cli.app import main
from fednas_jax.config.methods import resolve
from fednas_jax.config.registries import POLICIES
from fednas_jax.config.schema import Config, CostConfig, NetConfig, SearchConfig, TrainConfig
from fednas_jax.engine import losses, optimizers, schedules
from fednas_jax.engine.aggregation import aggregation_of
from fednas_jax.engine.metrics import metric_of
from fednas_jax.errors import FednasError
from fednas_jax.nets import build
from fednas_jax.search.policies import policy_of
from fednas_jax.search.proposals import proposer_of
from fednas_jax.search.resources import goal_of, resource_of
from fednas_jax.space.probing import probe

PAGE = (Path(__file__).parents[1] / "docs" / "extend.md").read_text()
FILES = {name: code for name, code in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL)}
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
ROWS = [
    tuple(cell.strip().removeprefix("`").removesuffix("`") for cell in row)
    for row in re.findall(r"^\| (`.*?`) \| (`.*?`) \| (`.*`) \|$", PAGE, re.M)
    if not re.fullmatch(r"`[a-z_.]*`", row[0])  # the table of fields
]
# Appended to the page's commands, so that they take seconds.
TINY = shlex.split(
    "--data.clients 4 --pretrain.rounds 1 --finetune.rounds 0 --train.batch-size 200 --search.groups 2 "
    "--search.score-clients 0 --search.max-iterations 1 --search.growth 0 --engine.lanes 1"
)


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


@functools.cache
def space():
    return probe(build(NetConfig("cnn", widths=(12, 10, 16)), (8, 8, 1), 3), (2, 4, 8), check=False)


def use(kind, name):
    """What a run does with a choice before it begins, and with proposals in its first iteration."""
    search = SearchConfig(early_dropping=True, dynamic_rounds=True, proposals="groups")
    if kind == "policy":
        policy_of(SearchConfig(**(vars(search) | {"policy": name})))
    elif kind == "proposals":
        search = SearchConfig(**(vars(search) | {"proposals": name, "reduction": 0.5}))
        proposer_of(space(), search, goal_of(space(), search)).propose(space().widths, 1, 0)
    elif kind == "resource":
        resource_of(space(), name, CostConfig())
    elif kind == "optimizer":
        optimizers.check(TrainConfig(client_optimizer=name))
    elif kind == "schedule":
        schedules.rates(TrainConfig(schedule=name), 8)
    elif kind == "loss":
        losses.check(name, 10)
    elif kind == "metric":
        metric_of(name, 10)
    elif kind == "aggregation":
        aggregation_of(name, space().network.abstract(space().widths))
    else:
        resolve(Config(method=name))


# Which function of which file a row changes.
FUNCTIONS = {
    "my_policy.py": ("policy", "within"),
    "my_rungs.py": ("policy", "worst_out"),
    "my_record.py": ("policy", "frugal"),
    "my_proposals.py": ("proposals", "halves"),
    "my_resource.py": ("resource", "flash"),
    "my_method.py": ("method", "thrifty"),
    "my_optimizer.py": ("optimizer", "signs"),
    "my_schedule.py": ("schedule", "sawtooth"),
    "my_loss.py": ("loss", "bold"),
    "my_metric.py": ("metric", "worst_class"),
    "my_aggregation.py": ("aggregation", "unweighted"),
}


def file_of(row):
    """The file that a row changes: the answer says its name, or else it is the one that has the text."""
    named = [name for name in FUNCTIONS if name.removesuffix(".py") in row[2]]
    return (named or [name for name in FUNCTIONS if row[0] in FILES[name]])[0]


def test_the_page_has_what_the_tests_look_for():
    assert list(FILES) == ["register.py", *FUNCTIONS]
    assert len(COMMANDS) == 9
    assert len(ROWS) == PAGE.count("\n| `") - 10 == 35


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_file_of_the_page_keeps_its_contract(here, name):
    kind, function = FUNCTIONS[name]
    write(here, name, FILES[name])
    use(kind, f"{name.removesuffix('.py')}:{function}")


@pytest.mark.exhaustive
@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_runs_as_it_stands(here, line):
    for name in FUNCTIONS:
        write(here, name, FILES[name])
    fednas, *args = shlex.split(line)
    assert fednas == "fednas"
    assert main([*args, *TINY]) == 0
    out = Path(args[args.index("--out") + 1])
    config, result = (json.loads((out / name).read_text()) for name in ("config.json", "result.json"))
    assert len(result["models"]) == 1
    text = json.dumps(config)
    assert re.search(r'"(my_\w+|optax):', text)


def test_a_function_can_be_registered_under_a_name(here):
    write(here, "my_policy.py", FILES["my_policy.py"])
    sys.path.insert(0, str(here))
    try:
        exec(compile(FILES["register.py"], "register.py", "exec"), {})
        use("policy", "within(margin=0.3)")
    finally:
        POLICIES._homes.pop("within", None)


@pytest.mark.parametrize("row", ROWS, ids=[row[1][:40] for row in ROWS])
def test_a_change_of_the_pages_files_is_answered_as_the_page_says(here, row):
    before, after, message = row
    name = file_of(row)
    kind, function = FUNCTIONS[name]
    assert FILES[name].count(before) == 1
    write(here, name, FILES[name].replace(before, after, 1))
    with pytest.raises(FednasError) as caught:
        use(kind, f"{name.removesuffix('.py')}:{function}")
    assert str(caught.value) == message

"""docs/sweeps.md: its files are written and read as sweeps, its commands are taken, its table is the table."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from stub_trials import StubPool

from fednas_jax.cli import sweep as command
from fednas_jax.cli.parsing import parse
from fednas_jax.sweep import running, sources
from fednas_jax.sweep.planning import plan
from fednas_jax.sweep.table import RESULTS

PAGE = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL)
FILES = {
    re.search(r"# (\w+\.(?:py|toml|sh))", text)[1]: text for kind, text in BLOCKS if re.search(r"# \w+\.\w+", text)
}
COMMANDS = sorted({line for _, text in BLOCKS for line in re.findall(r"fednas (sweep .*)$", text, re.M)})
VARIABLES = {"$SLURM_ARRAY_TASK_ID": "3", "$SLURM_ARRAY_TASK_COUNT": "8"}


@pytest.mark.parametrize(("name", "number"), [("sweep.toml", 24), ("rates.py", 24), ("compare.py", 4)])
def test_its_files_are_sweeps(tmp_path, name, number):
    (tmp_path / name).write_text(FILES[name])
    source = sources.read(tmp_path / name)
    assert len(plan(source.base, source.trials).trials) == number


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_are_taken(line):
    for name, value in VARIABLES.items():
        line = line.replace(name, value)
    if line.count('"') % 2:  # of the line that it stands in
        line = line.removesuffix('"')
    parsed = parse(command.SweepArgs, shlex.split(line)[1:], "fednas sweep")
    index, count = command._part(parsed.part)
    assert parsed.file.name in FILES
    assert index < count


def test_its_scripts_are_of_the_shell():
    scripts = [text for name, text in FILES.items() if name.endswith(".sh")]
    assert len(scripts) == 4
    for text in scripts:
        assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_every_column_of_the_table_is_told():
    told = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]*) \|", PAGE, re.M)))
    assert set(RESULTS.names) <= set(told)


def test_its_look_at_the_table_works_on_the_table(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(running, "_pool", lambda *of_sweep: StubPool())
    (tmp_path / "sweep.toml").write_text(FILES["sweep.toml"])
    source = sources.read(tmp_path / "sweep.toml")
    running.run_sweep(source.trials, tmp_path / "sweeps" / "first", source.base)
    monkeypatch.chdir(tmp_path)
    exec(compile(FILES["look.py"], "look.py", "exec"), {})
    assert "accuracy_50" in capsys.readouterr().out

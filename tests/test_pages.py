"""Every code block of README and docs/ is taken or run; pages with a test of their own are run whole there."""

import dataclasses
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import fednas_jax as fn
from fednas_jax.cli import parsing
from fednas_jax.cli.app import main

HOME = Path(__file__).parents[1]
PAGES = {page.name: page.read_text() for page in (HOME / "README.md", *sorted((HOME / "docs").glob("*.md")))}
# Their files are written and their commands run by tests of their own.
RUN_ELSEWHERE = {"extend.md", "sweeps.md", "your_network.md"}
SMALL = {
    "data.clients": 8,
    "pretrain.rounds": 1,
    "finetune.rounds": 1,
    "search.max_iterations": 1,
    "search.groups": 2,
    "search.score_clients": 2,
    "train.batch_size": 100,
    "engine.lanes": 1,
}


def blocks(page: str) -> list[tuple[str, str]]:
    """Kind and text of each code block."""
    return re.findall(r"```(\w+)\n(.*?)```", PAGES[page], re.DOTALL)


def commands() -> list[str]:
    """Lines of the shell's blocks that begin with fednas or python, without comments and what follows `&&`."""
    lines = [line for page in PAGES for kind, text in blocks(page) if kind == "sh" for line in text.splitlines()]
    lines = [part.strip() for line in lines for part in line.split("&&")]
    found = [line for line in lines if re.match(r"(srun )?(fednas|python) ", line) and "$" not in line]
    found = [line.removeprefix("srun ") for line in found if "{" not in line and line.count('"') % 2 == 0]
    return sorted(set(found))


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_are_there(page):
    there = {path.name for folder in ("fednas_jax", "tests", "experiments") for path in (HOME / folder).rglob("*.py")}
    shown = set(re.findall(r"^# (\w+\.py)", PAGES[page], re.M))  # the user's own
    named = set(re.findall(r"`(?:[\w/]*/)?(\w+\.py)`", PAGES[page])) - shown
    assert not {name for name in named - there if not name.startswith(("my_", "mine"))}


class Accepted(BaseException):  # the command line takes other exceptions for bugs
    """The options were parsed."""


OF_A_RUN = ("fednas reprice ", "fednas report ", "fednas replay ")  # read the run's folder first


@pytest.mark.parametrize("line", [c for c in commands() if c.startswith("fednas") and not c.startswith(OF_A_RUN)])
def test_commands_that_the_pages_show_are_taken(line, monkeypatch):
    real = parsing.tyro.cli

    def parsed(*args, **more):
        real(*args, **more)
        raise Accepted

    monkeypatch.setattr(parsing.tyro, "cli", parsed)
    words = shlex.split(line, comments=True)[1:]
    if words in (["--help"], ["-h"]):
        assert main(words) == 0
        return
    with pytest.raises(Accepted):
        main(words)


@pytest.mark.parametrize("line", [line for line in commands() if line.startswith("python")])
def test_scripts_that_the_pages_show_are_there_with_their_options(line):
    _, script, *options = shlex.split(line, comments=True)
    if script == "-m":
        module, *options = options
        script = f"{module.replace('.', '/')}.py"
    text = (HOME / script).read_text()
    for option in (word.split("=")[0] for word in options):
        if option.startswith("--"):
            assert option in text or option.lstrip("-").replace("-", "_") in text, option


def small(config: fn.Config) -> fn.Config:
    """The config with few clients and rounds."""
    return fn.override(config, SMALL)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A folder in which the pages were followed: runs/digits and runs/curves are there."""
    home = tmp_path_factory.mktemp("read")
    fn.run_search(small(fn.preset("digits")), home / "runs" / "digits")
    fn.write_report(home / "runs" / "digits")
    curves = fn.override(small(fn.preset("digits")), {"method": "naive", "search.policy": "none(score_every=1)"})
    curves = fn.override(curves, {"search.settle_rounds": 3})
    fn.run_search(fn.with_method(curves), home / "runs" / "curves")
    return home


@pytest.fixture
def reader(read, monkeypatch):
    """A reader in that folder, whose presets are small and whose imports are forgotten."""
    real, before = fn.preset, set(sys.modules)
    monkeypatch.setattr(fn, "preset", lambda name: small(real(name)), raising=False)
    monkeypatch.setattr(sys, "path", [str(read), *sys.path])
    monkeypatch.chdir(read)
    yield read
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "line", [c for c in commands() if c.startswith(OF_A_RUN) and not re.search("sweeps/|runs/[abc]", c)]
)
def test_commands_of_a_finished_run_do_what_they_say(line, reader):
    assert main(shlex.split(line, comments=True)[1:]) == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("page", sorted(set(PAGES) - RUN_ELSEWHERE - {"tutorial.md"}))
def test_python_that_the_pages_show_runs(page, reader):
    x, y = np.random.default_rng(0).integers(0, 256, (400, 8, 8, 1), np.uint8), np.arange(400) % 10
    names = {"fn": fn, "Path": Path, "x": x, "y": y, "client_ids": np.arange(400) % 4}
    names["config"] = fn.override(fn.preset("digits"), {"data.partition": "natural", "data.clients": 0})
    for kind, text in blocks(page):
        if kind == "python":
            # A small run has one iteration.
            exec(compile(text.replace("iteration=5", "iteration=1"), page, "exec"), names)


@pytest.mark.exhaustive
def test_the_tutorial_can_be_followed(reader, tmp_path, monkeypatch):
    """Every file is written, every command run with few rounds, every block of Python run, in the page's order."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    options = {f"--{name.replace('_', '-')}": str(value) for name, value in SMALL.items()}
    for kind, text in blocks("tutorial.md"):
        name = re.match(r"# (\w+\.\w+)\n", text)
        if name:
            shown = text.replace('preset = "digits"', 'preset = "digits"\n[fields]\n' + toml(), 1)
            (tmp_path / name[1]).write_text(shown)
        if kind == "python":
            exec(compile(text, "tutorial.md", "exec"), names)
        for line in text.splitlines() if kind == "sh" else ():
            words = shlex.split(line)[1:]
            if words[0] == "search":
                given = {word for word in words if word.startswith("--")}
                skipped = {"--data.clients"} if "--data.partition" in given else set()
                words += [w for o, v in options.items() if o not in given | skipped for w in (o, v)]
            assert main(words) == 0, line
    assert names["model"].widths


def toml() -> str:
    """`SMALL` as lines of a sweep's file."""
    return "\n".join(f"{name} = {value}" for name, value in SMALL.items())


def test_the_api_page_has_every_public_name():
    found = re.findall(r"^\.\. auto\w+:: (\w+)|^\| `(\w+)` \|", PAGES["api.md"], re.MULTILINE)
    assert sorted(a or b for a, b in found) == sorted(fn.__all__)


@pytest.mark.parametrize("page", sorted(PAGES))
def test_files_and_names_that_a_page_tells_of_are_there(page):
    told = " ".join(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)))
    files = re.findall(r"\b(?:tests|experiments|fednas_jax|docs)/[\w/]+\.\w+", told)
    assert [file for file in files if not (HOME / file).is_file()] == []
    assert [name for name in re.findall(r"\bfn\.(\w+)", told) if not hasattr(fn, name)] == []


def test_no_line_is_a_comment_of_the_site_s():
    """MyST leaves out what begins with '%', such as a percentage that a line was wrapped before."""
    text = {page: re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE) for page, text in PAGES.items()}
    assert {page: found for page in text if (found := re.findall(r"^\s*%.*", text[page], re.MULTILINE))} == {}


def test_the_site_leads_to_every_page():
    toctree = set(re.findall(r"^(\w+)$", PAGES["index.md"], re.MULTILINE))
    pages = {page.stem for page in (HOME / "docs").iterdir() if page.suffix in (".md", ".ipynb")}
    assert toctree == pages - {"index"}


def test_records_of_the_api_page_have_docstrings():
    for name in fn.__all__:
        thing = getattr(fn, name)
        if callable(thing):
            assert (thing.__doc__ or "").strip(), name
        if dataclasses.is_dataclass(thing):
            assert not thing.__doc__.startswith(f"{name}("), name

"""A stranger's run can be opened, compared, priced again and reported: nothing harms, nothing ends in a traceback.

Each case is a finished run with one or two of its files changed: values, bytes, missing files, links, devices.
"""

import json
import os
import random
import shutil
import signal

import pytest
from scripts_of_pages import check_page

from fednas_jax.cli.app import main

HOSTILE = (
    "<script>alert(1)</script>",
    "[bold]x[/foo] [link=file:///etc]y[/link]",
    "\x1b[2J\x1b[31mred\x07\x9b0m",
    "$\\frac{1}$ $x_{$",
    "_hidden",
    "../../outside/evil",
    "a\x00b\u202egnp\u2028",
    "\ud800",
    "{{ 7 * 7 }}{% for x in y %}",
    "x" * 100_000,
    "-->]]><!--",
    "</script><script>alert(1)</script>\u2028",
    "' onload=alert(1) x=\"",
)
VALUES = (None, True, -1, 0, 0.5, 1e308, -1e308, 10**400, 2**63, 1e-320, "", "12", [], {}, [[]], {"": None}, *HOSTILE)
RAW = ("NaN", "Infinity", "-Infinity", "[" * 3000 + "]" * 3000, "1e999", '{"a":1,"a":2}', "9" * 5000)
BYTES = ("flip", "cut", "empty", "noise", "text", "null")
PLACES = ("gone", "folder", "link", "loop", "pipe", "endless")


def leaves(value, path=()):
    """Paths of all values inside a JSON value, inner objects too."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, inner in items:
        yield (*path, name)
        yield from leaves(inner, (*path, name))


def change(value, draw):
    """One value somewhere replaced by a hostile one, or taken out, or every text replaced; the text of the JSON."""
    kind = draw.choice(("value", "value", "value", "raw", "missing", "texts", "names"))
    if kind == "texts":
        return json.dumps(texts(value, draw.choice(HOSTILE)))
    if kind == "names":
        return json.dumps(names(value, draw.choice(HOSTILE)))
    path = draw.choice(list(leaves(value)))
    inside = value
    for name in path[:-1]:
        inside = inside[name]
    if kind == "missing":
        del inside[path[-1]]
    else:
        inside[path[-1]] = "@@" if kind == "raw" else draw.choice(VALUES)
    return json.dumps(value).replace('"@@"', draw.choice(RAW))


def texts(value, hostile):
    if isinstance(value, dict):
        return {name: texts(inner, hostile) for name, inner in value.items()}
    if isinstance(value, list):
        return [texts(inner, hostile) for inner in value]
    return hostile if isinstance(value, str) else value


def names(value, hostile):
    """Every width group by another name."""
    if isinstance(value, dict):
        inner = {name: names(v, hostile) for name, v in value.items()}
        return {f"{hostile}{n}": v for n, v in enumerate(inner.values())} if "conv1" in inner else inner
    return [names(v, hostile) for v in value] if isinstance(value, list) else value


def damage(path, draw):
    """Bytes of a file changed."""
    data, kind = bytearray(path.read_bytes()), draw.choice(BYTES)
    middle = draw.randrange(max(1, len(data)))
    if kind == "flip":
        for at in range(middle, min(middle + 16, len(data))):
            data[at] ^= draw.randrange(1, 256)
    elif kind == "cut":
        del data[middle:]
    elif kind == "noise":
        data[middle : middle + 400] = draw.randbytes(400)
    elif kind == "text":
        data[middle:middle] = draw.choice(HOSTILE).encode("utf-8", "surrogatepass")
    else:
        data = bytearray() if kind == "empty" else bytearray(len(data))
    path.write_bytes(data)


def replace(path, draw, outside):
    """Something else where a file was."""
    kind = draw.choice(PLACES)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(outside / "victim.txt")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")


def plant(run, draw, outside):
    """A link where fednas writes."""
    written = ("report.html", "figures", "figures/front.svg", "reprice", "reprice/flash.json", "tiers.json")
    path = run / draw.choice((*written, ".report.html.tmp", ".tiers.json.tmp"))
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / ("folder" if path.suffix == "" else "victim.txt"))


def make_hostile(run, seed, outside):
    """Changes a run's folder; the same seed changes the same."""
    draw = random.Random(seed)
    result = run / "result.json"
    for _ in range(draw.choice((1, 1, 2))):
        files = sorted(p for p in run.rglob("*") if p.is_file() and p.suffix in (".json", ".jsonl", ".parquet", ".csv"))
        # Each kind of file as often as another, and result.json, which everybody reads, more often.
        kinds = sorted({f"{p.parent.name if p.suffix == '.parquet' else p.name}" for p in files})
        kind = draw.choice([*kinds, "result.json"])
        path = draw.choice([p for p in files if kind in (p.name, p.parent.name)] or [result])
        how = draw.choice(("values", "values", "values", "bytes", "place", "plant"))
        if how == "plant":
            plant(run, draw, outside)
        elif not path.is_file():
            continue
        elif how == "place":
            replace(path, draw, outside)
        elif how == "values" and path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            at = draw.randrange(len(lines))
            try:
                lines[at] = change(json.loads(lines[at]), draw)
            except (ValueError, RecursionError):  # changed before
                continue
            path.write_text("\n".join(lines) + "\n", "utf-8", "surrogatepass")
        else:
            damage(path, draw)


def snapshot(folder):
    """All that lies in a folder."""
    return {p.relative_to(folder): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def answered(args, capsys):
    """Runs a command: it succeeds, or says why not in one line; all that it prints is text. The exit code."""
    signal.alarm(60)  # a pipe or a device without end must not be waited for
    try:
        code = main([str(arg) for arg in args])
    finally:
        signal.alarm(0)
    out, err = capsys.readouterr()
    assert code in (0, 2), args
    assert (err.count("\n"), err.startswith("fednas: ")) == ((1, True) if code else (0, False)), err
    assert all(line.isprintable() for line in (out + err).splitlines()), (out, err)
    return code


def attack(seed, finished_run, unsealed_run, tmp_path, capsys):
    """Every command on one hostile run."""
    run, outside = tmp_path / "run", tmp_path / "outside"
    # Every sixth with the checksums as they were, which find most of it; the others without.
    source = unsealed_run if seed % 6 else finished_run
    shutil.copytree(source, run, ignore=shutil.ignore_patterns("checkpoints"))
    outside.mkdir()
    (outside / "folder").mkdir()
    (outside / "victim.txt").write_text("precious")
    shutil.copy(finished_run.parent / "classes.json", tmp_path / "classes.json")
    make_hostile(run, seed, outside)
    before = snapshot(outside)
    answered(["report", run, "--no-pdf"], capsys)
    answered(["compare", run, finished_run], capsys)
    answered(["reprice", run], capsys)
    answered(["reprice", run, "--population", "flash"], capsys)
    answered(["tiers", run, tmp_path / "classes.json"], capsys)
    assert snapshot(outside) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.json", "outside", "run"]
    for page in (run / "report.html", *run.glob("figures/*.svg")):
        if page.is_file() and not page.is_symlink():
            check_page(page.read_text())


# Twelve in the gate; ten times as many where FEDNAS_FAULTS=10.
STRANGERS = 12 * int(os.environ.get("FEDNAS_FAULTS", "1"))


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=pytest.mark.exhaustive if n >= 4 else ()) for n in range(STRANGERS)]
)
def test_a_stranger_s_run_is_shown_or_refused_in_one_line(seed, finished_run, unsealed_run, tmp_path, capsys):
    attack(seed, finished_run, unsealed_run, tmp_path, capsys)

"""Events are read on while they are written: each once, whatever happens to the file meanwhile."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednas_jax.errors import RunError
from fednas_jax.run import following, records
from fednas_jax.run.following import Place, read_on


def line(n, **more):
    return (json.dumps({"event": "warning", "message": str(n), **more}) + "\n").encode()


def numbers(told):
    return [int(event["message"]) for event in told.events]


def test_half_a_line_is_read_when_it_is_whole(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_bytes(line(1) + line(2)[:9])
    first = read_on(file, Place())
    assert numbers(first) == [1]
    assert read_on(file, first.place).events == ()
    file.write_bytes(line(1) + line(2))
    second = read_on(file, first.place)
    assert (numbers(second), second.anew, second.damaged) == ([2], False, ())


def test_a_file_that_was_cut_is_read_anew_even_where_it_is_longer_by_now(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"".join(map(line, range(5))))
    place = read_on(file, Place()).place
    os.truncate(file, 2 * len(line(0)))
    cut = read_on(file, place)
    assert (numbers(cut), cut.anew) == ([0, 1], True)
    with file.open("ab") as more:
        more.write(b"".join(map(line, range(7, 19))))
    grown = read_on(file, place)
    assert (numbers(grown), grown.anew) == ([0, 1, *range(7, 19)], True)


def test_a_file_that_vanished_or_was_replaced_begins_anew(tmp_path):
    file = tmp_path / "events.jsonl"
    assert read_on(file, Place()) == (Place(), (), False, (), False)
    file.write_bytes(line(1))
    place = read_on(file, Place()).place
    file.unlink()
    gone = read_on(file, place)
    assert (gone.place.offset, gone.events, gone.anew) == (0, (), True)
    file.write_bytes(line(3))
    assert numbers(read_on(file, gone.place)) == [3]
    (tmp_path / "other").write_bytes(line(3) + line(4))
    before = read_on(file, gone.place).place
    (tmp_path / "other").replace(file)
    after = read_on(file, before)
    assert (numbers(after), after.anew) == ([3, 4], True)
    assert read_on(file / "below", Place()).events == ()


def test_lines_that_are_no_events_are_said_and_passed_over(tmp_path, monkeypatch):
    file = tmp_path / "events.jsonl"
    file.write_bytes(line(1) + b"{]\n" + b'{"event": 3}\n' + line(4))
    told = read_on(file, Place())
    assert numbers(told) == [1, 4]
    assert [said.split(": ")[1] for said in told.damaged] == ["line 2", "line 3"]
    monkeypatch.setattr(records, "MOST_LINE", 50)
    file.write_bytes(line(1) + b"x" * 60)
    first = read_on(file, Place())
    assert numbers(first) == [1]
    second = read_on(file, first.place)
    assert second.damaged == (f"{file}: line 2: too long",)
    with file.open("ab") as more:
        more.write(b"\n" + line(2))
    assert numbers(read_on(file, second.place)) == [2]


def test_what_is_there_but_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "events.jsonl").mkdir()
    with pytest.raises(RunError, match="got no plain file"):
        read_on(tmp_path / "events.jsonl", Place())


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(1, 60)),
            st.tuples(st.just("cut"), st.floats(0, 1)),
            st.tuples(st.just("read"), st.just(0)),
        ),
        max_size=30,
    ),
    st.sampled_from([1 << 25, 100]),
)
def test_what_was_read_is_what_stands_in_the_file_whatever_was_done_to_it(steps, at_once):
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context():
        import tempfile
        from pathlib import Path

        patch.setattr(following, "MOST_AT_ONCE", at_once)
        with tempfile.TemporaryDirectory() as folder:
            file, written, count = Path(folder) / "events.jsonl", b"", 0
            pending, place, known = b"", Place(), []
            for what, how in [*steps, ("read", 0)]:
                if what == "write":
                    while len(pending) < how:
                        pending, count = pending + line(count), count + 1
                    written, pending = written + pending[:how], pending[how:]
                elif what == "cut":  # as a resume does: at the end of a line, then another event
                    keep = int(how * len(written))
                    written = written[: written.rfind(b"\n", 0, keep) + 1]
                    pending, count = line(count, cut=True), count + 1
                else:
                    more = True
                    while more:
                        told = read_on(file, place)
                        known = [*([] if told.anew else known), *numbers(told)]
                        assert not told.damaged
                        place, more = told.place, told.more
                    whole = written[: written.rfind(b"\n") + 1]
                    assert known == [int(json.loads(text)["message"]) for text in whole.splitlines()]
                with file.open("r+b" if file.exists() else "wb") as out:
                    out.truncate(len(written))
                    out.write(written)


WRITER = """
import json, sys, time
with open(sys.argv[1], "ab", buffering=0) as file:
    for n in range(300):
        text = (json.dumps({"event": "warning", "message": str(n)}) + "\\n").encode()
        file.write(text[:7])
        file.write(text[7:])
        if n % 50 == 0:
            time.sleep(0.01)
"""


def test_another_process_that_writes_meanwhile_is_read_once_and_in_order(tmp_path):
    file = tmp_path / "events.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(file)])
    place, known, ended = Place(), [], False
    while not ended:
        ended = writer.poll() is not None
        told = read_on(file, place)
        assert not told.anew
        assert not told.damaged
        place, known = told.place, [*known, *numbers(told)]
    assert writer.returncode == 0
    assert known == list(range(300))

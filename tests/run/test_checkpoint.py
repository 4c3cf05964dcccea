"""A checkpoint proves itself: whatever byte of it changes is noticed, and the one before it is taken."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fednas_jax.errors import RunError
from fednas_jax.run import checkpoint
from fednas_jax.run.checkpoint import Checkpoints, Saved

ARRAYS = {
    "stack.params['conv/kernel']": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "kept[0]": np.array([True, False, True]),
    "kept[1]": np.zeros(0, bool),  # of a group that a removed block left without channels
    "server": np.float32(3.5),
    "pending": np.frombuffer(b"rows", np.uint8),
}
RECORD = {"round": 3, "family": [[0, [1, 2], [1, 2], 0.1 + 0.2]], "source": None}


def believe(saved):
    """Nothing else is to be verified."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "00000007.safetensors"
    checkpoint.write(path, ARRAYS, RECORD)
    return path.read_bytes()


def test_what_is_saved_comes_back_to_the_last_bit(whole, tmp_path):
    path = tmp_path / "00000007.safetensors"
    path.write_bytes(whole)
    saved = checkpoint.read(path)
    assert saved.step == 7
    assert saved.record == RECORD
    assert saved.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert (saved.arrays[name].dtype, saved.arrays[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(saved.arrays[name], array)


@given(where=st.floats(0, 1, exclude_max=True), change=st.integers(1, 255))
def test_any_byte_that_changed_is_noticed(whole, tmp_path_factory, where, change):
    damaged = bytearray(whole)
    damaged[int(where * len(damaged))] ^= change
    path = tmp_path_factory.getbasetemp() / "00000001.safetensors"
    path.write_bytes(damaged)
    try:
        saved = checkpoint.read(path)
    except RunError:
        return
    # Blanks after the header may change without changing what it says.
    assert saved.record == RECORD
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(saved.arrays[name], array)


@given(length=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=40))
def test_a_file_that_was_cut_or_goes_on_otherwise_is_noticed(whole, tmp_path_factory, length, tail):
    damaged = whole[: int(length * len(whole))] + tail
    if damaged == whole:
        return
    path = tmp_path_factory.getbasetemp() / "00000001.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(RunError, match="damaged"):
        checkpoint.read(path)


def test_arrays_that_were_exchanged_are_noticed(tmp_path):
    """Both are intact by themselves, and of one shape."""
    first, second = (np.full(100, value, np.float32) for value in (1, 2))
    path = tmp_path / "00000001.safetensors"
    checkpoint.write(path, {"a": first, "b": second}, {})
    data = path.read_bytes()
    path.write_bytes(data.replace(first.tobytes(), b"?" * 400).replace(second.tobytes(), first.tobytes()))
    with pytest.raises(RunError, match="is not what was written"):
        checkpoint.read(path)


def test_a_checkpoint_of_another_version_says_so(tmp_path, monkeypatch):
    path = tmp_path / "00000001.safetensors"
    monkeypatch.setattr(checkpoint, "SCHEMA", 1)
    checkpoint.write(path, {}, {})
    monkeypatch.undo()
    with pytest.raises(RunError, match="is of schema 1, want 3"):
        checkpoint.read(path)


def saved_steps(folder):
    return sorted(int(path.name[:8]) for path in folder.iterdir())


def test_the_newest_stay_and_so_do_the_last_ends(tmp_path):
    found = Checkpoints(tmp_path / "checkpoints")
    for step in range(12):
        found.save(step, ARRAYS, {"step": step}, marked=step in (1, 4, 6))
    found.close()
    assert saved_steps(tmp_path / "checkpoints") == [4, 6, 9, 10, 11]
    assert found.newest(believe)[0].record == {"step": 11}


def test_the_step_after_one_that_is_still_being_written_is_known(tmp_path):
    found = Checkpoints(tmp_path / "checkpoints")
    assert found.next_step() == 0
    found.save(0, ARRAYS, {})
    assert found.next_step() == 1
    found.close()
    assert Checkpoints(tmp_path / "checkpoints").next_step() == 1


def test_what_cannot_be_believed_falls_back_to_the_one_before(tmp_path):
    folder = tmp_path / "checkpoints"
    found = Checkpoints(folder)
    for step in range(3):
        found.save(step, ARRAYS, {"step": step})
    found.close()
    newest = folder / "00000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])

    def doubt(saved: Saved):
        if saved.step == 1:
            raise RunError("a file it lists is gone")

    saved, refused = found.newest(doubt)
    assert saved.step == 0
    assert [r.step for r in refused] == [2, 1]
    assert "damaged" in refused[0].reason
    assert refused[1].reason == "a file it lists is gone"
    found.discard([r.step for r in refused])
    assert saved_steps(folder) == [0]


def test_where_none_can_be_believed_there_is_none(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for name in ("00000000.safetensors", "00000001-end.safetensors"):
        (folder / name).write_bytes(b"")
    (folder / "notes.txt").write_text("not a checkpoint")
    saved, refused = Checkpoints(folder).newest(believe)
    assert saved is None
    assert len(refused) == 2
    assert Checkpoints(folder).begun()


def test_a_disk_that_cannot_be_written_is_said_at_the_next_save(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder should be")
    found = Checkpoints(tmp_path / "checkpoints")
    found.save(0, ARRAYS, RECORD)
    with pytest.raises(OSError, match="checkpoints"):
        found.save(1, ARRAYS, RECORD)
    found.close()


def test_nothing_that_is_no_number_gets_into_a_record(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        checkpoint.write(tmp_path / "00000000.safetensors", {}, {"score": float("nan")})
    assert not any(tmp_path.iterdir())


def test_a_header_that_promises_gigabytes_is_refused(tmp_path):
    path = tmp_path / "00000000.safetensors"
    path.write_bytes((1 << 60).to_bytes(8, "little") + json.dumps({}).encode())
    with pytest.raises(RunError, match="has no header"):
        checkpoint.read(path)

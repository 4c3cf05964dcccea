"""TensorBoard's events of a run, read back."""

import struct

import pytest

from fednas_jax.cli.app import main
from fednas_jax.report import tensorboard
from fednas_jax.run.finished import load_run

pytest.importorskip("tensorboardX")


def events(folder):
    """The events of a folder's one file: length, its checksum, the event, its checksum, and so on."""
    from tensorboardX.proto import event_pb2

    (path,) = folder.glob("events.out.tfevents.*")
    data, at = path.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        yield event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length


def test_scalars_and_hparams_are_those_of_the_run(finished_run, tmp_path):
    for _ in range(2):  # the second replaces the first
        tensorboard.write(finished_run, tmp_path / "tb")
    (folder,) = (tmp_path / "tb").iterdir()
    found = list(events(folder))
    values = {}
    plugins = set()
    for event in found:
        for value in event.summary.value:
            values.setdefault(value.tag, []).append((event.step, value.simple_value))
            plugins.add(value.metadata.plugin_data.plugin_name)
    result = load_run(finished_run).result
    networks = [result["parent"], *result["models"]]
    assert [step for step, _ in values["family/macs"]] == [m["iteration"] for m in networks]
    assert [value for _, value in values["family/score"]] == pytest.approx([m["score"] for m in networks])
    cost = result["client_cost"]["search"]["seconds"]["mean"]
    assert values["hparam/search_seconds"] == [(0, pytest.approx(cost))]
    assert any(tag.startswith("score/") for tag in values)
    assert "hparams" in plugins


def test_without_the_library_it_is_one_line(finished_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tensorboardX", None)
    assert main(["report", str(finished_run), "--tensorboard", str(tmp_path)]) == 2
    assert "pip install 'fednas-jax[tensorboard]'" in capsys.readouterr().err

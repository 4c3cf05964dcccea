"""A finished run as TensorBoard's events: scalars by simulated time, and hparams (extra `tensorboard`)."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from fednas_jax.config.files import to_json
from fednas_jax.errors import RunError
from fednas_jax.report.draw import plain
from fednas_jax.run.finished import Run, load_run, members
from fednas_jax.sweep.planning import leaves

_STAGES = ("pretrain", "search", "finetune")


def check() -> None:
    """Sees whether the library is there.

    Raises:
      RunError: it is not.
    """
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        want = "want it installed: pip install 'fednas-jax[tensorboard]'"
        raise RunError(f"--tensorboard: got no tensorboardX, {want}") from None


def write(path: Path, out: Path) -> Path:
    """Writes a run's events into a folder of OUT that is named after the run, method and seed.

    Steps are rounds; the wall time of an event is the simulated clock, so that both of TensorBoard's axes mean
    something: `score/CANDIDATE` (validation, of every candidate), `client_seconds/STAGE` and `alive` by round,
    `family/*` by iteration, and hparams: the config's fields, with the smallest tested network's accuracy and the
    client seconds as metrics.

    Args:
      path: the run's folder.
      out: where TensorBoard looks (`tensorboard --logdir OUT`).

    Returns:
      The folder of the run.

    Raises:
      RunError: as `load_run`, or it cannot be written.
    """
    check()
    import tensorboardX

    run = load_run(path)
    mark = hashlib.sha256(str(run.path.resolve()).encode()).hexdigest()[:6]
    folder = out / re.sub(r"[^\w.-]+", "-", f"{run.path.resolve().name}-{run.result['method']}-{mark}")[:100].strip(".")
    try:
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        with tensorboardX.SummaryWriter(str(folder)) as writer:
            _rounds(run, writer)
            _family(run, writer)
            _hparams(run, writer)
    except OSError as error:
        raise RunError(f"--tensorboard: {folder} cannot be written: {error.strerror or error}") from None
    return folder


def _rounds(run: Run, writer: Any) -> None:
    clock, steps = 0.0, dict.fromkeys(_STAGES, 0)
    for event in run.events():
        clock += event.get("simulated_seconds", 0.0)
        if event["event"] != "round":
            continue
        stage = event.get("stage", "pretrain")
        steps[stage] += 1
        step = steps[stage]
        writer.add_scalar(f"client_seconds/{stage}", event.get("client_seconds", 0.0), step, clock)
        for name, score in event.get("scores", {}).items():
            writer.add_scalar(f"score/{_tag(name)}", score, step, clock)
        if "alive" in event:
            writer.add_scalar("alive", event["alive"], step, clock)


def _family(run: Run, writer: Any) -> None:
    for m in members(run.result):
        at = 3600.0 * m.get("simulated_hours", 0.0)
        for name in ("macs", "params", "score", "test_accuracy", "client_seconds"):
            if m[name] is not None:
                writer.add_scalar(f"family/{name}", m[name], m["iteration"], at)


def _hparams(run: Run, writer: Any) -> None:
    fields = {name: value if isinstance(value, (int, float, bool)) else plain(str(value), 200)
              for name, value in leaves(to_json(run.config)).items()}  # fmt: skip
    tested = [m for m in members(run.result) if m["test_accuracy"] is not None]
    cost = run.result["client_cost"]
    metrics = {
        "hparam/search_seconds": cost["search"]["seconds"]["mean"],
        "hparam/all_seconds": cost["all"]["seconds"]["mean"],
        "hparam/share_of_macs": members(run.result)[-1]["macs"] / run.result["parent"]["macs"],
    }
    if tested:
        metrics["hparam/test_accuracy"] = tested[-1]["test_accuracy"]
    from tensorboardX.summary import hparams

    # `add_hparams` would make a run of its own below this one.
    for summary in hparams(fields, metrics):
        writer.file_writer.add_summary(summary)
    for name, value in metrics.items():
        writer.add_scalar(name, value, 0)


def _tag(name: str) -> str:
    return re.sub(r"[^\w./-]+", "_", plain(name, 80))

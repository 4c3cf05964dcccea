"""Shows a run's events while it goes: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fednas_jax.report import draw

PLAIN_EVERY = 10  # rounds of pretraining or fine-tuning between plain lines


class Display:
    """Takes events one by one (`observe`); use it as a context.

    It shows stage, iteration, rung, round, candidates alive, best score, the clients' seconds so far and an estimate of
    the time left in the stage.

    Args:
      console: where to show it.
      metric: that scores are of (`search.metric`).
    """

    def __init__(self, console: Console, metric: str = "accuracy"):
        self.console, self.metric = console, metric
        self.client_seconds = 0.0
        self.stage, self.began, self.at_start = "", time.monotonic(), 0.0
        self.best = float("nan")
        self.bar: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), TimeElapsedColumn())
            self.bar = Progress(*columns, console=console, transient=True)
            self.task = self.bar.add_task("loading data, probing the network", total=None)
        self.progress = 0.0

    def __enter__(self) -> Display:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def observe(self, event: dict[str, Any]) -> None:
        """Shows one event."""
        handler = getattr(self, f"_on_{event['event']}", None)
        if handler:
            handler(event)

    def _on_round(self, event: dict[str, Any]) -> None:
        self.client_seconds += event["client_seconds"]
        stage, done, rounds = event["stage"], event["round"], event["rounds"]
        if stage != "search":
            name = stage if stage == "pretrain" else f"finetune, part {event['bucket'] + 1},"
            fraction = done / rounds
            self._enter(name, 0.0)
            line = f"{name} round {done}/{rounds}"
            plain = done % PLAIN_EVERY == 0 or done == rounds
        else:
            self._enter("search", self.progress)
            fraction = self.progress
            scores = event["scores"].values()
            self.best = max(scores, default=self.best)
            line = (
                f"search iteration {event['iteration']}, rung {event['rung']}/{event['rungs']}, round {done}/{rounds}, "
                f"{event['alive']} alive, best {self.best:.3f}"
            )
            plain = False
        self._show(f"{line}, all clients' seconds {self.client_seconds:,.0f}{self._left(fraction)}", fraction, plain)

    def _on_start(self, event: dict[str, Any]) -> None:
        mixes = event["heterogeneity"]
        self._say(
            f"{event['clients']:,} clients with {event['examples']:,} examples "
            f"(label distance {mixes['label_distance']:.2f}, size Gini {mixes['size_gini']:.2f}); {event['network']}, "
            f"{event['macs']:,} MACs, {event['params']:,} parameters; on {event['devices']}"
        )
        self._show("compiling", 0.0, plain=False)

    def _on_load(self, event: dict[str, Any]) -> None:
        self._say(f"the parent comes from {event['path']}; what it cost the clients is not counted here")

    def _on_parent(self, event: dict[str, Any]) -> None:
        self.client_seconds += event["client_seconds"]
        self._say(f"parent: validation {self.metric} {event['score']:.3f} at {event['macs']:,} MACs")

    def _on_select(self, event: dict[str, Any]) -> None:
        self.progress = event["progress"]
        widths = "-".join(map(str, event["widths"]))
        self._say(
            f"iteration {event['iteration']}: {event['winner']} wins, widths {widths}, {event['macs']:,} MACs, "
            f"validation {self.metric} {event['score']:.3f}, all clients' seconds {self.client_seconds:,.0f}"
            f"{self._left(self.progress)}"
        )

    def _on_drop(self, event: dict[str, Any]) -> None:
        if self.bar is None:
            self._say(f"iteration {event['iteration']}: dropped {', '.join(event['candidates'])} early")

    def _on_compact(self, event: dict[str, Any]) -> None:
        self._say(f"iteration {event['iteration']}: sliced to widths {'-'.join(map(str, event['physical_widths']))}")

    def _on_sliced(self, event: dict[str, Any]) -> None:
        self._say(f"candidates are trained sliced, a program for each shape: {event['reason']}")

    def _on_stop(self, event: dict[str, Any]) -> None:
        self._say(f"search over after {event['iteration']} iterations: {event['reason']}")

    def _on_skip(self, event: dict[str, Any]) -> None:
        if event["members"]:
            self._say(f"no fine-tuning of iterations {event['members']}: the search stopped before them")
        for share in event.get("shares", []):
            self._say(f"no fine-tuning within {share:g} of the parent's MACs: the search found no network so small")

    def _on_diverged(self, event: dict[str, Any]) -> None:
        self._say(f"iteration {event['iteration']} diverged in fine-tuning; try a lower train.learning_rate")

    def _on_warning(self, event: dict[str, Any]) -> None:
        self._say(f"warning: {event['message']}")

    def _on_fallback(self, event: dict[str, Any]) -> None:
        self._say(f"checkpoint {event['step']} cannot be believed, the one before it is taken: {event['reason']}")

    def _on_resume(self, event: dict[str, Any]) -> None:
        self.client_seconds, self.progress = event["client_seconds"], event["progress"]
        self._say(f"going on from checkpoint {event['step']}, all clients' seconds {self.client_seconds:,.0f}")

    def _enter(self, stage: str, at: float) -> None:
        if stage != self.stage:
            self.stage, self.began, self.at_start = stage, time.monotonic(), at

    def _left(self, fraction: float) -> str:
        done = fraction - self.at_start
        if done <= 0 or fraction >= 1:
            return ""
        seconds = (time.monotonic() - self.began) * (1 - fraction) / done
        return f", about {seconds / 60:.0f} min left" if seconds >= 90 else f", about {seconds:.0f} s left"

    def _show(self, line: str, fraction: float, plain: bool) -> None:
        if self.bar:
            self.bar.update(self.task, description=draw.plain(line), total=1.0, completed=fraction)
        elif plain:
            draw.say(self.console, line)

    def _say(self, line: str) -> None:
        draw.say(self.console, line)

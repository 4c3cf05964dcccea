"""What `fednas data show` says of a data set, and of its division among clients: tables, and a picture.

Letters: C clients, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from rich.console import Console

from fednas_jax import data
from fednas_jax.config.checks import validate
from fednas_jax.config.schema import Config, DataConfig
from fednas_jax.errors import ConfigError
from fednas_jax.report import draw

_MOST_CLASSES = 30  # that are listed one by one
_LONGEST = 40  # letters of a class's name
_MOST_NUMBERS = 4  # of features that are told
_MOST_COLUMNS = 1000  # clients that a picture has room for


def show(console: Console, config: DataConfig, seed: int, clients: bool, out: Path | None) -> None:
    """Prints what a data set holds, and with `clients` how it is divided; draws the division into `out`.

    Args:
      console: where to print.
      config: the data, as a search takes it.
      seed: of the run: the same seed divides alike here and in a search.
      clients: divide it.
      out: file of the picture, .svg or .png; None draws none.

    Raises:
      FednasError: data that cannot be loaded or divided, or a picture that cannot be drawn.
    """
    validate(Config(data=config, seed=seed))
    if out is not None:
        if not clients:
            raise ConfigError(f"--out: got {out} without --clients, want both: the picture is of clients")
        draw.check_file(out)
    dataset = data.load(config, seed)
    shown = _about(dataset)
    if clients:
        data.check_pixels(config, dataset)
        divided = data.partition(dataset.train.labels, config, seed, dataset.natural)
        labels = np.asarray(dataset.train.labels[divided.rows])
        shown.append(_clients(config, seed, labels, divided.offsets))
        if out is not None:
            draw.save(picture(labels, divided.offsets, dataset.classes, _title(dataset, config)), out)
            shown.append(f"picture: {out}")
    for part in shown:  # last, so that a mistake is answered in one line alone
        if isinstance(part, str):
            draw.say(console, part)
        else:
            console.print(part)


def picture(labels: np.ndarray, offsets: np.ndarray, classes: int, title: str) -> Any:
    """A matplotlib figure of clients from large to small: label mix above, size below.

    Args:
      labels: [N] class numbers, client after client; or [N, T], where -1 is none.
      offsets: [C + 1] where each client's begin, and where the last's end.
      classes: K.
      title: its first line; the second tells the heterogeneity.
    """
    sizes = np.diff(offsets)
    counts = data.label_counts(labels, offsets, classes)
    # Clients as large as each other lie by the label they hold most of, so that blocks can be seen.
    order = np.lexsort((counts.argmax(axis=1), -sizes))
    if len(order) > _MOST_COLUMNS:  # evenly over the ranks
        order = order[np.linspace(0, len(order) - 1, _MOST_COLUMNS).astype(int)]
    span = (0, len(sizes))
    found = data.heterogeneity(labels, offsets)
    figure, (mixes, bars) = plt.subplots(
        2, 1, sharex=True, figsize=(7.5, 5), height_ratios=(3, 1.4), layout="constrained"
    )
    # Of its labels, where every position of an example has one.
    shares = (counts[order] / np.maximum(counts[order].sum(axis=1, keepdims=True), 1)).T
    drawn = mixes.imshow(
        shares, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, extent=(*span, classes, 0)
    )
    figure.colorbar(drawn, ax=mixes, label=f"share of a client's {'labels' if labels.ndim > 1 else 'examples'}")
    ticks = np.arange(0, classes, max(1, -(-classes // 12)))
    mixes.set_yticks(ticks + 0.5, [str(t) for t in ticks])
    mixes.set(ylabel="label", title=f"{draw.label(title)}\n{_heterogeneity(found)}")
    bars.stairs(sizes[order], np.linspace(*span, len(order) + 1), fill=True, color="#4a7fb5")
    bars.set(xlabel=f"{len(sizes):,} clients, from large to small", ylabel="examples", xlim=span, ylim=(0, None))
    return figure


def _some(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{x:.4f}" for x in numbers[:_MOST_NUMBERS]) + ", ..." * (len(numbers) > _MOST_NUMBERS)


def _about(dataset: data.Dataset) -> list[Any]:
    """Tables of what a data set holds."""
    splits = (dataset.train, dataset.test)
    labels = [split.labels.reshape(-1) for split in splits]
    train, test = (np.bincount(some[some >= 0], minlength=dataset.classes) for some in labels)
    pixels = dataset.train.inputs.dtype == np.uint8
    rows = [
        ("training examples", f"{len(dataset.train.labels):,}"),
        ("test examples", f"{len(dataset.test.labels):,}"),
        ("inputs", data.described(dataset)),
        ("classes", f"{dataset.classes:,}"),
        ("training examples of a class", _spread(train)),
    ]
    if dataset.mean:
        rows.append((f"mean of {'pixels, 0 to 1' if pixels else 'features'}", _some(dataset.mean)))
        rows.append(("standard deviation", _some(dataset.std)))
    if dataset.natural is not None:
        rows.append(("clients of its own", f"{len(dataset.natural) - 1:,}"))
    tables = [draw.table(dataset.name, ("", ""), rows)]
    if dataset.classes <= _MOST_CLASSES:
        names = [f" {name[:_LONGEST]}" for name in dataset.class_names] or [""] * dataset.classes
        listed = [(f"{k}{names[k]}", f"{train[k]:,}", f"{test[k]:,}") for k in range(dataset.classes)]
        tables.append(draw.table("Examples by class", ("class", "training", "test"), listed))
    return tables


def _clients(config: DataConfig, seed: int, labels: np.ndarray, offsets: np.ndarray) -> Any:
    """A table of how examples are divided."""
    found = data.heterogeneity(labels, offsets)
    kinds = np.count_nonzero(data.label_counts(labels, offsets), axis=1)
    rows: list[Sequence[str]] = [
        ("clients", f"{len(offsets) - 1:,}"),
        ("examples that they hold", f"{len(labels):,}"),
        ("examples of a client", _spread(np.diff(offsets))),
        ("labels of a client", _spread(kinds)),
        ("label distance, 0 (alike) to 1", f"{found.label_distance:.3f}"),
        ("Gini coefficient of sizes, 0 (equal) to 1", f"{found.size_gini:.3f}"),
    ]
    skew = data.feature_skew(config, len(offsets) - 1, seed)
    if skew is not None and config.brightness_sigma:
        rows.append(("brightness of a client's images", _spread(skew.brightness, ".2f")))
    if skew is not None and config.rotation_degrees:
        rows.append(("rotation of a client's images, degrees", _spread(skew.degrees, ".1f")))
    return draw.table(f"Clients: {config.partition}, seed {seed}", ("", ""), rows)


def _title(dataset: data.Dataset, config: DataConfig) -> str:
    said = {
        "dirichlet": f", alpha {config.alpha:g}",
        "label_dirichlet": f", alpha {config.alpha:g}",
        "shards": f", {config.shards_per_client} each",
        "classes": f", {config.classes_per_client} each",
    }
    return f"{dataset.name}: {config.partition}{said.get(config.partition, '')}"


def _heterogeneity(found: data.Heterogeneity) -> str:
    return f"label distance {found.label_distance:.2f}, Gini coefficient of sizes {found.size_gini:.2f}"


def _spread(values: np.ndarray, form: str = ",.0f") -> str:
    """Least, median and most."""
    named = zip(("min", "median", "max"), (values.min(), np.median(values), values.max()), strict=True)
    return ", ".join(f"{name} {value:{form}}" for name, value in named)

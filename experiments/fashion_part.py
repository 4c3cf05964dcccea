"""A part of Fashion-MNIST's training images as a data source, for machines that cannot train on all of them.

A file of its own, since a run remembers the checksum of its source's file.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import fednas_jax as fn


def images(seed: int, config: fn.DataConfig, examples: int = 7500) -> Any:
    """So many of the training images, drawn once and the same for every seed; the whole test split.

    Args:
      seed: of the run, which the data does not depend on.
      config: whose `root` has the prepared data set.
      examples: at most all.

    Raises:
      FednasError: Fashion-MNIST is not prepared.
    """
    whole = fn.load_data(fn.DataConfig(source="fashion_mnist", root=config.root), seed)
    total = len(whole.train.labels)
    some = np.sort(np.random.default_rng(0).permutation(total)[:examples])
    return fn.from_arrays(
        np.asarray(whole.train.inputs[some]), whole.train.labels[some], test=whole.test, classes=whole.classes
    )

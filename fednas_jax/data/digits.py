"""The data that works offline: scikit-learn's 8x8 digits, with a test split fixed once for all runs."""

from __future__ import annotations

import numpy as np

from fednas_jax.data.examples import Dataset, Examples, dataset
from fednas_jax.data.split import stratified_split
from fednas_jax.seeds import Purpose, generator

TEST_FRACTION = 0.2


def load_digits() -> Dataset:
    """1,797 images of 8x8x1 of ten handwritten digits, a fifth of every class held out as the test split.

    The split takes no seed: which examples are for testing is a property of the data set, so that the test
    accuracies of different runs are comparable. Values 0 to 16 are spread over 0 to 255, each to a value of
    its own.

    Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), the copy in
      scikit-learn.
    """
    # Imported here, since it costs a second that runs on other data need not pay.
    from sklearn import datasets

    raw = datasets.load_digits()
    images = np.rint(raw.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = raw.target.astype(np.int32)
    train, test = stratified_split(labels, TEST_FRACTION, generator(0, Purpose.DIGITS_SPLIT))
    return dataset("digits", Examples(images[train], labels[train]), Examples(images[test], labels[test]), 10)

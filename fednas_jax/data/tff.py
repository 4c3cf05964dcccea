"""Clients of TensorFlow Federated's files, written as columns one by one: images, or sentences to predict word by word.

Where words are counted, the files are read twice. What reads them is in `hdf5` and `sqlite`.
Source: https://www.tensorflow.org/federated/api_docs/python/tff/simulation/datasets, emnist and stackoverflow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fednas_jax.data.columns import ColumnsWriter
from fednas_jax.data.examples import Examples
from fednas_jax.data.options import ImportOptions, Seen, Skipped, refuse
from fednas_jax.data.split import no_split
from fednas_jax.data.vocabulary import BOUNDARY, FIRST, LONGEST, Vocabulary, WordCounts, sentences
from fednas_jax.errors import DataError

IMAGES, LABELS, TOKENS = ("pixels", "image"), ("label",), "tokens"
"""Names of what a client holds; of images and labels the first that is there is taken."""

_SENTENCE_LENGTH = 20  # words, as TensorFlow Federated's tasks take them


class Client(NamedTuple):
    """A client in a file, and which of its n examples are for what."""

    path: Path
    where: str
    """It stands, for messages."""
    name: str
    held: Any
    """What holds its examples; only as long as the next client is not asked for."""
    train: np.ndarray | None
    """Numbers of those for training; None in files for testing."""
    test: np.ndarray
    """Numbers of those for testing."""


class Form(NamedTuple):
    """How a client's examples are read; one of the two."""

    images: Callable[[Client], Examples] | None = None
    """-> its images and labels."""
    words: Callable[[Client], list[list[str]]] | None = None
    """-> its sentences, each as its words."""


def write_clients(
    folder: Path,
    name: str,
    clients: Callable[[], Generator[Client, None, None]],
    form: Form,
    options: ImportOptions,
    seen: Seen,
) -> Skipped:
    """Writes clients as columns.

    Args:
      folder: of the columns; must not exist yet.
      name: of the data set.
      clients: walks over all of them, those for training first, each time alike.
      form: what they hold.
      options: how.
      seen: is told how many examples were read.

    Raises:
      DataError: one line that names the file and the client, or an option that files of this form do not take.
    """
    read, vocabulary = _reader(clients, form, options)
    classes = len(vocabulary) - FIRST if vocabulary else options.classes
    sizes: dict[str, int] = {}
    tested: set[str] = set()  # clients of files for testing
    writing = ColumnsWriter(folder, name, classes, remap=options.remap, vocabulary=vocabulary)
    with writing as writer, contextlib.closing(clients()) as walked:
        for client in walked:
            if client.name in (tested if client.train is None else sizes):
                raise DataError(f"{client.where}: got a client who came before, want every client once")
            examples = read(client)
            seen(len(examples.labels))
            writer.add_test(Examples(*(column[client.test] for column in examples)))
            if client.train is None:
                tested.add(client.name)
                continue
            sizes[client.name] = len(examples.labels)
            writer.add(Examples(*(column[client.train] for column in examples)), np.array([len(client.train)]))
        if sizes and not writer.test_examples and not tested:
            raise no_split(options.test_share, np.array(list(sizes.values())), writer.examples, 0)
        writer.finish()
    return Skipped()


def split_words(line: bytes) -> list[str]:
    """Words of a sentence, which blanks divide."""
    return [word[:LONGEST] for word in line.decode("utf-8", "replace").split()]


def _reader(
    clients: Callable[[], Generator[Client, None, None]], form: Form, options: ImportOptions
) -> tuple[Callable[[Client], Examples], tuple[str, ...]]:
    """How a client is read, and the vocabulary, () of images."""
    if form.images is not None:
        refuse(options, ("length", "vocabulary"), "the files hold images")
        return form.images, ()
    words_of = form.words
    assert words_of is not None, "it is one of the two"
    refuse(options, ("image_size", "classes", "labels", "label_column"), "the files hold sentences")
    counts = WordCounts()
    with contextlib.closing(clients()) as walked:
        for client in walked:
            if client.train is None:
                break
            words = words_of(client)
            for row in client.train:
                counts.add(words[row])
    vocabulary = Vocabulary([BOUNDARY, *counts.most_frequent(options.vocabulary)])
    length = options.length or _SENTENCE_LENGTH
    return lambda client: Examples(*sentences(vocabulary, words_of(client), length)), vocabulary.tokens

"""What LEAF's x and y become: images, characters to predict, tweets or rows of numbers, told by the first user's.

Letters: n examples of a user, T tokens, F features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fednas_jax.data.examples import Examples
from fednas_jax.data.images import Form, form_of, inside, read_images, resized
from fednas_jax.data.labels import HALF_LEVEL, check_range, short
from fednas_jax.data.options import ImportOptions, refuse
from fednas_jax.data.vocabulary import CHARACTERS, Vocabulary, WordCounts, next_tokens, words_of
from fednas_jax.errors import DataError

_OF_IMAGES = ("image_size", "channels", "images")  # options
_TEXT = 4  # the place of a tweet's text in its row of id, date, query, user and text
_TWEET_LENGTH = 25  # words of a tweet, as LEAF takes them


class Held(NamedTuple):
    """What a user holds in a file, n examples, and which of them are for what."""

    file: Path
    user: str
    x: list[Any]
    y: list[Any]
    train: np.ndarray
    """Numbers of those for training."""
    test: np.ndarray
    """Numbers of those for testing."""

    @property
    def where(self) -> str:
        """It stands, for messages."""
        return f"{self.file} user {self.user}"


class Reader(Protocol):
    """Turns a user's x and y into examples."""

    classes: int | None
    """Number of classes that the form has; None takes it from the labels."""
    vocabulary: tuple[str, ...]
    """Of token ids; () for other inputs."""

    def __call__(self, where: str, x: list[Any], y: list[Any]) -> Examples:
        """The examples of a user, in order; label -1 for one that has none. `where` is for messages."""


def reader_of(users: Iterable[Held], options: ImportOptions, threads: Executor) -> Reader | None:
    """How files are read, by what the first user holds; None where nobody holds anything.

    Args:
      users: who have examples; read to the end only where words are counted.
      options: of the import.
      threads: what decodes images.

    Raises:
      DataError: one line that names the file and the user.
    """
    walked = iter(users)
    first = next(walked, None)
    if first is None:
        return None
    if isinstance(first.x[0], str) and isinstance(first.y[0], str):
        refuse(options, (*_OF_IMAGES, "vocabulary", "classes", "labels"), "the files hold characters to predict")
        return Characters(first.x[0], options)
    if isinstance(first.x[0], list) and any(isinstance(field, str) for field in first.x[0]):
        refuse(options, (*_OF_IMAGES, "targets"), "the files hold tweets")
        counts = WordCounts()
        for one in itertools.chain([first], walked):
            for row in one.train:
                counts.add(words_of(_text(one.where, one.x[row])))
        return Tweets(counts, options)
    refuse(options, ("length", "vocabulary", "targets"), "the files hold images")
    return Images(options, threads)


class Images:
    """Pixels from 0 to 1 (femnist), or names of image files (celeba)."""

    classes: int | None = None
    vocabulary: tuple[str, ...] = ()

    def __init__(self, options: ImportOptions, threads: Executor):
        self._options, self._threads = options, threads
        self._form: Form | None = None  # of the very first image

    def __call__(self, where: str, x: list[Any], y: list[Any]) -> Examples:
        """The examples of a user."""
        labels = _labels(where, y, self._options.remap)
        size, channels = self._options.image_size, self._options.channels
        if isinstance(x[0], str):
            paths = _paths(where, x, self._options.images)
            form = self._form = self._form or form_of(paths[0], str(paths[0]), size, channels)
            pixels = read_images(paths, [str(path) for path in paths], form, self._threads)
        else:
            pixels = _pixels(where, x, channels)
            height, width, depth = pixels.shape[1:]
            form = self._form = self._form or Form((size or height, size or width, depth), size > 0)
            if form.resize and pixels.shape[1:3] != form.shape[:2]:
                pixels = np.stack([resized(image, form.shape[0], form.shape[1]) for image in pixels])
        if pixels.shape[1:] != form.shape:
            raise DataError(f"{where} x: got images of {list(pixels.shape[1:])}, want {list(form.shape)} as the first")
        return Examples(pixels, labels)


class Characters:
    """Strings of characters, and the character that comes after each (shakespeare)."""

    classes: int | None = len(CHARACTERS)

    def __init__(self, first: str, options: ImportOptions):
        """Takes the first string, whose length all others must have."""
        self._vocabulary = Vocabulary(CHARACTERS)
        self.vocabulary = self._vocabulary.tokens
        self._length, self._kept = len(first), options.length or len(first)
        self._every = options.targets == "every"

    def __call__(self, where: str, x: list[Any], y: list[Any]) -> Examples:
        """The examples of a user."""
        for text in x:
            if not isinstance(text, str) or len(text) != self._length or self._length < self._kept:
                got = f"{len(text)} characters" if isinstance(text, str) else _some([text])
                want = self._length if self._length >= self._kept else f"at least {self._kept}, as --length says"
                raise DataError(f"{where} x: got {got}, want {want}{' as the first' * isinstance(want, int)}")
        for after in y:
            if not isinstance(after, str) or len(after) != 1:
                raise DataError(f"{where} y: got {_some([after])}, want the one character that comes next")
        ids = self._vocabulary.ids([text + after for text, after in zip(x, y, strict=True)], self._length + 1)
        ids = ids[:, -self._kept - 1 :]
        labels = next_tokens(ids[:, 1:])
        return Examples(np.ascontiguousarray(ids[:, :-1]), labels if self._every else labels[:, -1].copy())


class Tweets:
    """Rows of a tweet's fields, and whether its mood is good (sent140)."""

    classes: int | None = 2

    def __init__(self, counts: WordCounts, options: ImportOptions):
        """Takes how often words come in the tweets for training."""
        self._vocabulary = Vocabulary(counts.most_frequent(options.vocabulary))
        self.vocabulary = self._vocabulary.tokens
        self._length, self._remap = options.length or _TWEET_LENGTH, options.remap

    def __call__(self, where: str, x: list[Any], y: list[Any]) -> Examples:
        """The examples of a user."""
        labels = _labels(where, y, self._remap)
        return Examples(self._vocabulary.ids([words_of(_text(where, row)) for row in x], self._length), labels)


def _text(where: str, row: Any) -> str:
    if not isinstance(row, list) or len(row) <= _TEXT or not isinstance(row[_TEXT], str):
        got = f"{len(row)} fields" if isinstance(row, list) and len(row) <= _TEXT else _some([row])
        raise DataError(f"{where} x: got {got}, want a tweet's id, date, query, user and text")
    return row[_TEXT]


def _labels(where: str, y: Any, remap: bool) -> np.ndarray:
    """[n] int32. LEAF's celeba has its labels as floats, 0.0 and 1.0."""
    if not all(_whole(value) for value in y):
        raise DataError(f"{where} y: got {_some(y)}, want whole numbers, class numbers from 0")
    labels = [int(value) for value in y]
    if labels:
        check_range(f"{where} y", min(labels), max(labels), remap)
    return np.array(labels, np.int32)


def _whole(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value) and value == int(value))


def _paths(where: str, x: list[Any], images: Path | None) -> list[Path]:
    if images is None:
        raise DataError(f"{where} x: got names of images ({x[0]!r}), want the folder they are in as well")
    return [inside(f"{where} x", name, images) for name in x]


def _pixels(where: str, x: list[Any], channels: int) -> np.ndarray:
    """[n, H, W, C] uint8 from n flat lists of values from 0 to 1."""
    try:
        flat = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        flat = np.zeros(0)
    if flat.ndim != 2 or not flat.shape[1]:
        raise DataError(f"{where} x: got {_some(x)}, want one list of pixels for each image, all as long")
    if not (flat.min() >= -HALF_LEVEL and flat.max() <= 1 + HALF_LEVEL):
        got = f"values from {short(flat.min())} to {short(flat.max())}"
        raise DataError(f"{where} x: got {got}, want pixels from 0 to 1")
    for depth in (channels,) if channels else (1, 3):
        side = math.isqrt(flat.shape[1] // depth)
        if side * side * depth == flat.shape[1]:
            # 1 is 255: LEAF divided by 255 what was read from a file, so this gives back that very number.
            return np.clip(np.rint(flat * 255), 0, 255).astype(np.uint8).reshape(len(flat), side, side, depth)
    kinds = f"{channels} channels" if channels else "1 or 3 channels"
    raise DataError(f"{where} x: got {flat.shape[1]} values for an image, want a square image of {kinds}")


def _some(values: Any) -> str:
    """The beginning of a value, for a message."""
    numbers = [short(value) if type(value) in (int, float) else repr(value)[:60] for value in values[:2]]
    text = " ".join(f"[{', '.join(numbers)}]".split())
    return text if len(text) <= 60 else f"{text[:57]}..."

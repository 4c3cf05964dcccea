"""Texts made up from a seed, of natural clients: for tests and quick tries of classifiers and taggers.

Token 0 is padding, as in imported texts. Letters: N texts, T positions.
"""

from __future__ import annotations

import numpy as np

from fednas_jax.config.schema import DataConfig
from fednas_jax.data.examples import Dataset, Examples, dataset
from fednas_jax.data.synthetic import clients_of_few
from fednas_jax.data.vocabulary import PADDING
from fednas_jax.errors import DataError
from fednas_jax.seeds import Purpose, generator

# Share of a text's tokens that its class says, and of a tagged text's that the token before says; others are any.
_TOPICAL, _FOLLOWING = 0.4, 0.8


def load_synthetic_texts(config: DataConfig, seed: int) -> Dataset:
    """Texts [N, T] with a class [N] each: two in five tokens are of those that its class prefers, the rest are any.

    Args:
      config: `synthetic_length`, `synthetic_tokens`, `synthetic_classes` and `synthetic_examples` say what to make; the
        test split has a quarter as many examples (at least one).
      seed: of the run; the same seed makes the same data.

    Returns:
      Texts of half the length or more, then padding. With `partition=natural` the examples came from clients, of 10 to
      30 each, who have their own favourite among the classes.

    Raises:
      DataError: fewer tokens than classes.
    """
    tokens, classes = config.synthetic_tokens - 1, config.synthetic_classes  # padding is no class's
    if tokens < classes:
        raise DataError(f"data.synthetic_tokens: got {tokens + 1}, want more than the {classes} classes")
    rng = generator(seed, Purpose.SYNTHETIC)

    def draw(number: int, favourite: np.ndarray) -> Examples:
        labels = rng.integers(0, classes, number)
        labels = np.where(rng.random(number) < 0.5, favourite, labels).astype(np.int32)
        shape = (number, config.synthetic_length)
        # Of class k are the tokens that are k modulo the number of classes.
        preferred = labels[:, None] + classes * rng.integers(0, tokens // classes, shape)
        found = np.where(rng.random(shape) < _TOPICAL, preferred, rng.integers(0, tokens, shape))
        return Examples(_padded(found + 1, PADDING, _lengths(shape, rng)), labels)

    natural = clients_of_few(config.synthetic_examples, rng)
    favourites = np.repeat(rng.integers(0, classes, len(natural) - 1), np.diff(natural))
    train = draw(config.synthetic_examples, favourites)
    tests = max(1, config.synthetic_examples // 4)
    test = draw(tests, rng.integers(0, classes, tests))
    own = natural if config.partition == "natural" else None
    return dataset("synthetic_texts", train, test, classes, natural=own, tokens=tokens + 1)


def load_synthetic_tags(config: DataConfig, seed: int) -> Dataset:
    """Texts [N, T] with a class for every position [N, T]: that of the token which follows, -1 where none does.

    Four in five tokens are the one that always follows the token before, the rest are any; so a network that knows what
    follows what is right four times in five. A token's class is its number modulo the number of classes; with as many
    classes as tokens the task is to tell the next token.

    Args:
      config: as for `load_synthetic_texts`.
      seed: of the run; the same seed makes the same data.

    Returns:
      Texts of half the length or more, then padding; natural clients likewise.
    """
    tokens = config.synthetic_tokens - 1
    rng = generator(seed, Purpose.SYNTHETIC)
    order = rng.permutation(tokens)
    follows = np.empty(tokens, np.int64)
    follows[order] = np.roll(order, -1)

    def draw(number: int) -> Examples:
        shape = (number, config.synthetic_length + 1)
        found = rng.integers(0, tokens, shape)
        known = rng.random(shape) < _FOLLOWING
        for t in range(1, shape[1]):
            found[:, t] = np.where(known[:, t], follows[found[:, t - 1]], found[:, t])
        lengths = _lengths((number, config.synthetic_length), rng)
        inputs = _padded(found[:, :-1] + 1, PADDING, lengths)
        labels = (found[:, 1:] + 1) % config.synthetic_classes
        return Examples(inputs, _padded(labels, -1, lengths))

    train, test = draw(config.synthetic_examples), draw(max(1, config.synthetic_examples // 4))
    natural = clients_of_few(config.synthetic_examples, rng) if config.partition == "natural" else None
    return dataset("synthetic_tags", train, test, config.synthetic_classes, natural=natural, tokens=tokens + 1)


def _lengths(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """[N] between half of T and T."""
    return rng.integers((shape[1] + 1) // 2, shape[1] + 1, shape[0])


def _padded(found: np.ndarray, padding: int, lengths: np.ndarray) -> np.ndarray:
    """[N, T] int32 with padding from each row's length on."""
    return np.where(np.arange(found.shape[1]) < lengths[:, None], found, padding).astype(np.int32)

"""Texts as token ids: words or characters, of which a vocabulary keeps the most frequent. Letters: T tokens.

Ids are the same whatever the text: 0 is padding, 1 a token that the vocabulary lacks, and its own tokens follow.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

PADDING, UNKNOWN, FIRST = 0, 1, 2
"""Ids: after the last token of a text; a token that is not in the vocabulary; the vocabulary's first token."""

BOUNDARY = "<s>"
"""The token before a sentence's first word and after its last."""

CHARACTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's alphabet for Shakespeare, in its order. Source: https://github.com/TalwalkarLab/leaf, models/utils."""

LONGEST = 100
"""Letters of a word that are kept."""

# Different words that are counted at once. Beyond, the rarer half is forgotten: memory does not grow with the text.
_COUNTED = 1 << 20
_WORD = re.compile(r"[\w']+|[^\w\s]")


class Vocabulary:
    """Tokens and their ids."""

    def __init__(self, tokens: Iterable[str]):
        """Takes the tokens after padding and unknown, each once."""
        self.tokens = ("<pad>", "<unknown>", *tokens)
        self._ids = {token: n for n, token in enumerate(self.tokens) if n >= FIRST}

    def __len__(self) -> int:
        """How many ids there are."""
        return len(self.tokens)

    def ids(self, texts: Sequence[Sequence[str]], length: int) -> np.ndarray:
        """Token ids of n texts: each text's first `length` tokens, then padding.

        Args:
          texts: n sequences of tokens.
          length: T.

        Returns:
          [n, T] int32.
        """
        found = np.full((len(texts), length), PADDING, np.int32)
        for row, text in zip(found, texts, strict=True):
            some = [self._ids.get(token, UNKNOWN) for token in text[:length]]
            row[: len(some)] = some
        return found


def next_tokens(ids: np.ndarray) -> np.ndarray:
    """Labels for predicting tokens: id - `FIRST`, so that every token of the vocabulary is a class.

    Args:
      ids: [...] int32 of the tokens to predict.

    Returns:
      [...] int32; -1, no label, for padding and for unknown tokens, which nobody could type.
    """
    return np.maximum(ids - FIRST, -1).astype(np.int32)


class WordCounts:
    """How often words come, in bounded memory."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, words: Iterable[str]) -> None:
        """Counts words."""
        self._counts.update(words)
        if len(self._counts) > _COUNTED:
            self._counts = Counter(dict(self._counts.most_common(_COUNTED // 2)))

    def most_frequent(self, most: int) -> list[str]:
        """At most so many words, the most frequent first, equally frequent ones in the order of the alphabet."""
        return sorted(self._counts, key=lambda word: (-self._counts[word], word))[:most]


def words_of(text: str) -> list[str]:
    """Words and punctuation marks of a text, in small letters."""
    return [word[:LONGEST] for word in _WORD.findall(text.lower())]


def sentences(vocabulary: Vocabulary, texts: Sequence[Sequence[str]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Sentences for predicting every next word: each begins with `BOUNDARY`, and ends with it where it is short enough.

    Args:
      vocabulary: with `BOUNDARY`.
      texts: n sentences.
      length: T.

    Returns:
      Token ids [n, T] int32 and labels [n, T] int32, as `next_tokens` has them: what follows each token.
    """
    ids = vocabulary.ids([(BOUNDARY, *words, BOUNDARY) for words in texts], length + 1)
    return np.ascontiguousarray(ids[:, :-1]), next_tokens(ids[:, 1:])

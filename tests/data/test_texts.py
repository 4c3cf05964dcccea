"""Texts: LEAF's Shakespeare and Sent140, Stack Overflow as TensorFlow Federated has it; each token where it belongs."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from importing import imported, refused

from fednas_jax.data import Dataset, ImportOptions, import_data, read_columns, vocabulary
from fednas_jax.data.vocabulary import (
    BOUNDARY,
    CHARACTERS,
    FIRST,
    PADDING,
    UNKNOWN,
    Vocabulary,
    WordCounts,
    next_tokens,
    sentences,
    words_of,
)
from fednas_jax.errors import DataError


def write(path: Path, users: dict[str, tuple[list[Any], list[Any]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()}}))
    return path


def text_of(data: Dataset, ids: np.ndarray) -> str:
    return "".join(data.vocabulary[n] for n in ids)


def rows_of(data: Dataset, client: int) -> slice:
    assert data.natural is not None
    return slice(data.natural[client], data.natural[client + 1])


def test_leafs_alphabet_has_its_80_characters_and_ids_begin_with_padding_and_unknown() -> None:
    assert len(CHARACTERS) == len(set(CHARACTERS)) == 80
    known = Vocabulary(CHARACTERS)
    assert known.ids(["\n }é"], 6).tolist() == [[FIRST, FIRST + 1, FIRST + 79, UNKNOWN, PADDING, PADDING]]
    assert next_tokens(known.ids(["\n}é"], 4)).tolist() == [[0, 79, -1, -1]]


@given(st.lists(st.text(max_size=12), max_size=6), st.integers(1, 9))
def test_ids_are_those_of_the_tokens_cut_or_padded_to_one_length(texts: list[str], length: int) -> None:
    known = Vocabulary("abc ")
    found = known.ids(texts, length)
    assert (found.shape, found.dtype) == ((len(texts), length), np.int32)
    for row, text in zip(found, texts, strict=True):
        want = [known.tokens.index(token) if token in "abc " else UNKNOWN for token in text[:length]]
        assert row.tolist() == want + [PADDING] * (length - len(want))


def test_the_most_frequent_words_come_first_and_equals_by_the_alphabet(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = WordCounts()
    for text in ("b a c", "c b", "c d"):
        counts.add(text.split())
    assert (counts.most_frequent(3), counts.most_frequent(9)) == (["c", "b", "a"], ["c", "b", "a", "d"])
    # However many words come, few are held; the frequent ones stay.
    monkeypatch.setattr(vocabulary, "_COUNTED", 50)
    for n in range(1000):
        counts.add(["c", f"rare{n}"])
    assert len(counts._counts) <= 51
    assert counts.most_frequent(1) == ["c"]


def test_words_are_in_small_letters_and_punctuation_stands_alone() -> None:
    assert words_of("I'm OK, r u??  @bob http://x.y") == [
        *("i'm", "ok", ",", "r", "u", "?", "?", "@", "bob", "http", ":", "/", "/", "x", ".", "y")
    ]
    assert words_of(" \n") == []


def shakespeare(path: Path) -> Path:
    """Two users' overlapping windows of 5 characters and what comes next, as LEAF cuts them (of 80)."""

    def windows(text: str) -> tuple[list[str], list[str]]:
        return [text[n : n + 5] for n in range(len(text) - 5)], list(text[5:])

    return write(path, {"ROMEO": windows("But soft! What"), "NOBODY": ([], []), "JULIET": windows("Ay me. O {no}")})


def test_shakespeares_next_characters_stay_with_their_speaker(tmp_path: Path) -> None:
    data, said = imported("leaf", shakespeare(tmp_path / "all_data.json"))
    assert (data.train.inputs.dtype, data.train.inputs.shape[1:], data.classes) == (np.int32, (5,), 80)
    assert (data.tokens, len(data.vocabulary)) == (82, 82)
    assert data.natural is not None
    assert len(data.natural) == 3
    for client, text in enumerate(("But soft! What", "Ay me. O {no}".replace("{", "<unknown>"))):
        rows = rows_of(data, client)
        for ids, label in zip(data.train.inputs[rows], data.train.labels[rows], strict=True):
            assert text_of(data, ids) + CHARACTERS[label] in text
    # '{' is none of the alphabet: unknown where it is read, and nothing that could be predicted.
    assert said.endswith("; 1 without a next character of the vocabulary left out")
    assert len(data.train.labels) + len(data.test.labels) == 9 + 8 - 1
    assert "test texts of 5 tokens (82 different ones)" in said


def test_as_a_tagger_every_position_has_the_character_that_follows(tmp_path: Path) -> None:
    source = shakespeare(tmp_path / "all_data.json")
    data, said = imported("leaf", source, targets="every")
    assert data.train.labels.shape == data.train.inputs.shape
    assert "texts of 5 tokens (82 different ones, a label for each)" in said
    np.testing.assert_array_equal(data.train.labels[:, :-1], np.maximum(data.train.inputs[:, 1:] - FIRST, -1))
    assert (data.train.labels == -1).any()
    last, _ = imported("leaf", source)
    assert last.natural is not None
    kept = data.train.labels[:, -1] >= 0
    np.testing.assert_array_equal(data.train.labels[kept, -1], last.train.labels)
    short, _ = imported("leaf", source, targets="every", length=3)
    np.testing.assert_array_equal(short.train.inputs, data.train.inputs[:, 2:])
    np.testing.assert_array_equal(short.train.labels, data.train.labels[:, 2:])


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (["abc", "ab"], ["d", "c"], {}, "user u x: got 2 characters, want 3 as the first"),
        (["abc", 7], ["d", "c"], {}, r"user u x: got \[7\], want 3 as the first"),
        (["abc"], ["de"], {}, r"user u y: got \['de'\], want the one character that comes next"),
        (["abc"] * 2, ["d", 1], {}, r"user u y: got \[1\], want the one character"),
        (["abc"] * 4, ["d"] * 4, {"length": 5}, "user u x: got 3 characters, want at least 5, as --length says"),
        (["abc"] * 4, ["d"] * 4, {"classes": 2}, "classes: got 2, want none: the files hold characters"),
        (["abc"], ["d", "e"], {}, "user u: got 1 x and 2 y"),
        (["abc"] * 4, ["é"] * 4, {}, "with 0 to 0 examples leaves 0 for training"),
    ],
)
def test_strings_that_do_not_fit_are_named(
    x: list[Any], y: list[Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused("leaf", write(tmp_path / "all_data.json", {"u": (x, y)}), message, **options)


def tweet(text: str) -> list[str]:
    return ["1467810369", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", "al", text]


def test_tweets_are_the_ids_of_the_most_frequent_words_of_training_users(tmp_path: Path) -> None:
    train = {
        "al": ([tweet("Good good DAY"), tweet("")], [1, 0]),
        "nobody": ([], []),
        "bo": ([tweet("bad day , day")], [0]),
    }
    write(tmp_path / "set" / "train" / "all_data_0.json", train)
    write(tmp_path / "set" / "test" / "all_data_0.json", {"al": ([tweet("test test test good")], [1])})
    data, said = imported("leaf", tmp_path / "set", vocabulary=3, length=4)
    assert data.vocabulary == ("<pad>", "<unknown>", "day", "good", ",")
    assert data.train.inputs.tolist() == [[3, 3, 2, 0], [0, 0, 0, 0], [1, 2, 4, 2]]
    assert data.train.labels.tolist() == [1, 0, 0]
    # Words of the test split are no part of the vocabulary.
    assert data.test.inputs.tolist() == [[1, 1, 1, 3]]
    assert data.natural is not None
    assert (data.natural.tolist(), data.classes, data.tokens) == ([0, 2, 3], 2, 5)
    assert "texts of 4 tokens (5 different ones)" in said


def test_without_test_files_words_of_the_held_out_tweets_are_not_counted_either(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.json", {f"u{n}": ([tweet(f"w{n}x{m}") for m in range(4)], [0, 1] * 2) for n in range(5)}
    )
    data, _ = imported("leaf", source)
    assert len(data.vocabulary) == 2 + 15
    assert (data.train.inputs[:, 0] >= FIRST).all()
    assert (data.test.inputs[:, 0] == UNKNOWN).all()
    assert data.train.inputs.shape[1] == 25


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([tweet("a")[:4]], [0], "user u x: got 4 fields, want a tweet's id, date, query, user and text"),
        ([[*tweet("a")[:4], 7]], [0], "user u x: got .*, want a tweet's id"),
        ([tweet("a"), "a"], [0, 1], r"user u x: got \['a'\], want a tweet's id"),
        ([tweet("a")], [2], "labels: got 2 to 2, want 0 to 1"),
        ([tweet("a")], [-1], "user u y: got -1 to -1, want class numbers from 0"),
        ([tweet("a")], ["1"], r"user u y: got \['1'\], want whole numbers"),
    ],
)
def test_tweets_that_do_not_fit_are_named(x: list[Any], y: list[Any], message: str, tmp_path: Path) -> None:
    refused("leaf", write(tmp_path / "all_data.json", {"u": (x, y)}), message)


def test_importing_tweets_holds_one_user_in_memory_not_the_file(tmp_path: Path) -> None:
    peaks = []
    for users in (3, 9):
        held = {f"u{n}": ([tweet("w" * 100 + f" {m % 9}") for m in range(300)], [0, 1] * 150) for n in range(users)}
        source = write(tmp_path / f"{users}.json", held)
        del held
        tracemalloc.start()
        import_data("leaf", source, tmp_path / f"columns-{users}", ImportOptions())
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A megabyte more of JSON, 0.17 of each user.
    assert peaks[1] < peaks[0] + 200_000


h5py = pytest.importorskip("h5py")


def stack_overflow(path: Path, clients: dict[str, list[Any]], **more: Any) -> Path:
    """As stackoverflow_train.h5 has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for client, lines in clients.items():
            group = file.create_group(f"examples/{client}")
            group["tokens"] = np.array(lines, h5py.string_dtype())
            group["title"] = np.array(["a question"] * len(lines), h5py.string_dtype())
            group["score"] = np.zeros(len(lines), np.int64)
            for name, value in more.items():
                del group[name]
                group[name] = value
    return path


def test_stack_overflows_next_words_of_every_client(tmp_path: Path) -> None:
    stack_overflow(
        tmp_path / "so" / "stackoverflow_train.h5", {"07": ["how to sort a list", "to be"], "13": ["how to"]}
    )
    stack_overflow(tmp_path / "so" / "stackoverflow_test.h5", {"07": ["sort numpy numpy"], "99": ["how"]})
    data, said = imported("hdf5", tmp_path / "so", vocabulary=4, length=4)
    assert data.vocabulary == ("<pad>", "<unknown>", BOUNDARY, "to", "how", "a", "be")
    assert data.train.inputs.tolist() == [[2, 4, 3, 1], [2, 3, 6, 2], [2, 4, 3, 2]]
    # What follows each token: -1 for unknown words, and behind the end of a sentence, which is class 0.
    assert data.train.labels.tolist() == [[2, 1, -1, 3], [1, 4, 0, -1], [2, 1, 0, -1]]
    assert data.test.inputs.tolist() == [[2, 1, 1, 1], [2, 4, 2, 0]]
    assert data.natural is not None
    assert (data.natural.tolist(), data.classes, data.tokens) == ([0, 2, 3], 5, 7)
    assert "texts of 4 tokens (7 different ones, a label for each)" in said


def test_held_out_clients_and_clients_of_one_file_are_divided_as_asked(tmp_path: Path) -> None:
    lines = [f"w{n} x" for n in range(8)]
    stack_overflow(tmp_path / "so" / "stackoverflow_train.h5", {"1": lines})
    alone, _ = imported("hdf5", tmp_path / "so" / "stackoverflow_train.h5")
    assert (len(alone.train.labels), len(alone.test.labels), alone.train.inputs.shape[1]) == (6, 2, 20)
    # Words of the sentences for testing are not in the vocabulary.
    assert (alone.train.inputs[:, 1] >= FIRST).all()
    assert (alone.test.inputs[:, 1] == UNKNOWN).all()
    stack_overflow(tmp_path / "so" / "stackoverflow_held_out.h5", {"10": lines[:2]})
    refused("hdf5", tmp_path / "so", "got .* for validation, want --validation train")
    joined, _ = imported("hdf5", tmp_path / "so", validation="train")
    assert joined.natural is not None
    assert np.diff(joined.natural).tolist() == [6, 2]
    tested, _ = imported("hdf5", tmp_path / "so", validation="test")
    assert (len(tested.train.labels), len(tested.test.labels)) == (8, 2)


@pytest.mark.parametrize(
    ("more", "options", "message"),
    [
        ({"tokens": np.arange(4)}, {}, r"examples/u tokens: got \[4\] int64, want \[N\] texts"),
        ({"tokens": np.array([[b"a", b"b"]] * 4)}, {}, r"examples/u tokens: got \[4, 2\] .*, want \[N\] texts"),
        ({}, {"most_gigabytes": 1e-9}, "examples/u: got .* GB, unpacked, want at most 1e-09 GB"),
        ({}, {"classes": 3}, "data import classes: got 3, want none: the files hold sentences"),
        ({}, {"length": -1}, "data import length: got -1, want at least 0"),
        ({}, {"vocabulary": 0}, "data import vocabulary: got 0, want at least 1"),
    ],
)
def test_sentences_that_do_not_fit_are_named(
    more: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    refused("hdf5", stack_overflow(tmp_path / "a.h5", {"u": ["a b"] * 4}, **more), message, **options)


def test_bytes_of_one_length_an_empty_sentence_and_a_word_that_is_the_boundary_are_taken(tmp_path: Path) -> None:
    lines = np.array([b"a " + BOUNDARY.encode(), b"", b"\xff a", b"a"]).reshape(4, 1)
    source = stack_overflow(tmp_path / "a.h5", {"u": ["x"] * 4}, tokens=lines)
    data, _ = imported("hdf5", source, length=3)
    assert data.vocabulary[: FIRST + 1] == ("<pad>", "<unknown>", BOUNDARY)
    assert len(data.vocabulary) == len(set(data.vocabulary))
    found = {tuple(row) for row in np.concatenate([data.train.inputs, data.test.inputs]).tolist()}
    assert (FIRST, FIRST, PADDING) in found
    known = Vocabulary([BOUNDARY, "a"])
    inputs, labels = sentences(known, [["a", BOUNDARY], [], ["a"]], 3)
    assert inputs.tolist() == [[2, 3, 2], [2, 2, 0], [2, 3, 2]]
    assert labels.tolist() == [[1, 0, 0], [0, -1, -1], [1, 0, -1]]


def test_what_was_imported_is_read_back_with_its_vocabulary_or_refused(tmp_path: Path) -> None:
    source = stack_overflow(tmp_path / "a.h5", {"u": ["a b"] * 4})
    import_data("hdf5", source, tmp_path / "columns", ImportOptions(test_share=0.25))
    path = tmp_path / "columns" / "columns.json"
    about = json.loads(path.read_text())
    assert (about["schema"], about["dtype"], about["shape"], about["label_shape"]) == (2, "int32", [20], [20])
    for field, value, message in (
        ("vocabulary", ["<pad>"], r"vocabulary: got \['<pad>'\], want 5 texts"),
        ("tokens", 3, "vocabulary: got .*, want 3 texts"),
        ("dtype", "uint16", "dtype: got 'uint16', want one of int32, float32"),
        ("dtype", "float32", r"label_shape: got \[20\], want \[\]"),
        ("shape", [20, 3], r"shape: got \[20, 3\], want 1 whole numbers above 0"),
        ("label_shape", [3], r"label_shape: got \[3\], want \[\] or \[20\]"),
        ("label_shape", [], r"labels.npy: got \[3, 20\] int32, want \[3\] int32"),
        ("classes", 2, "train labels: got -1 to 2, want 0 to 1"),
    ):
        path.write_text(json.dumps(about | {field: value}))
        with pytest.raises(DataError, match=message):
            read_columns(tmp_path / "columns")
    del about["vocabulary"]
    path.write_text(json.dumps(about | {"tokens": 4}))
    with pytest.raises(DataError, match="tokens: got 0 to 4, want 0 to 3"):
        read_columns(tmp_path / "columns")

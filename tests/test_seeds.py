"""Every purpose has a stream of its own, and streams do not change from one version of numpy to the next."""

from __future__ import annotations

import re
from pathlib import Path

import fednas_jax
from fednas_jax.seeds import KeyPurpose, Purpose, generator

# As first recorded: a change changes every recorded run.
GOLDEN = 474079547032970481


def first(seed: int, purpose: Purpose) -> int:
    return int(generator(seed, purpose).integers(1 << 62))


def test_streams_differ_by_seed_and_by_purpose() -> None:
    assert len({first(seed, purpose) for seed in range(10) for purpose in Purpose}) == 10 * len(Purpose)


def test_the_same_seed_and_purpose_give_the_same_stream() -> None:
    assert first(3, Purpose.PARTITION) == first(3, Purpose.PARTITION) == GOLDEN


def test_no_purpose_has_changed_its_number() -> None:
    assert [(p.name, p.value) for p in Purpose] == [
        ("DIGITS_SPLIT", 1),
        ("SYNTHETIC", 2),
        ("PARTITION", 3),
        ("HOLDOUT", 4),
        ("SCORE", 6),
        ("COHORT", 7),
        ("PROPOSE", 8),
        ("TEST_SPLIT", 9),
        ("DEVICES", 20),
        ("LINKS", 21),
        ("AVAILABLE", 22),
        ("DROPOUT", 23),
        ("INVITE", 24),
        ("MALICIOUS", 25),
        ("FEATURE_SKEW", 31),
    ]
    assert [p.value for p in KeyPurpose] == [1, 2, 3, 4, 5]


def test_every_key_names_its_generator() -> None:
    for path in Path(fednas_jax.__file__).parent.rglob("*.py"):
        made = re.findall(r"random\.(?:key|wrap_key_data|PRNGKey)\((.*)", path.read_text())
        assert all(", impl=KEYS)" in arguments for arguments in made), path

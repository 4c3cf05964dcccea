"""The run that nothing happened to, and one that was stopped in the midst of an iteration."""

import faults
import pytest


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    faults.go(out)
    return out


@pytest.fixture(scope="session")
def half(tmp_path_factory):
    """In the midst of the second iteration."""
    out = tmp_path_factory.mktemp("half") / "run"
    faults.stopped(out, 10)
    return out


@pytest.fixture(scope="session")
def expected(whole):
    return faults.outcome(whole)

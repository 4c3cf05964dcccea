"""Shim."""


def rates(train, rounds):  # type: ignore
    """Shim."""
    return [train.learning_rate * train.learning_rate_decay**n for n in range(rounds)]

"""What a user's partition or source is called with: what every one gets, and what it asks for by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def call(function: Callable[..., Any], *given: Any, **offered: Any) -> Any:
    """Calls a function with what is given and, of what is offered, with the arguments that it names.

    So that ten lines of a researcher's need not name what they don't use.

    Args:
      function: as `Registry.get` returns it.
      given: its positional arguments.
      offered: name -> value, passed where the function has an argument of that name.
    """
    takes = inspect.signature(function).parameters
    return function(*given, **{name: value for name, value in offered.items() if name in takes})

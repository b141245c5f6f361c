"""What a scenario says of its own executions: `always` and `sometimes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Condition = Callable[[Any], bool]
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def sometimes(condition: Condition) -> Decorator:
    """A decorator of a scenario: condition(machine) must be true at the end of at least one
    execution, or the exploration shows nothing.  Its name and docstring say what it is."""
    return _noted("sometimes", condition)


def always(condition: Condition) -> Decorator:
    """A decorator of a scenario: condition(machine) must be true at the end of each execution."""
    return _noted("always", condition)


def _noted(kind: str, condition: Condition) -> Decorator:
    def note(scenario: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[str, Condition] = scenario.__dict__.setdefault(f"_{kind}", {})
        known[condition.__name__] = condition
        return scenario

    return note

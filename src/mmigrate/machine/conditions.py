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


def is_condition(function: Callable[..., Any]) -> bool:
    """Whether a function is a condition of some scenario, and so none itself."""
    return "_condition" in function.__dict__


def _noted(kind: str, condition: Condition) -> Decorator:
    def note(scenario: Callable[..., Any]) -> Callable[..., Any]:
        known: dict[str, Condition] = scenario.__dict__.setdefault(f"_{kind}", {})
        known[condition.__name__] = condition
        condition.__dict__["_condition"] = True
        return scenario

    return note

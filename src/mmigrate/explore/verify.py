"""Verify rows of the catalogue: run each without and with its commit, and compare.

Interface: `verify(row)` gives a `Verdict`. A race holds if the explorer finds the violation that
the row names without the commit, and exhausts the same scenario with it and finds nothing; a
state, a cost or a no-change if the scenario ends as the row says, in both kernels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from mmigrate.errors import Violation
from mmigrate.explore.result import Result
from mmigrate.explore.search import explore
from mmigrate.history import Kind, Row
from mmigrate.machine.machine import Machine

MAX_EXECUTIONS = 200_000


@dataclass(frozen=True)
class Seen:
    """What one side came to.  @right: whether it is what the row says.  @told: in words.
    @result: of the exploration, for a race.  @log: the accesses, if the scenario had any
    logged; where nothing can be seen those of both kernels must be the same."""

    right: bool
    told: str
    seconds: float
    violations: tuple[Violation, ...] = ()
    result: Result | None = None
    log: tuple[str, ...] = ()

    @property
    def cut_off(self) -> bool:
        """Nothing was found, but the search has not come to its end: neither right nor wrong."""
        return self.result is not None and not self.result.found and not self.result.exhausted


@dataclass(frozen=True)
class Verdict:
    """@without, @fixed: None where the row's parts are not there yet.  @more: those of what
    else the commit cured."""

    row: Row
    without: Seen | None
    fixed: Seen | None
    more: tuple[Verdict, ...] = ()

    @property
    def there(self) -> bool:
        return self.without is not None

    @property
    def verified(self) -> bool:
        right = self.without and self.fixed and self.without.right and self.fixed.right
        return bool(right) and all(verdict.verified for verdict in self.more)


def verify(
    row: Row,
    *,
    max_executions: int = MAX_EXECUTIONS,
    max_without: int | None = None,
    minimise: bool = False,
) -> Verdict:
    """Run a row without and with its commit.

    @max_executions: of a race; one that is cut off is not verified.  @max_without: another limit
    for the side on which something must be found.  @minimise: look for its smallest schedule.
    """
    if row.scenario is None:
        return Verdict(row, None, None)
    side = _race if row.kind is Kind.RACE else _state
    without, fixed = (
        side(row, present, bound, minimise)
        for present, bound in ((False, max_without or max_executions), (True, max_executions))
    )
    if row.kind is Kind.NONE and without.log != fixed.log:
        told = f"{fixed.told}; the accesses are not those of the other kernel"
        fixed = replace(fixed, right=False, told=told)
    more = tuple(
        verify(part, max_executions=max_executions, max_without=max_without, minimise=minimise)
        for part in row.more
    )
    return Verdict(row, without, fixed, more)


def _race(row: Row, present: bool, max_executions: int, minimise: bool) -> Seen:
    options = row.options(present)
    result = explore(
        row.scenario,
        without=options.pop("without", ()),
        backports=options.pop("backports", ()),
        machine=options,
        max_executions=max_executions,
        minimise=minimise,
    )
    if not present:
        found = str(result.violation) if result.found else "nothing"
        right = result.found and found.startswith(row.finding)
        told = (
            f"found in {result.executions:,} executions: {found}" if result.found else str(result)
        )
    else:
        right = result.clean
        told = f"{result.executions:,} executions, {'exhausted, clean' if right else str(result)}"
    violations = tuple(finding.violation for finding in result.findings)
    return Seen(right, told, result.seconds, violations, result)


def _state(row: Row, present: bool, _max_executions: int, _minimise: bool) -> Seen:
    assert row.scenario is not None
    started = perf_counter()
    machine = Machine(**row.options(present))
    value = row.scenario(machine)
    violations = tuple(machine.check())
    oracles = tuple(sorted({violation.oracle for violation in violations}))
    expected: Any = row.fixed if present else row.without
    objected: tuple[str, ...] = () if present else row.violations
    right = value == expected and oracles == objected
    told = ", ".join(f"{name} {_word(found)}" for name, found in value.items())
    if oracles:
        told += f"; {', '.join(oracles)} object{'s' * (len(oracles) == 1)}"
    if value != expected:
        told += f", where {expected} was expected"
    if oracles != objected:
        told += f", where {', '.join(objected) or 'no oracle'} should object"
    if row.kind is Kind.NONE:
        right = right and bool(machine.log)
        told += f"; {len(machine.log):,} accesses"
    return Seen(right, told, perf_counter() - started, violations, log=tuple(machine.log))


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if type(value) is bool else str(value)


def schedule_for_fix(verdict: Verdict) -> Any:
    """The schedule of a race's finding, with the commit in place again."""
    assert verdict.without is not None
    assert verdict.without.result is not None
    finding = verdict.without.result.finding
    assert finding is not None
    options = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in verdict.row.options(True).items()
    }
    return replace(finding.schedule, options=options, violation=None, digest="")

"""Hot functions with their primitives in place do what they do as they are written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

from mmigrate import Machine, MiB
from mmigrate.linux.kernel import sched, straight
from mmigrate.linux.kernel.straight import hot, small
from mmigrate.linux.mm import migrate, rmap

ROOT = Path(__file__).parents[3]

RUN_EXAMPLES = """
import json, sys
from pathlib import Path
from types import FunctionType
from mmigrate.machine.scenario import load, run
told = {}
for path in sorted(Path("examples").glob("*.py")):
    for scenario in load(path):
        outcome = run(scenario)
        told[f"{path.stem}:{scenario.name}"] = [
            outcome.failed, [str(v) for v in outcome.violations], outcome.vmstat
        ]
print(json.dumps(told))
"""


def told_by_examples(**environment):
    done = subprocess.run(
        [sys.executable, "-c", RUN_EXAMPLES],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_examples_end_the_same_with_and_without():
    assert told_by_examples() == told_by_examples(MMIGRATE_PLAIN="1")


def test_a_page_is_moved_with_few_calls():
    Machine()
    names = migrate.remove_migration_pte.__code__.co_names
    assert "spin_lock" in names  # for runs with a hook
    calls = []
    machine = Machine(nodes=(MiB(1), MiB(1)))
    app = machine.process("app")
    page = app.mmap(pages=1)
    app.touch(page)
    sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name))
    try:
        app.move_pages(page, node=1)
    finally:
        sys.setprofile(None)
    assert "move_to_new_page" in calls
    assert not {"page_check_address", "PageAnon", "page_mapped", "inc_mapcount"} & set(calls)
    assert machine.check() == []


# --- the making of the branches; the functions stand here because their source is read ---

LIMIT = 7
told: list[object] = []


@small
def guarded(value: int, least: int = 2) -> int:
    if value < least:
        return -1
    if sched.hook is not None:
        sched.hook.announce(None, None, 0)
    doubled = value * 2
    if doubled > LIMIT:
        return LIMIT
    return doubled


@small
def tell(text: object) -> None:
    told.append(text)


@small
def even(value: int) -> bool:
    if value < 0:
        return False
    half = value // 2
    return value & 1 != 1 and half != LIMIT


@small
def named(value: int) -> str:
    task = sched.task
    held = task.held
    if not held:
        return f"{value} of {task.name}"
    return "held"


@hot
def decides(value: int, doubled: int) -> object:
    """With `and` and `or`, with the name of a callee's variable, and into its own argument."""
    half = guarded(doubled)
    doubled = guarded(doubled)
    doubled = guarded(doubled + half)
    if value > 1 and even(value):
        tell("even")
    if value == 3 or not even(doubled):
        return named(doubled)
    if even(value >> 1 & 1) and even(value >> 1 & 1) and even(value >> 1 & 1):
        tell(named(half))
    if not even(half):
        tell("odd")
    else:
        tell(value & 4 != 0)
    return guarded(half)


AS_WRITTEN_TOO = FunctionType(decides.__code__, globals(), "as_written", None)


@pytest.mark.parametrize("doubled", range(8))
@pytest.mark.parametrize("value", range(8))
def test_conditions_and_names_stay(value, doubled):
    app = Machine(nodes=(MiB(1),)).process("app")
    ends = []
    with app.running():
        for function in decides, AS_WRITTEN_TOO:
            told.clear()
            ends.append((function(value, doubled), list(told)))
    assert decides.__code__ is not AS_WRITTEN_TOO.__code__
    assert ends[0] == ends[1]


def test_what_is_put_in_place_is_not_called():
    straight.prepare()
    calls = []
    app = Machine(nodes=(MiB(1),)).process("app")
    with app.running():
        sys.setprofile(lambda frame, event, _: calls.append(frame.f_code.co_name))
        try:
            decides(4, 1)
        finally:
            sys.setprofile(None)
    assert not {"guarded", "even"} & set(calls)


@hot
def uses(value: int, doubled: int = 1) -> list[object]:
    """In an assignment, a condition, a statement and an expression that stays."""
    first = guarded(value)
    told.clear()
    if guarded(value + 1, 3) == LIMIT and value:
        tell("limit")
    elif not guarded(value, least=0):
        tell(guarded(1) + doubled)
    return [first, *told, doubled, (lambda: guarded(value))()]


AS_WRITTEN = FunctionType(uses.__code__, globals(), "as_written", uses.__defaults__)


@pytest.mark.parametrize("value", range(8))
def test_values_and_order_stay(value):
    straight.prepare()
    assert uses.__code__ is not AS_WRITTEN.__code__
    assert uses(value) == AS_WRITTEN(value)
    assert uses(value, 5) == AS_WRITTEN(value, 5)


def test_lines_of_errors_are_those_of_the_source():
    Machine()
    machine = Machine(nodes=(MiB(1), MiB(1)))
    page = machine.kernel.zero_page
    with pytest.raises(Exception, match="try_to_unmap of an unlocked page") as caught:
        rmap.try_to_unmap(page, 0)
    entry = caught.traceback[-2]
    assert "BUG" in str(entry.statement)

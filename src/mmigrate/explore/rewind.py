"""Start executions where the tasks start, instead of from boot.

All executions of a scenario are the same up to there. So in the second of them the state of the
machine is noted just before its tasks run, and put back before each further execution: every
object that the scenario has made, or that can be reached from its machine, gets the contents
that it had, and the tasks get new stacks (explore_kernel_per_s).

Interface: `Stage(target).execute(run)`, in place of `target.execute(run)`.

What was there before the search began is left alone, as it is when a scenario is run
again, and so are attributes that their class declares `Final`: they name the same object for ever.
A scenario that runs its tasks itself is run again each time, and so is one with something in
it whose state cannot be noted, such as an open file or an iterator; and programs without a machine,
which need no boot. Now and then, the 8th, 64th, 512th time, an execution is repeated from boot
and must come out the same.
"""

from __future__ import annotations

import functools
import gc
import re
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from functools import cache, lru_cache
from itertools import chain, compress
from operator import attrgetter, call, is_not
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import greenlet

from mmigrate.explore.execution import Ending
from mmigrate.explore.target import Conditions, Outcome, Target
from mmigrate.linux.kernel import sched

if TYPE_CHECKING:
    from mmigrate.explore.recording import Recording

FIRST: Final = 2  # the execution whose start is noted: that costs what two others save
COMPARED: Final = 8  # the execution that is repeated from boot, and 8 times as many, and so on
HEAP_TYPE: Final = 1 << 9  # Py_TPFLAGS_HEAPTYPE
NO_INSTANCES: Final = 1 << 7  # Py_TPFLAGS_DISALLOW_INSTANTIATION

KINDS: Final = 1024  # classes that are known at a time: those of a scenario must be free to go

# Nothing in them can change, and they lead nowhere.
CONSTANT: Final = (
    int,
    str,
    bytes,
    float,
    complex,
    type(None),
    type(...),
    type(NotImplemented),
    range,
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
    types.CodeType,
    re.Pattern,
    attrgetter,
    greenlet.greenlet,  # tasks get new ones
    Enum,
)
PLAIN: Final = (int, str, float, bool, type(None))
MAPPINGS: Final = (dict, Counter, defaultdict, OrderedDict)
BUILTIN: Final = (
    list,
    tuple,
    frozenset,
    set,
    deque,
    bytearray,
    types.CellType,
    types.MethodType,
    functools.partial,
    *MAPPINGS,
)


class Slots:
    """Attributes of objects: how they are read, of which objects, which they are, and their
    values, each by object."""

    def __init__(self) -> None:
        self.getters: list[Callable[[Any], tuple[Any, ...]]] = []
        self.things: list[Any] = []
        self.names: list[tuple[str, ...]] = []
        self.were: list[tuple[Any, ...]] = []

    def note(self, names: tuple[str, ...], things: list[Any]) -> None:
        if names:
            getter = _getter(names)
            self.getters += [getter] * len(things)
            self.things += things
            self.names += [names if len(names) > 1 else names * 2] * len(things)
            self.were += map(getter, things)


class CannotNote(Exception):
    """There is an object whose state cannot be noted."""


class Noted:
    """The state of all objects that the scenario made, by kind."""

    def __init__(self, root: Any) -> None:
        self.lists: list[tuple[list[Any], list[Any]]] = []
        self.nested: list[tuple[list[Any], list[Any]]] = []  # with items that equal others
        self.dicts: list[tuple[dict[Any, Any], dict[Any, Any]]] = []
        self.sets: list[tuple[set[Any], set[Any]]] = []
        self.sequences: list[tuple[Any, Any]] = []  # deques and bytearrays
        self.cells: list[tuple[types.CellType, Any]] = []
        # those whose values may equal others are compared by identity
        self.plain = Slots()
        self.strict = Slots()
        self.changing: list[tuple[Any, str, Any]] = []  # attributes that executions have changed
        self.unset: list[tuple[Any, str]] = []
        found: dict[Any, list[Any]] = {}
        young = set(map(id, gc.get_objects()))
        seen: set[int] = set()
        reached: list[Any] = [root]
        while reached:
            varying = {kind for kind in set(map(type, reached)) if not _is_constant(kind)}
            fresh = {id(thing): thing for thing in reached if type(thing) in varying}
            reached = []
            leads: list[Any] = []  # to all that they refer to
            for number, thing in fresh.items():
                if number in seen or (number not in young and gc.is_tracked(thing)):
                    continue  # the latter was there before
                seen.add(number)
                kind: Any = type(thing)
                if kind is types.FunctionType:  # it refers to its whole module
                    reached += [thing.__closure__, thing.__defaults__, thing.__kwdefaults__]
                    reached.append(thing.__dict__)
                elif kind in BUILTIN:
                    if self._note_builtin(kind, thing):
                        leads.append(thing)
                else:
                    found.setdefault(kind, []).append(thing)
                    leads.append(thing)
                    if _attributes(kind).others:
                        others = vars(thing)  # which may be made at this moment
                        self._note_builtin(dict, others)
                        seen.add(id(others))
                        leads.append(others)
            reached += gc.get_referents(*leads)
        for kind, things in found.items():
            slots, _, frozen = _attributes(kind)
            if slots and not frozen:
                self._note_slots(slots, things)
        self._strict_were = [*chain.from_iterable(self.strict.were)]

    def _note_builtin(self, kind: type, thing: Any) -> bool:
        """Note an object of a type of Python itself; whether it leads on."""
        if kind is list:
            inside = set(map(type, thing))
            kept = self.nested if any(map(_equals_others, inside)) else self.lists
            kept.append((thing, thing.copy()))
            return not all(map(_is_constant, inside))
        if kind in MAPPINGS:
            self.dicts.append((thing, dict(thing)))
        elif kind is set:
            self.sets.append((thing, thing.copy()))
        elif kind is deque or kind is bytearray:
            self.sequences.append((thing, thing.copy()))
        elif kind is types.CellType:
            try:
                self.cells.append((thing, thing.cell_contents))
            except ValueError:
                raise CannotNote("a variable without a value") from None
        return True

    def _note_slots(self, names: tuple[str, ...], things: list[Any]) -> None:
        """Note these attributes of objects of one class, as far as they are set."""
        by_names = {names: things}
        try:
            list(map(_getter(names), things))
        except AttributeError:
            by_names = {}
            for thing in things:
                there = tuple([name for name in names if hasattr(thing, name)])
                self.unset += [(thing, name) for name in names if name not in there]
                by_names.setdefault(there, []).append(thing)
        for there, alike in by_names.items():
            columns = [set(map(type, map(attrgetter(name), alike))) for name in there]
            of_strict = [any(map(_equals_others, column)) for column in columns]
            strict = tuple(compress(there, of_strict))
            plain = tuple([name for name in there if name not in strict])
            self.plain.note(plain, alike)
            self.strict.note(strict, alike)

    def put_back(self) -> None:
        """Give every object the contents that it had."""
        for thing, name, value in self.changing:
            setattr(thing, name, value)
        for items, before in self.lists:
            if items != before:
                items[:] = before
        for items, before in self.nested:
            items[:] = before
        slots = self.plain
        now = list(map(call, slots.getters, slots.things))
        if now != slots.were:
            self._mend(slots, now)
        slots = self.strict
        now = list(map(call, slots.getters, slots.things))
        if any(map(is_not, chain.from_iterable(now), self._strict_were)):
            self._mend(slots, now)
        for thing, absent in self.unset:
            if hasattr(thing, absent):
                delattr(thing, absent)
        for mapping, entries in self.dicts:
            if mapping or entries:
                mapping.clear()
                mapping.update(entries)
        for members, those in self.sets:
            members.clear()
            members |= those
        for sequence, contents in self.sequences:
            sequence.clear()
            sequence.extend(contents)
        for cell, content in self.cells:
            cell.cell_contents = content

    def _mend(self, slots: Slots, now: list[tuple[Any, ...]]) -> None:
        """Put attributes back, from now on without looking first: they will change again."""
        for thing, names, here, values in zip(
            slots.things, slots.names, now, slots.were, strict=True
        ):
            for place in compress(range(len(names)), map(is_not, here, values)):
                setattr(thing, names[place], values[place])
                self.changing.append((thing, names[place], values[place]))


@lru_cache(KINDS)
def _is_constant(kind: Any) -> bool:
    return issubclass(kind, CONSTANT)


@cache
def _getter(names: tuple[str, ...]) -> Callable[[Any], tuple[Any, ...]]:
    """How to read attributes as a tuple; one alone is read twice, or it would not be one."""
    return attrgetter(*(names if len(names) > 1 else names * 2))


@lru_cache(KINDS)
def _equals_others(kind: Any) -> bool:
    """Whether an object of a class is more than its value, and may all the same be equal to
    another."""
    return kind not in PLAIN and kind.__eq__ is not object.__eq__


class Attributes(NamedTuple):
    """Of the objects of a class: the slots that may change, whether there are others, and whether
    the objects are frozen."""

    slots: tuple[str, ...]
    others: bool
    frozen: bool


@lru_cache(KINDS)
def _attributes(kind: Any) -> Attributes:
    """Raises CannotNote: the class is not written in Python."""
    names: list[str] = []
    others = False
    fixed = fixed_attributes(kind)
    for base in kind.__mro__[:-1]:
        new = vars(base).get("__new__")
        if (
            not base.__flags__ & HEAP_TYPE
            or base.__flags__ & NO_INSTANCES
            or isinstance(new, types.BuiltinMethodType)
        ):
            raise CannotNote(f"an object of {kind.__module__}.{kind.__qualname__}")
        slots = vars(base).get("__slots__")
        if slots is None:
            others = others or "__dict__" in vars(base)
            continue
        for name in (slots,) if isinstance(slots, str) else slots:
            if name == "__dict__":
                others = True
            elif name != "__weakref__" and name not in fixed:
                private = name.startswith("__") and not name.endswith("__")
                names.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    parameters = getattr(kind, "__dataclass_params__", None)
    return Attributes(tuple(names), others, parameters is not None and parameters.frozen)


def fixed_attributes(kind: type) -> set[str]:
    """The names that a class declares to be `Final`."""
    return {
        name
        for base in kind.__mro__
        for name, declared in vars(base).get("__annotations__", {}).items()
        if str(declared).startswith(("Final", "typing.Final"))
    }


class Stage:
    """A target whose executions start where its tasks do, from the one on that is the FIRST.
    @always: also if that does not pay."""

    def __init__(self, target: Target, *, always: bool = False) -> None:
        self.target = target
        self.executions = 0
        self._noted: Noted | None = None
        self._machine: Any = None
        self._running: Any = None
        self._again = 0  # the next execution that is repeated from boot
        self._impossible = not (always or target.needs_machine)

    def execute(self, run: Recording) -> Outcome:
        """One run from boot, or as if from boot, to the oracles."""
        self.executions += 1
        if self._noted is None:
            if self.executions < FIRST or self._impossible:
                return self.target.execute(run)
            return self.target.execute(run, before_tasks=self._note)
        if self.executions == self._again:
            self._again *= COMPARED
            return self._compare(run)
        return self._rewound(run)

    @property
    def rewinds(self) -> bool:
        """Whether executions do not start from boot any more."""
        return self._noted is not None

    def _note(self, machine: Any) -> None:
        scheduler = machine.kernel.scheduler
        takeover, scheduler.takeover = scheduler.takeover, None
        try:
            self._noted = Noted(machine)
            self._machine = machine
            self._running = sched.task
            self._again = COMPARED
        except CannotNote:
            self._impossible = True
        scheduler.takeover = takeover

    def _rewound(self, run: Recording) -> Outcome:
        assert self._noted is not None
        self._noted.put_back()
        sched.task = self._running
        scheduler = self._machine.kernel.scheduler
        for task in scheduler.alive:
            scheduler.new_stack(task)
        return self.target.execute(run, self._machine)

    def _compare(self, run: Recording) -> Outcome:
        """Run it, and repeat it from boot.  Raises ScenarioError: that is not the same."""
        outcome = self._rewound(run)
        run.must_have_repeated()
        again = run.again()
        expected = replace(self.target, conditions=Conditions()).execute(again)
        same = again.words() == run.words()
        if outcome.ending in (Ending.COMPLETE, Ending.FAILED):
            violations = tuple(v for v in outcome.violations if v.oracle != "always")
            same = same and (expected.ending, expected.violations) == (outcome.ending, violations)
        if not same:
            raise run.differs()
        return outcome

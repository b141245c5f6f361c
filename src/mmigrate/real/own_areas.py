"""The areas of a process that are not the scenario's: those of the program that obeys orders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mmigrate.api import Mapping
from mmigrate.real import puppet
from mmigrate.units import PAGE_SIZE

_STACKS: Final = 0x1000_0000  # of threads, below the program
_STACK: Final = 0x8000
_STACK_STEP: Final = 0x1_0000
_STACK_PAGES: Final = 8  # more than the program ever touches
_STACK_GROWTH: Final = 0x10_0000
_SCRATCH: Final = 0x10_0000_0000  # long arguments, for the length of a system call
_SCRATCH_STEP: Final = 1 << 28
_SCRATCH_END: Final = 0x20_0000_0000
_AREA: Final = re.compile(r"([0-9a-f]+)(?:-[0-9a-f]+)? .*")


@dataclass(frozen=True)
class OwnAreas:
    """@fixed: the program, its stack, and what the kernel maps into every process.  @stack_end:
    the stack is below, and grows down."""

    fixed: tuple[Mapping, ...]
    stack_end: int
    stack_size: int = _STACK

    @classmethod
    def of(cls, maps: str) -> OwnAreas:
        """From /proc/PID/maps of a process that has done nothing yet."""
        found = []
        stack_end = 0
        for line in maps.splitlines():
            start, end = (int(text, 16) for text in line.split(" ", 1)[0].split("-"))
            found.append(Mapping(start, end - start))
            if line.endswith("[stack]"):
                stack_end = end
        return cls(tuple(found), stack_end)

    def stack(self, slot: int) -> int:
        """The lowest address of the stack of a thread."""
        return _STACKS + slot * _STACK_STEP

    def scratch(self, slot: int) -> int:
        return _SCRATCH + slot % 256 * _SCRATCH_STEP

    def mappings(self, slots: Iterable[int]) -> list[Mapping]:
        """All that has pages which can move, with the stacks of the threads in @slots."""
        program = Mapping(puppet.BASE, PAGE_SIZE)
        stack = Mapping(self.stack_end - _STACK_PAGES * PAGE_SIZE, _STACK_PAGES * PAGE_SIZE)
        threads = [Mapping(self.stack(slot), self.stack_size) for slot in sorted(slots) if slot]
        return [program, stack, *threads]

    def contains(self, address: int) -> bool:
        if _STACKS <= address < puppet.BASE + PAGE_SIZE or _SCRATCH <= address < _SCRATCH_END:
            return True
        if self.stack_end - _STACK_GROWTH <= address < self.stack_end:
            return True
        return any(area.start <= address < area.end for area in self.fixed)

    def without(self, text: str) -> str:
        """A table of /proc/PID without the lines that are about own areas."""
        kept: list[str] = []
        ours = False
        for line in text.splitlines(keepends=True):
            match = _AREA.match(line)
            if match is not None:
                ours = self.contains(int(match[1], 16))
            if not ours:
                kept.append(line)
        return "".join(kept)

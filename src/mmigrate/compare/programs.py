"""Generated programs over the user-level API, biased to migration; and how they are made small.

A program is a list of steps, each a line of a scenario: it can be printed as a scenario file, and
is run as one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

PAGES: Final = 8
NODES: Final = 3
HUGE: Final = 2 << 20  # bytes of a huge page
_NAME: Final = re.compile(r"\b(?:p|a|f|h|g)\d+\b")

HEAD: Final = '''\
"""{title}"""

from mmigrate import MiB
from mmigrate.observe import areas, attempt

MACHINE = {{"nodes": (MiB(64), MiB(64), MiB(64), 0)}}


def _pin(pins, process, where, write):
    pins.append(process.pin(where, write=write))


def _pools(machine):
    for node in range(3):
        machine.hugepages(0, node=node)  # what is left of others may be dirty
        machine.hugepages(4, node=node)


def _merge(machine):
    machine.ksm_scan()


def _huge_state(process, area):
    shown = areas(process, area)
    for each in shown:
        each.pop("dirty", None)  # a page of a pool may be so from earlier use
    return [
        attempt(process.move_pages, [area.start]),
        [attempt(process.read, area.start + offset, 8) for offset in (0, 5000, 2000000)],
        shown,
    ]


def _state(process, area):
    return [
        attempt(process.move_pages, area),
        [attempt(process.read, area.start + 4096 * page, 8) for page in (0, 3, 7)],
        areas(process, area),
    ]


def _compacted_state(process, area):
    answers = _state(process, area)
    for each in answers[-1]:
        each.pop("dirty", None)  # a page that has moved shows what others wrote
    return answers
'''


@dataclass(frozen=True)
class Step:
    """@defines: the name that a definition gives, "" for a call whose outcome is seen.
    @text: the definition, or the function and its arguments."""

    text: str
    defines: str = ""

    @property
    def needs(self) -> set[str]:
        return set(_NAME.findall(self.text)) - {self.defines}


@dataclass(frozen=True)
class Program:
    steps: tuple[Step, ...]

    def without(self, dropped: set[int]) -> Program:
        """Without some steps, and without those that cannot do without them."""
        known: set[str] = set()
        kept = []
        for number, step in enumerate(self.steps):
            if number not in dropped and step.needs <= known:
                kept.append(step)
                known |= {step.defines}
        return Program(tuple(kept))

    def function(self, name: str) -> str:
        """As a function of a scenario file."""
        lines = [f"def {name}(machine):", '    """Generated."""', "    seen, pins = {}, []"]
        # Files first: making one writes others of its filesystem back, at no certain time.
        files = [step for step in self.steps if step.defines.startswith("f")]
        lines += [f"    {step.text}".replace("NAME", name) for step in files]
        for number, step in enumerate(self.steps):
            if step in files:
                continue
            if step.defines:
                lines.append(f"    {step.text}".replace("NAME", name))
            else:
                subject = step.text.split(",")[0]
                lines.append(f'    seen["{number} {subject}"] = attempt({step.text})')
        compacts = any(step.text == "machine.compact" for step in self.steps)
        for process, area in self._views():
            state = "_compacted_state" if compacts else "_state"
            if area.startswith("h"):
                state = "_huge_state"
            lines.append(f'    seen["{process} {area}"] = {state}({process}, {area})')
        if compacts:
            lines.append('    seen["(migrations)"] = "of others too"')
        lines += ["    for pin in pins:", "        attempt(pin.release)", "    return seen"]
        return "\n".join(lines) + "\n"

    def _views(self) -> Iterator[tuple[str, str]]:
        """Which process has which area in the end."""
        views: dict[str, list[str]] = {}
        for step in self.steps:
            if fork := re.match(r"(p\d+) = (p\d+)\.fork", step.text):
                views[fork[1]] = list(views.get(fork[2], ()))
            elif made := re.match(r"(p\d+) = ", step.text):
                views[made[1]] = []
            elif mapped := re.match(r"([ah]\d+) = (p\d+)\.mmap", step.text):
                views[mapped[2]].append(mapped[1])
            elif ended := re.match(r"(p\d+)\.exit", step.text):
                views.pop(ended[1], None)
        for process, areas in views.items():
            for area in areas:
                yield process, area


def scenario_file(programs: dict[str, Program], title: str) -> str:
    """Programs by name, as a scenario file."""
    parts = [HEAD.format(title=title)]
    parts += [program.function(name) for name, program in programs.items()]
    return "\n\n".join(parts)


# --- generating ---


class _Writer:
    """Writes one program, and knows what is there to be used.

    It leaves out what hangs on more than the program: interleaving of shared memory goes by
    the number of its inode and that of tasks by page tables too; how much users may lock and how
    far a file is read ahead are settings.
    """

    def __init__(self, seed: int, kinds: _Kinds) -> None:
        self.random = random.Random(seed)
        self.kinds, self.weights = zip(*kinds, strict=True)
        self.steps: list[Step] = []
        self.views: dict[str, list[str]] = {}  # areas of each process that lives
        self.counts = {"p": 0, "a": 0, "f": 0, "h": 0, "g": 0}
        self.users: set[str] = set()  # processes that are not root's
        self.shared: set[str] = set()  # areas of files and shared memory
        self.transparent: set[str] = set()  # areas of a transparent huge page
        self.merging = self.pinning = False
        self.pooled: set[str] = set()  # areas of a huge page of hugetlb

    def program(self) -> Program:
        self.process()
        self.map()
        for _ in range(self.random.randint(4, 22)):
            self.random.choices(self.kinds, self.weights)[0](self)
        return Program(tuple(self.steps))

    # definitions

    def _define(self, letter: str, text: str) -> str:
        name = f"{letter}{self.counts[letter]}"
        self.counts[letter] += 1
        self.steps.append(Step(f"{name} = {text}", name))
        return name

    def process(self) -> None:
        if len(self.views) >= 3 or self.merging:
            return
        uid = self.random.choice((0, 0, 0, 1000, 1001))
        user = f", uid={uid}" if uid else ""
        name = self._define("p", f'machine.process("p", cpu={self.random.randrange(NODES)}{user})')
        self.views[name] = []
        if uid:
            self.users.add(name)

    def map(self) -> None:
        process = self.any_process()
        if len(self.views[process]) >= 3:
            return
        place = f"at={3 + self.counts['a']} << 32"
        kind = self.random.choices(("private", "shared", "ext4", "shmem"), (6, 2, 2, 2))[0]
        options = self.random.choice(("", "", "", ', prot="r"', ", locked=True", ", populate=True"))
        if process in self.users and "locked" in options:
            options = ""
        shared = ", shared=True" if kind == "shared" or self.random.random() < 0.5 else ""
        if kind == "private":
            shared = ""
        if kind in ("ext4", "shmem"):
            make = (
                f'machine.file("NAME-{self.counts["f"]}", {PAGES} * 4096, '
                f'data=b"on disk." * 512 * {PAGES})'
                if kind == "ext4"
                else f'machine.shmem("NAME-{self.counts["f"]}", {PAGES} * 4096)'
            )
            file = self._define("f", make)
            shared += f", file={file}"
            if kind == "ext4":
                self._see(f"{process}.pread, {file}, {PAGES} * 4096")
        area = self._define("a", f"{process}.mmap(pages={PAGES}, {place}{shared}{options})")
        self.views[process].append(area)
        if kind != "private":
            self.shared.add(area)

    def fork(self) -> None:
        # A store to a shared huge page copies all of it, or in later kernels the base page only.
        if len(self.views) < 3 and not self.transparent and not self.merging:
            process = self.any_process()
            child = self._define("p", f"{process}.fork()")
            self.views[child] = list(self.views[process])
            if process in self.users:
                self.users.add(child)

    def exit(self) -> None:
        if len(self.views) > 1:
            process = self.random.choice(list(self.views)[1:])
            self._see(f"{process}.exit")
            del self.views[process]

    # what is used

    def any_process(self) -> str:
        return self.random.choice(list(self.views))

    def any_area(self, letter: str = "a") -> tuple[str, str]:
        """A process that has areas, and one of them; @letter: "h" for a huge page."""
        found = [
            (process, area)
            for process, areas in self.views.items()
            for area in areas
            if area.startswith(letter)
        ]
        process = self.random.choice([process for process, _ in found] or ["p0"])
        areas = [area for owner, area in found if owner == process]
        return process, self.random.choice(areas or [f"{letter}0"])

    def part(self, area: str) -> str:
        if self.random.random() < 0.3:
            return area
        first = self.random.randrange(PAGES)
        return f"{area}[{first}:{self.random.randint(first + 1, PAGES)}]"

    def node(self) -> int:
        return self.random.choice((0, 1, 2, 0, 1, 2, 0, 1, 2, 3, 5, -1, 1024))

    def node_set(self) -> list[int]:
        pool = range(NODES) if self.random.random() < 0.8 else (0, 1, 2, 3, 4, 7, 70)
        return sorted(
            {self.random.choice(pool) for _ in range(self.random.choice((1, 1, 2, 2, 3)))}
        )

    def _see(self, text: str) -> None:
        self.steps.append(Step(text))

    # memory

    def touch(self) -> None:
        process, area = self.any_area()
        write = self.random.random() < 0.75
        self._see(f"{process}.touch, {self.part(area)}" + ("" if write else ", write=False"))

    def write(self) -> None:
        process, area = self.any_area()
        offset = self.random.randrange(PAGES) * 4096 + self.random.choice((0, 0, 3, 4090))
        text = self.random.choice(("one", "two", "three", "longer text"))
        self._see(f'{process}.write, {area}.start + {offset}, b"{text}"')

    def protect(self) -> None:
        process, area = self.any_area()
        rights = self.random.choice(("r", "rw", "", "rw", "rx"))
        self._see(f'{process}.mprotect, {self.part(area)}, "{rights}"')

    def lock(self) -> None:
        process, area = self.any_area()
        call = self.random.choice(("mlock", "mlock", "munlock"))
        if process not in self.users:
            self._see(f"{process}.{call}, {self.part(area)}")

    def unmap(self) -> None:
        process, area = self.any_area()
        self._see(f"{process}.munmap, {self.part(area)}")

    def give_back(self) -> None:
        process, area = self.any_area()
        self._see(f"{process}.madvise, {self.part(area)}, 4")

    def pin(self) -> None:
        if self.merging:
            return
        self.pinning = True
        process, area = self.any_area()
        write = self.random.random() < 0.7
        part = self.part(area)
        if write:  # a real pin for writing stores first; so that both do
            self._see(f"{process}.touch, {part}")
        self._see(f"_pin, pins, {process}, {part}, {write}")

    # moving

    def move(self) -> None:
        process, area = self.any_area()
        caller, target = process, ""
        if self.random.random() < 0.25:
            caller = self.any_process()
            target = f", process={process}"
        flags = self.random.choice((2, 2, 2, 2, 4, 4, 0, 6, 1, 8))
        if self.random.random() < 0.3:
            pages = [self.random.randrange(-1, PAGES + 1) for _ in range(self.random.randint(0, 6))]
            where = "[" + ", ".join(f"{area}.start + {page * 4096}" for page in pages) + "]"
            nodes = ", ".join(str(self.node()) for _ in pages)
            self._see(f"{caller}.move_pages, {where}, [{nodes}], flags={flags}{target}")
        else:
            self._see(
                f"{caller}.move_pages, {self.part(area)}, {self.node()}, flags={flags}{target}"
            )

    def query(self) -> None:
        process, area = self.any_area()
        self._see(f"{self.any_process()}.move_pages, {self.part(area)}, process={process}")

    def migrate(self) -> None:
        process = self.any_process()
        caller, target = process, ""
        if self.random.random() < 0.3:
            caller, target = self.any_process(), f", process={process}"
        self._see(f"{caller}.migrate_pages, {self.node_set()}, {self.node_set()}{target}")

    def bind(self) -> None:
        process, area = self.any_area()
        flags = self.random.choice((0, 2, 2, 2, 3, 3, 1, 4, 5, 7, 8))
        self._see(f"{process}.mbind, {self.part(area)}, {self._policy(area)}, flags={flags}")

    def _policy(self, area: str | None = None) -> str:
        modes = ["bind", "bind", "bind", "preferred", "default", "local"]
        if area is not None and area not in self.shared:
            modes.append("interleave")
        mode = self.random.choice(modes)
        word = self.random.choice(("", "", "", "", "=static", "=relative"))
        none = mode in ("default", "local") or self.random.random() < 0.05
        return f'"{mode}{word}", {[] if none else self.node_set()}'

    def set_policy(self) -> None:
        self._see(f"{self.any_process()}.set_mempolicy, {self._policy()}")

    def get_policy(self) -> None:
        process, area = self.any_area()
        flags = self.random.choice((0, 2, 2, 2, 3, 3, 4))
        where = f"{area}.start + {4096 * self.random.randrange(PAGES)}" if flags & 2 else "0"
        self._see(f"{process}.get_mempolicy, {where}, {flags}")

    def cpu(self) -> None:
        self.steps.append(Step(f"{self.any_process()}.on_cpu, {self.random.randrange(NODES)}"))

    # huge pages, merging, and what else moves pages

    def map_huge(self) -> None:
        """A transparent huge page, or one of hugetlb out of a pool that has some on each node."""
        process = self.any_process()
        if self.counts["h"] >= 2 or process in self.users:
            return
        pooled = self.random.random() < 0.6
        if not pooled and (len(self.views) > 1 or self.counts["p"] > 1):
            return
        if pooled and not self.pooled:
            self._see("_pools, machine")
        place = f"at={40 + self.counts['h']} << 32"
        options = f", hugetlb={HUGE}" if pooled else ""
        area = self._define("h", f"{process}.mmap({HUGE}, {place}{options})")
        self.views[process].append(area)
        (self.pooled if pooled else self.transparent).add(area)
        if not pooled:
            self._see(f"{process}.madvise, {area}, 14")
            self._see(f'{process}.write, {area}.start, b"huge"')

    def use_huge(self) -> None:
        process, area = self.any_area("h")
        if area not in self.pooled | self.transparent:
            return
        offset = self.random.choice((0, 5000, 2000000))
        policy = self._policy(area).replace("interleave", "bind")
        calls = [
            f'{process}.write, {area}.start + {offset}, b"huge"',
            f'{process}.write, {area}.start + {offset}, b"large"',
            f"{process}.read, {area}.start + {offset}, 8",
            f"{process}.mbind, {area}, {policy}, flags={self.random.choice((0, 2, 2, 2))}",
            f"{process}.migrate_pages, {self.node_set()}, {self.node_set()}",
            f'{process}.mprotect, {area}, "{self.random.choice(("r", "rw", "rw"))}"',
        ]
        if area in self.pooled:
            head = f"{process}.move_pages, [{area}.start], [{self.node()}]"
            calls += 4 * [f"{head}, flags={self.random.choice((2, 2, 4, 0))}"]
        self._see(self.random.choice(calls))

    def merge(self) -> None:
        """By one process alone, and without pins: which of two equal pages stays hangs on where
        ksmd has stopped."""
        process, area = self.any_area()
        if area not in self.shared and self.counts["p"] == 1 and not self.pinning:
            self.merging = True
            self._see(f"{process}.madvise, {self.part(area)}, {self.random.choice((12, 12, 13))}")
            if self.random.random() < 0.6:
                self._see("_merge, machine")

    def soft_offline(self) -> None:
        process, area = self.any_area()
        if process not in self.users and area not in self.shared:
            page = self.random.randrange(PAGES)
            self._see(f"{process}.madvise, {area}[{page}:{page + 1}], 101")

    def compact(self) -> None:
        self._see("machine.compact")

    def group(self) -> None:
        process = self.any_process()
        if self.counts["g"] < 2:
            self._define("g", f'machine.cgroup("NAME-{self.counts["g"]}")')
        self._see(f"{process}.join, g{self.random.randrange(self.counts['g'])}")


_Kinds = tuple[tuple[Callable[[_Writer], None], float], ...]

_KINDS: Final[_Kinds] = (
    (_Writer.process, 0.7),
    (_Writer.map, 2),
    (_Writer.fork, 1.5),
    (_Writer.exit, 0.3),
    (_Writer.touch, 4),
    (_Writer.write, 2),
    (_Writer.protect, 1.5),
    (_Writer.lock, 1),
    (_Writer.unmap, 0.7),
    (_Writer.give_back, 0.7),
    (_Writer.pin, 1.2),
    (_Writer.move, 7),
    (_Writer.query, 1),
    (_Writer.migrate, 2.5),
    (_Writer.bind, 4),
    (_Writer.set_policy, 1),
    (_Writer.get_policy, 1.5),
    (_Writer.cpu, 0.7),
)


# Not on every kernel and computer, and slower.
_MORE: Final[_Kinds] = (
    (_Writer.map_huge, 3),
    (_Writer.use_huge, 8),
    (_Writer.merge, 3),
    (_Writer.soft_offline, 1),
    (_Writer.compact, 0.3),
    (_Writer.group, 1),
)


def generate(seed: int, more: bool = False) -> Program:
    """The program of a seed.  @more: with huge pages, merging, soft offline, compaction and
    cgroups too."""
    return _Writer(seed, _KINDS + _MORE if more else _KINDS).program()


# --- making small ---


def smaller(program: Program) -> list[Program]:
    """Programs with something left out, those with most first."""
    size = len(program.steps)
    found: dict[Program, None] = {}
    width = max(1, size // 2)
    while True:
        for first in range(0, size, width):
            candidate = program.without(set(range(first, first + width)))
            if candidate.steps and len(candidate.steps) < size:
                found[candidate] = None
        if width == 1:
            break
        width //= 2
    return sorted(found, key=lambda each: len(each.steps))


def shrink(
    program: Program, differ: Callable[[Sequence[Program]], Sequence[Any]], rounds: int = 20
) -> Program:
    """The smallest program found that still differs.  @differ: for each of some programs, whether
    it does; it is asked for many at once, as that is one boot."""
    for _ in range(rounds):
        candidates = smaller(program)
        found = [each for each, does in zip(candidates, differ(candidates), strict=True) if does]
        if not found:
            break
        program = found[0]
    return program

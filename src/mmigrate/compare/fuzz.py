"""Generated programs on both sides; a difference is made small."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmigrate.compare import kernels
from mmigrate.compare.cases import load_cases
from mmigrate.compare.programs import Program, generate, scenario_file, shrink
from mmigrate.compare.verdicts import Verdict, judge

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Side:
    """The kernel to ask.  @image: None for the one that runs here; @release: such as "v6.1";
    @model: the release of the model."""

    name: str
    image: Path | None
    nodes: Sequence[int]
    release: str
    model: str


def compare_programs(side: Side, programs: dict[str, Program]) -> Iterator[tuple[str, Verdict]]:
    """What each program comes to, by name; one boot."""
    with tempfile.TemporaryDirectory(prefix="mmigrate-fuzz-") as folder:
        file = Path(folder) / "programs.py"
        file.write_text(scenario_file(programs, "Generated programs."))
        cases = {case.scenario.name: case for case in load_cases([str(file)])}
        for name, told in kernels.program_answers(side.image, side.nodes, file, list(programs)):
            yield name, judge(cases[name], told, side.model, side.release)


def fuzz(
    side: Side, count: int, seed: int, report: Progress, more: bool = False
) -> Iterator[tuple[Program, Verdict]]:
    """@count programs, of seed @seed and the following; each with its verdict.  @more: with what
    `generate` calls more."""
    numbers = range(seed, seed + count)
    programs = {f"program_{number}": generate(number, more) for number in numbers}
    for done, (name, verdict) in enumerate(compare_programs(side, programs)):
        report(name, done, count)
        yield programs[name], verdict


def shrunk(side: Side, program: Program) -> Program:
    """The smallest program found that still differs."""

    def differ(candidates: Sequence[Program]) -> list[bool]:
        named = {f"program_{number}": each for number, each in enumerate(candidates)}
        found = {
            name: verdict.outcome == "different" for name, verdict in compare_programs(side, named)
        }
        return [found[name] for name in named]

    return shrink(program, differ)

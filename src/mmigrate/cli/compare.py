"""`mmigrate compare FILE… --kernel K`: the same scenarios on the model and on a kernel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mmigrate.cli import output
from mmigrate.cli.sizes import parse_sizes
from mmigrate.compare import kernels
from mmigrate.compare.cases import Case, load_cases
from mmigrate.compare.kernels import Recording, Told
from mmigrate.compare.verdicts import Report, judge
from mmigrate.errors import UsageError
from mmigrate.report.comparison import print_report


def command(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE[:NAME]…", help="Scenario files, or folders of them.", show_default=False
        ),
    ],
    kernel: Annotated[
        str | None,
        typer.Option(help='"host", the image of a kernel, or with --recorded its release.'),
    ] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Compare with recorded answers; of all if no kernel.")
    ] = False,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the kernel's answers in a file.")
    ] = None,
    nodes: Annotated[
        str | None, typer.Option(help="Memory of each node of the guest, such as 512M,512M,0.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="How often each scenario is run.")] = 1,
    against: Annotated[
        str | None,
        typer.Option(
            "--model", metavar="RELEASE", help="Of which release the model is; the kernel's."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run scenarios on the model and on a real kernel, and compare what they return.

    \b
    Example:  mmigrate compare examples/collection --recorded
              mmigrate compare examples/collection/mbind.py --kernel /boot/vmlinuz-6.1.0-56-amd64
              mmigrate compare examples/collection/races.py --kernel host --repeat 100

    \b
    Exit code: 0 all the same, or known differences; 1 a difference; 2 bad input;
               3 no QEMU, no such recording, no permission
    """
    cases = load_cases(files)
    sources = _sources(cases, kernel, recorded, nodes, repeat)
    earlier = kernels.read_recording(record) if record is not None and record.exists() else None
    reports = []
    with output.progress() as show:
        for name, image, told_cases in sources:
            release = kernels.release_of(name)
            report = Report(name, against or release)
            told: dict[str, Told] = {}
            for case, answers in told_cases:
                show(f"{case.name}", len(told), len(cases))
                told[case.name] = answers
                report.verdicts.append(judge(case, answers, report.model, release))
            reports.append(report)
            if record is not None:
                configuration = kernels.configuration_of(image, name)
                sizes = tuple(parse_sizes(nodes)) if nodes else kernels.NODES
                new = Recording(name, sizes, configuration, told)
                kernels.write_recording(record, new if earlier is None else earlier.with_(new))
    if as_json:
        found = [report.as_json() for report in reports]
        output.print_json(found[0] if len(found) == 1 else {"kernels": found})
    else:
        for report in reports:
            print_report(report)
    if not all(report.agrees for report in reports):
        raise typer.Exit(1)


Source = tuple[str, Path, Iterator[tuple[Case, Told]]]


def _sources(
    cases: Sequence[Case], kernel: str | None, recorded: bool, nodes: str | None, repeat: int
) -> Iterator[Source]:
    """The release of each kernel, its image, and its answers."""
    if recorded:
        kept = kernels.recordings() if kernel is None else [kernels.find_recording(kernel)]
        for each in kept:
            yield each.name, Path(), iter(_kept(cases, each))
        return
    if kernel is None:
        raise UsageError('which kernel? --kernel "host" or an image, or --recorded')
    if kernel == "host":
        yield kernels.host_release(), Path(), kernels.host_answers(cases, repeat)
        return
    from mmigrate.lab import kernel_image

    image = Path(kernel)
    name = kernel_image(image).release
    sizes = parse_sizes(nodes) if nodes else kernels.NODES
    yield name, image, kernels.booted_answers(image, sizes, cases, repeat)


def _kept(cases: Sequence[Case], recording: Recording) -> list[tuple[Case, Told]]:
    unknown = [case.name for case in cases if case.name not in recording.told]
    if unknown:
        names = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
        raise UsageError(f"{recording.name} was never asked {names}; --record keeps its answers")
    return [(case, recording.told[case.name]) for case in cases]

"""`mmigrate fuzz --kernel K`: generated programs on the model and on a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mmigrate.cli import output
from mmigrate.cli.sizes import parse_sizes
from mmigrate.compare import kernels
from mmigrate.compare.fuzz import Side, fuzz, shrunk
from mmigrate.compare.programs import Program, scenario_file
from mmigrate.compare.verdicts import Report, Verdict
from mmigrate.report.comparison import print_report


def command(
    kernel: Annotated[
        str, typer.Option(help='"host", or the image of a kernel.', show_default=False)
    ],
    programs: Annotated[int, typer.Option(min=1, help="How many.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of the first; the others follow.")] = 0,
    more: Annotated[
        bool,
        typer.Option(
            "--more",
            help="With huge pages, merging, soft offline, compaction and memory cgroups too.",
        ),
    ] = False,
    nodes: Annotated[
        str | None, typer.Option(help="Memory of each node of the guest, such as 512M,512M,0.")
    ] = None,
    shrink: Annotated[
        int, typer.Option(min=0, help="How many differences to make small, each in some boots.")
    ] = 1,
    findings: Annotated[
        Path, typer.Option(help="The folder in which differing programs are kept.")
    ] = Path("findings"),
    against: Annotated[
        str | None,
        typer.Option("--model", metavar="RELEASE", help="Of which release the model is."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Run generated programs on the model and on a real kernel. What differs is made small and kept
    as a scenario file, for `mmigrate compare`.

    \b
    Example:  mmigrate fuzz --kernel /boot/vmlinuz-6.1.0-56-amd64 --programs 500 --seed 1
              mmigrate fuzz --kernel host --programs 20 --more

    \b
    Exit code: 0 all the same; 1 a difference; 2 bad input; 3 no QEMU, no permission
    """
    side = _side(kernel, nodes, against)
    report = Report(side.name, side.model)
    different: list[tuple[Program, Verdict]] = []
    kept: list[Path] = []
    with output.progress() as show:
        for program, verdict in fuzz(side, programs, seed, show, more):
            report.verdicts.append(verdict)
            if verdict.outcome == "different":
                different.append((program, verdict))
        for number, (program, verdict) in enumerate(different):
            small = number < shrink
            if small:
                program = shrunk(side, program)
            kept.append(_keep(findings, verdict.case.partition(":")[2], program, small))
    if as_json:
        files = [str(path) for path in kept]
        output.print_json({**report.as_json(), "seed": seed, "findings": files})
    else:
        print_report(report)
        console = Console(highlight=False, soft_wrap=True)
        for path in kept[:shrink]:
            console.print(path.read_text(), markup=False)
        for path in kept:
            console.print(f"repeat with: mmigrate compare {path} --kernel {kernel}", markup=False)
    if not report.agrees:
        raise typer.Exit(1)


def _side(kernel: str, nodes: str | None, against: str | None) -> Side:
    image: Path | None = None
    if kernel == "host":
        name = kernels.host_release()
    else:
        from mmigrate.lab import kernel_image

        image = Path(kernel)
        name = kernel_image(image).release
    release = kernels.release_of(name)
    sizes = parse_sizes(nodes) if nodes else kernels.NODES
    return Side(name, image, sizes, release, against or release)


def _keep(folder: Path, name: str, program: Program, small: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    title = "A generated program that differs" + (", made small." if small else ".")
    path.write_text(scenario_file({name: program}, title))
    return path

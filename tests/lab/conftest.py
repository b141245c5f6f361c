"""A guest that is none, for everything around booting; and what one real boot came to."""

import os
import shutil
import stat
import struct
import sys
from pathlib import Path

import pytest

from mmigrate import MiB
from mmigrate.errors import MmigrateError
from mmigrate.lab import Guest, Tools, find_tools, installed_kernels, run_jobs

# Runs what the first process of a guest would run, but for the mounts and the end.
FAKE_QEMU = """\
#!{python}
import os, pathlib, re, subprocess, sys, time
arguments = sys.argv
append = arguments[arguments.index("-append") + 1]
serial = arguments[arguments.index("-serial") + 1].removeprefix("file:")
pathlib.Path(serial).write_text("fake kernel\\nboots\\n")
pathlib.Path({seen!r}).write_text("\\0".join(arguments))
os.environ["FAKE_QEMU"] = str(os.getpid())
if "fake.hang" in append:
    time.sleep(600)
if "fake.die" in append:
    sys.exit(0)
lines = pathlib.Path(re.search(r"init=(\\S+)", append)[1]).read_text().splitlines()
begin = next(number for number, line in enumerate(lines) if line.startswith("cd "))
chosen = [line for line in lines[:begin] if line.startswith("export ")]
share = re.search(r"MMIGRATE_REQUESTS=(\\S+)", "\\n".join(chosen))[1]
os.makedirs(share, exist_ok=True)
script = "\\n".join(chosen + lines[begin : begin + 3])
assert "sysrq" not in script
subprocess.run(["/bin/sh", "-c", script])
"""


@pytest.fixture
def image(tmp_path, monkeypatch):
    """The file of a kernel that nobody could boot."""
    release = b"9.9-fake"
    head = bytearray(0x400)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x100)
    head[0x300 : 0x300 + len(release)] = release
    path = tmp_path / "vmlinuz"
    path.write_bytes(head)
    modules = tmp_path / "modules"
    (modules / "9.9-fake").mkdir(parents=True)
    monkeypatch.setattr("mmigrate.lab.tools.MODULES", modules)
    return path


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def fake(image, tmp_path, monkeypatch):
    """A QEMU that boots nothing; where it tells its arguments."""
    seen = tmp_path / "arguments"
    tools = Tools(
        qemu=program(tmp_path / "qemu", FAKE_QEMU.format(python=sys.executable, seen=str(seen))),
        mkinitramfs=program(tmp_path / "mkinitramfs", "#!/bin/sh\nexit 0\n"),
        busybox="/bin/busybox",
    )
    monkeypatch.setattr("mmigrate.lab.boot.find_tools", lambda: tools)
    monkeypatch.setenv("MMIGRATE_ACCELERATOR", "tcg")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return seen


SCENARIOS = Path(__file__).parent / "guest_scenarios.py"
EXAMPLES = Path(__file__).parents[2] / "examples"
LIVE = {
    "whole_heap": EXAMPLES / "first_move.py",
    "bind_and_move": EXAMPLES / "policies.py",
    "segment_by_policy": EXAMPLES / "shared_memory.py",
    "out_and_in_again": EXAMPLES / "swapped_out.py",
    "writer_and_mover": EXAMPLES / "racing.py",
}


def chosen_kernel():
    """The kernel that is booted: the oldest, or the one that MMIGRATE_LIVE_KERNEL begins."""
    kernels = installed_kernels()
    chosen = os.environ.get("MMIGRATE_LIVE_KERNEL", "")
    return next((k for k in kernels if k.release.startswith(chosen)), kernels[0])


# Cases of the collection that need two nodes only.
TWO_NODES = {"nodes": [MiB(64), MiB(64)]}
COMPARED = [
    ("move_pages_statuses", "never_touched"),
    ("move_pages_statuses", "zero_page"),
    ("move_pages_statuses", "shared_after_fork"),
    ("move_pages_statuses", "pinned"),
    ("move_pages_statuses", "all_pinned"),
    ("move_pages_errors", "more_than_a_chunk"),
    ("mbind", "flags_move_strict"),
    ("mbind", "holes_and_move"),
    ("page_kinds", "file_dirty_and_shared"),
    ("page_kinds", "forked_and_broken"),
    ("protection", "writable_again"),
]


@pytest.fixture(scope="session")
def live():
    """What came of the scenarios in one real boot, by name.

    The only place where a test may be skipped: this computer has no lab.
    """
    try:
        find_tools()
        kernels = installed_kernels()
    except MmigrateError as error:
        pytest.skip(f"no kernel is booted: {error}")
    if shutil.which("numastat") is None:
        pytest.skip("no kernel is booted: numastat is not installed; make lab gets it")
    if not kernels:
        pytest.skip("no kernel is booted: none is in /boot with its modules; make lab gets it")
    kernel = chosen_kernel()
    guest = Guest(
        kernel.path,
        nodes=(MiB(512), MiB(256), 0, MiB(256)),
        cpus=(0, 1, 2),
        distances=((10, 15, 20, 25), (15, 10, 20, 25), (20, 20, 10, 25), (25, 25, 25, 10)),
        balloon=True,
    )
    names = [
        line[4:].split("(")[0] for line in SCENARIOS.read_text().splitlines() if "def " in line
    ]
    files = {**LIVE, **{name: SCENARIOS for name in names if not name.startswith("_")}}
    jobs: list[dict[str, object]] = [
        {
            "name": name,
            "call": "mmigrate.real.scenario:run",
            "arguments": {"file": str(file), "name": name},
            "seconds": 1 if name == "never_ends" else 60,
        }
        for name, file in files.items()
    ]
    jobs += [
        {
            "name": f"{file}:{name}",
            "call": "mmigrate.compare.answers:observe",
            "arguments": {"file": f"{EXAMPLES}/collection/{file}.py", "name": name, **TWO_NODES},
        }
        for file, name in COMPARED
    ]
    modules = ["mmigrate.real.scenario", "mmigrate.compare.answers"]
    events = run_jobs(guest, jobs, server="mmigrate.real.serve", modules=modules)
    return {event["name"]: event for event in events}

"""The lab without a kernel: bad input, guests that hang or die, and what is left behind."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmigrate import MiB
from mmigrate.errors import LabError, UsageError
from mmigrate.lab import Boot, Guest, Tools, find_tools, kernel_image, run_in_guest, run_jobs
from mmigrate.lab.accelerator import accelerator
from mmigrate.lab.tools import release_order
from tests.lab.conftest import program

SCENARIOS = """
import os, signal, time
from mmigrate import MiB
MACHINE = {"nodes": (MiB(1),)}

def good(machine):
    app = machine.process()
    heap = app.mmap(pages=2)
    app.touch(heap)
    assert app.placement(heap) == {0: 2}

def wrong(machine):
    assert 1 == 2, "one is not two"

def raises(machine):
    machine.process().mmap()

def kills_the_guest(machine):
    os.kill(int(os.environ["FAKE_QEMU"]), signal.SIGKILL)
    time.sleep(60)

def hangs_the_guest(machine):
    os.kill(os.getppid(), signal.SIGSTOP)
    time.sleep(60)

def last(machine):
    pass
"""


def left_behind(tmp_path):
    return list((tmp_path / "temporary").iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"nodes": ()}, "a guest has 1 to 8 nodes, not 0"),
        ({"nodes": (MiB(64),) * 9}, "a guest has 1 to 8 nodes, not 9"),
        ({"nodes": (0, 0)}, "a guest needs 256 MiB of memory; its nodes have 0 MiB"),
        ({"nodes": (MiB(300), 5)}, "node 1 has 5 bytes, not a number of whole MiB"),
        ({"cpus": (0, 2)}, "a CPU is on node 2; there are nodes 0 to 1"),
        ({"cpus": ()}, "a guest needs a CPU"),
        ({"nodes": (MiB(256),) * 3, "cpus": (0, 2)}, "Linux would call node 2 node 1: nodes with"),
        ({"cpus": (1, 0)}, "Linux would call node 1 node 0"),
        ({"distances": ((10,),)}, "distances must be 2 rows of 2 numbers"),
        ({"distances": ((10, 5), (20, 10))}, "the distance from node 0 to node 1 is 5"),
        ({"distances": ((11, 20), (20, 10))}, "the distance from node 0 to node 0 is 11"),
    ],
)
def test_guests_that_cannot_be(image, options, sentence):
    with pytest.raises(UsageError, match=sentence) as caught:
        Guest(image, **options)
    assert caught.value.exit_code == 2


def test_images_that_are_none(tmp_path):
    with pytest.raises(UsageError, match="nothing: No such file or directory"):
        kernel_image(tmp_path / "nothing")
    (tmp_path / "text").write_text("not a kernel" * 1000)
    with pytest.raises(UsageError, match="is not a kernel image for x86-64"):
        kernel_image(tmp_path / "text")


def test_a_kernel_without_its_modules_or_without_numa(image, tmp_path):
    assert str(kernel_image(image)) == "9.9-fake"
    image.with_name("config-9.9-fake").write_text("CONFIG_SMP=y\n# CONFIG_NUMA is not set\n")
    with pytest.raises(
        LabError, match=r"9.9-fake was built without NUMA \(CONFIG_NUMA\)"
    ) as caught:
        kernel_image(image)
    assert caught.value.exit_code == 3
    (tmp_path / "modules/9.9-fake").rmdir()
    with pytest.raises(LabError, match=r"the modules of 9.9-fake are not in .*; make lab gets it"):
        kernel_image(image)


def test_no_qemu(monkeypatch, tmp_path):
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    with pytest.raises(LabError, match="QEMU is not installed; make lab gets it"):
        find_tools()


def test_releases_are_ordered_by_their_numbers():
    assert release_order("6.1.0-56-amd64") < release_order("6.12.117+deb12-amd64")


def test_what_qemu_is_told(fake, image):
    guest = Guest(
        image,
        nodes=(MiB(512), 0, MiB(256)),
        cpus=(0, 1, 0),
        distances=((10, 20, 30), (20, 10, 30), (30, 30, 10)),
        balloon=True,
        append=("movablecore=64M",),
    )
    run_in_guest(guest, ["true"])
    arguments = fake.read_text().split("\0")
    nodes = [b for a, b in itertools.pairwise(arguments) if a == "-numa"]
    assert nodes[:4] == [
        "node,nodeid=0,memdev=memory0,cpus=0,cpus=2",
        "node,nodeid=1,cpus=1",
        "node,nodeid=2,memdev=memory2",
        "dist,src=0,dst=0,val=10",
    ]
    assert len(nodes) == 3 + 9
    assert arguments[arguments.index("-m") + 1] == "768M"
    assert "virtio-balloon-pci" in arguments
    assert "movablecore=64M" in arguments[arguments.index("-append") + 1]


def test_a_command_gives_its_output_and_status(fake, image, tmp_path):
    share = tmp_path / "share"
    command = ["sh", "-c", f"echo said $WORD; echo kept > {share}/file; exit 5"]
    run = run_in_guest(Guest(image), command, share=share, environment={"WORD": "so much"})
    assert (run.status, run.output, run.accelerator) == (5, "said so much\n", "tcg")
    assert run.console == "fake kernel\nboots\n"
    assert (share / "file").read_text() == "kept\n"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("append", "seconds", "sentence"),
    [
        ("fake.hang", 3, "the guest did not end within 3 s"),
        ("fake.die", 10, "the guest ended before its command"),
    ],
)
def test_a_guest_that_hangs_or_dies(fake, image, tmp_path, append, seconds, sentence):
    with pytest.raises(LabError, match=sentence + r"; its console ends:\n  \| fake kernel"):
        run_in_guest(Guest(image, append=(append,)), ["true"], seconds=seconds)
    assert left_behind(tmp_path) == []


def test_a_disk_that_is_full(fake, image, tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(LabError, match=r"the guest cannot be started: .*No space left"):
            run_in_guest(Guest(image), ["true"])
    assert left_behind(tmp_path) == []
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(LabError, match="no folder can be made for the guest: No space left"):
        run_in_guest(Guest(image), ["true"])


def test_an_initramfs_that_cannot_be_made(fake, image, tmp_path):
    program(tmp_path / "mkinitramfs", "#!/bin/sh\necho because >&2\nexit 1\n")
    with pytest.raises(LabError, match=r"cannot make the initramfs of 9.9-fake: because"):
        run_in_guest(Guest(image), ["true"])
    assert left_behind(tmp_path) == []


def test_a_monitor_that_does_not_answer(fake, image):
    with (
        Boot(Guest(image), ["sleep", "60"]) as boot,
        pytest.raises(LabError, match="QEMU does not answer"),
    ):
        boot.monitor()


# --- KVM ---


def test_the_accelerator_can_be_chosen(fake, image, monkeypatch):
    tools, kernel = Tools("", "", ""), kernel_image(image)
    assert accelerator(tools, kernel) == "tcg"
    monkeypatch.setenv("MMIGRATE_ACCELERATOR", "warp")
    with pytest.raises(UsageError, match="is warp; it must be kvm or tcg"):
        accelerator(tools, kernel)


@pytest.mark.parametrize(
    ("behaviour", "found"),
    [
        ("sleep 60", "tcg"),
        ("exit 134", "tcg"),
        ('echo "VFS: Unable to mount root" > "${console#file:}"', "kvm"),
    ],
)
def test_kvm_is_tried_once(image, tmp_path, monkeypatch, behaviour, found):
    monkeypatch.delenv("MMIGRATE_ACCELERATOR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("mmigrate.lab.accelerator._KVM", image)
    monkeypatch.setattr("mmigrate.lab.accelerator._SECONDS", 0.3)
    script = '#!/bin/sh\nwhile [ "$1" != -serial ]; do shift; done\nconsole=$2\n' + behaviour
    tools = Tools(program(tmp_path / "qemu", script), "", "")
    assert accelerator(tools, kernel_image(image)) == found
    (tmp_path / "qemu").unlink()
    assert accelerator(tools, kernel_image(image)) == found


def test_no_kvm(image, tmp_path, monkeypatch):
    monkeypatch.delenv("MMIGRATE_ACCELERATOR", raising=False)
    monkeypatch.setattr("mmigrate.lab.accelerator._KVM", tmp_path / "kvm")
    assert accelerator(None, kernel_image(image)) == "tcg"


# --- many jobs ---


@pytest.mark.slow
def test_what_kills_or_hangs_the_guest_is_told_and_the_rest_goes_on(
    fake, image, tmp_path, monkeypatch
):
    monkeypatch.setattr("mmigrate.lab.jobs.GRACE", 1)
    file = tmp_path / "scenarios.py"
    file.write_text(SCENARIOS)
    jobs = [
        {
            "name": name,
            "call": "mmigrate.real.scenario:run",
            "arguments": {"file": str(file), "name": name},
            "seconds": 0.5 if name == "hangs_the_guest" else 30,
        }
        for name in ("good", "wrong", "raises", "kills_the_guest", "hangs_the_guest", "last")
    ]
    events = list(run_jobs(Guest(image), jobs, server="mmigrate.real.serve"))
    assert [event["name"] for event in events] == [job["name"] for job in jobs]
    good, wrong, raises, kills, hangs, last = events
    assert good["result"]["failed"] is last["result"]["failed"] is None
    assert wrong["result"]["failed"] == "AssertionError: one is not two (line 13)"
    assert raises["error"] == "mmap needs either a length in bytes or pages="
    assert kills["error"] == "the guest ended"
    assert hangs["error"] == "the guest hung"
    assert "boots" in hangs["console"]
    assert left_behind(tmp_path) == []


def test_a_server_that_does_not_begin_is_told(fake, image, tmp_path):
    jobs = [{"name": "one"}]
    with pytest.raises(LabError, match=r"the guest did not begin; its command said:\n.*no_such"):
        list(run_jobs(Guest(image), jobs, server="no_such_module"))
    assert left_behind(tmp_path) == []


INTERRUPTED = """
import os, pathlib, signal, sys
from mmigrate.lab import Boot, Guest, Tools
from mmigrate.lab import boot, tools
boot.find_tools = lambda: Tools(*{tools!r})
tools.MODULES = pathlib.Path({modules!r})
with Boot(Guest({image!r}), ["sleep", "600"]) as running:
    while not (running.share / "output").exists():
        pass
    print(running.share, flush=True)
    os.kill(os.getpid(), signal.SIG{name})
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["INT", "TERM", "KILL"])
def test_no_guest_survives_whoever_booted_it(fake, image, tmp_path, name):
    tools = (str(tmp_path / "qemu"), str(tmp_path / "mkinitramfs"), "/bin/busybox")
    text = INTERRUPTED.format(
        tools=tools, modules=str(tmp_path / "modules"), image=str(image), name=name
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == -getattr(signal, f"SIG{name}"), done.stderr
    folder = Path(done.stdout.strip()).parent
    end = time.monotonic() + 10
    while (folder.exists() or _processes(folder)) and time.monotonic() < end:
        signal.sigtimedwait([], 0.01)
    assert not folder.exists()
    assert _processes(folder) == []


def _processes(folder):
    """Those that have to do with a folder."""
    commands = {pid: _read(Path(f"/proc/{pid}/cmdline")) for pid in os.listdir("/proc")}
    return [pid for pid, text in commands.items() if pid.isdecimal() and bytes(folder) in text]


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_requests_of_a_guest_are_answered(fake, image):
    with Boot(Guest(image), ["sleep", "60"]) as boot:
        folder = boot.share / "requests"
        folder.mkdir(exist_ok=True)
        (folder / "1.request").write_text('{"balloon": null}')
        (folder / "2.request").write_text("nonsense")
        boot.answer_requests()
        answers = [json.loads((folder / f"{n}.answer").read_text())["error"] for n in (1, 2)]
    assert answers[0].startswith("QEMU does not answer")

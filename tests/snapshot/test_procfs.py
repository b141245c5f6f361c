"""The parsers, on what kernels from 3.19 to 6.18 print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmigrate.snapshot import procfs
from mmigrate.snapshot import records as bits

SMAPS = """\
55a58b8ec000-55a58b8ee000 r--p 00001000 fe:00 260386                     /usr/bin/two words
Size:                  8 kB
Rss:                   4 kB
Brand_New_Field:       lots
VmFlags: rd mr mw me zz{space}
ProtectionKey:         0
7ffc4bb10000-7ffc4bb31000 rw-p 00000000 00:00 0{space}
Locked:               12 kB
some line without a colon
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
""".replace("{space}", " ")


def test_smaps() -> None:
    first, second = procfs.parse_maps(SMAPS)
    assert (first.start, first.end, first.offset) == (0x55A58B8EC000, 0x55A58B8EE000, 0x1000)
    assert (first.device, first.inode, first.name) == ("fe:00", "260386", "/usr/bin/two words")
    assert first.flags == "rd mr mw me zz"
    assert (first.size("Rss"), first.size("Swap")) == (4096, 0)
    assert (second.name, second.perms, second.size("Locked")) == ("", "rw-p", 12288)


@pytest.mark.parametrize(
    ("line", "policy", "nodes"),
    [
        ("5618ff3af000 default file=/bin/cat mapped=2 N0=2 kernelpagesize_kB=4", "default", {0: 2}),
        (
            "7f0000000000 bind=static:0-1 anon=3 dirty=3 N0=1 N12=2",
            "bind=static:0-1",
            {0: 1, 12: 2},
        ),
        ("7f0000000000 prefer:1 stack anon=1 N1=1", "prefer:1", {1: 1}),
        ("7f0000000000 prefer (many):0-1 anon=1 N1=1", "prefer (many):0-1", {1: 1}),
        ("7f0000000000 weighted interleave:0-1 heap", "weighted interleave:0-1", {}),
        ("7f0000000000 default", "default", {}),
        ("7f0000000000 default file=/tmp/N7=9 mapped=1 N0=1", "default", {0: 1}),
    ],
)
def test_numa_maps(line: str, policy: str, nodes: dict[int, int]) -> None:
    (record,) = procfs.parse_numa_maps(line + "\n")
    assert (record.policy, record.nodes) == (policy, nodes)


def test_status_and_stat() -> None:
    status = procfs.parse_status("Name:\ta: b\nMems_allowed_list:\t0-1\nSpeculation:\n")
    assert status == {"Name": "a: b", "Mems_allowed_list": "0-1", "Speculation": ""}
    fields = " ".join(str(number) for number in range(3, 53))
    assert procfs.parse_start_time(f"17 (a ) b) {fields}") == "22"


def test_filesystems() -> None:
    text = (
        "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
        "23 22 0:25 / /dev/shm rw - tmpfs x rw\n"
    )
    assert procfs.parse_filesystems(text) == {"fe:00": "ext4", "00:19": "tmpfs"}


def test_pagemap_bits() -> None:
    assert procfs.pagemap_bits(0) == procfs.pagemap_bits(1 << 55) == 0
    assert procfs.pagemap_bits(1 << 63 | 1 << 56) == bits.PRESENT | bits.EXCLUSIVE
    assert procfs.pagemap_bits(1 << 62 | 1 << 55) == bits.SWAPPED | bits.SOFT_DIRTY
    assert procfs.swap_position(1 << 62 | 100 << 5 | 3) == (3, 100)


def test_kpageflags_bits() -> None:
    assert procfs.kpageflags_bits(0x5828) == bits.LRU | bits.ANON | bits.SWAPBACKED
    assert procfs.kpageflags_bits(1 << 63 | 1 << 24) == bits.ZERO


def test_a_name_cannot_steer_the_terminal() -> None:
    assert procfs.printable("/tmp/\x1b[2J") == r"/tmp/\x1b[2J"
    assert len(procfs.printable("\u202e" * 5000)) == bits.MAX_NAME


@given(st.text(alphabet="0123456789abcdefrwxps-: /[]=\nN", max_size=300) | st.text(max_size=100))
def test_no_text_is_too_strange(text: str) -> None:
    list(procfs.parse_maps(text))
    list(procfs.parse_numa_maps(text))
    procfs.parse_status(text)
    procfs.parse_start_time(text)
    procfs.parse_filesystems(text)
    procfs.parse_node_sizes(text)
    procfs.parse_distances(text)
    procfs.parse_number_list(text)
    assert procfs.printable(text).isprintable()

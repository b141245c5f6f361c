"""FUSE: pages that are given away take the place of those that were asked for."""

import pytest

from mmigrate import Machine, MiB


def scene(**options):
    machine = Machine(nodes=(MiB(8),), **options)
    server, reader = machine.process("server"), machine.process("reader")
    source = machine.file("source", 4096, data=b"given")
    server.pread(source, 1)
    machine.drain_pagevecs()
    return machine, server, reader, source, machine.fuse_file("fuse", source)


def test_a_page_that_nobody_uses_is_moved():
    machine, _, reader, source, fuse = scene()
    page = source.i_mapping.page_tree.slots[0]
    assert reader.pread(fuse, 5) == b"given"
    assert fuse.i_mapping.page_tree.slots[0] is page
    assert source.i_mapping.nrpages == 0
    machine.drain_pagevecs()
    assert machine.check() == []


def test_a_page_in_use_is_copied():
    machine, server, reader, source, fuse = scene()
    view = server.mmap(pages=1, file=source, shared=True, prot="r")
    server.touch(view, write=False)
    page = source.i_mapping.page_tree.slots[0]
    assert reader.pread(fuse, 5) == b"given"
    assert source.i_mapping.page_tree.slots[0] is page is not fuse.i_mapping.page_tree.slots[0]
    machine.drain_pagevecs()
    assert machine.check() == []


@pytest.mark.parametrize("without", [(), ("0a31bc97c80c",)])
def test_who_pays_for_a_page_that_was_given_away(without):
    machine = Machine(nodes=(MiB(8),), without=without)
    x, m = machine.cgroup("x"), machine.cgroup("m")
    server, reader = machine.process("server"), machine.process("reader")
    server.join(x)
    reader.join(m)
    source = machine.file("source", 4096, data=b"given")
    server.pread(source, 1)
    machine.drain_pagevecs()
    reader.pread(machine.fuse_file("fuse", source), 1)
    machine.drain_pagevecs()
    assert (x.stat["cache"], m.stat["cache"]) == ((0, 4096) if without else (4096, 0))
    assert machine.check() == []

"""A shared-memory segment that two processes use."""

from mmigrate import Machine, MiB
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL

MACHINE = {"nodes": (MiB(64), MiB(64))}


def segment_moves_for_both(machine: Machine) -> None:
    """Both processes see the segment at its new place, and each other's stores."""
    segment = machine.shmem("segment", MiB(1))
    producer = machine.process("producer", cpu=0)
    consumer = machine.process("consumer", cpu=1)
    here = producer.mmap(MiB(1), file=segment, shared=True)
    there = consumer.mmap(MiB(1), file=segment, shared=True)
    producer.write(here.start, b"message")
    assert consumer.read(there.start, 7) == b"message"

    producer.move_pages(here[0:1], node=1, flags=MPOL_MF_MOVE_ALL)
    producer.write(here.start, b"another")

    assert consumer.read(there.start, 7) == b"another"
    assert consumer.placement(there[0:1]) == {1: 1}


def segment_by_policy(machine: Machine) -> None:
    """A policy set on shared memory belongs to the segment, whoever touches it."""
    segment = machine.shmem("segment", MiB(1))
    producer = machine.process("producer", cpu=0)
    here = producer.mmap(MiB(1), file=segment, shared=True)
    producer.mbind(here, "bind", [1])

    consumer = machine.process("consumer", cpu=0)
    there = consumer.mmap(MiB(1), file=segment, shared=True)
    consumer.touch(there[0:4])

    assert consumer.placement(there[0:4]) == {1: 4}

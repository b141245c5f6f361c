"""Disks: requests in flight are a state that others see."""

from __future__ import annotations

import pytest

from mmigrate import Machine, MiB
from mmigrate.errors import ScenarioError
from mmigrate.linux.drivers import block


@pytest.fixture
def computer():
    return Machine(nodes=(MiB(4),))


def submit(computer, log, name, *, write=True, device="disk"):
    block.submit_bio(
        computer.kernel,
        device,
        write,
        lambda error: log.append((name, "failed" if error else "ok")),
    )


def test_a_request_is_in_flight_until_somebody_waits(computer):
    log = []
    submit(computer, log, "first")
    assert log == []
    assert block.busy(computer.kernel)
    block.drain(computer.kernel)
    assert log == [("first", "ok")]
    assert not block.busy(computer.kernel)


def test_requests_complete_in_the_order_of_their_submission(computer):
    log = []
    for number in range(5):
        submit(computer, log, number)
    computer.run()
    assert [name for name, _ in log] == [0, 1, 2, 3, 4]


def test_the_task_of_the_disk_ends_with_its_queue(computer):
    before = list(computer.kernel.tasks)
    submit(computer, [], "only")
    assert len(computer.kernel.tasks) == len(before) + 1
    computer.run()
    assert computer.kernel.tasks == before


def test_a_request_submitted_by_a_completion_is_served(computer):
    log = []
    block.submit_bio(computer.kernel, "disk", False, lambda error: submit(computer, log, "second"))
    block.drain(computer.kernel)
    assert log == [("second", "ok")]


def test_a_held_disk_completes_nothing(computer):
    log = []
    block.disk(computer.kernel, "disk").hold = True
    submit(computer, log, "held")
    submit(computer, log, "elsewhere", device="net")
    block.drain(computer.kernel)
    assert log == [("elsewhere", "ok")]
    block.release(computer.kernel, "disk")
    block.drain(computer.kernel)
    assert log[-1] == ("held", "ok")


def test_drain_starts_what_was_held(computer):
    log = []
    disk = block.disk(computer.kernel, "disk")
    disk.hold = True
    submit(computer, log, "held")
    disk.hold = False
    block.drain(computer.kernel)
    assert log == [("held", "ok")]


def test_who_waits_for_a_held_disk_waits_for_ever(computer):
    block.disk(computer.kernel, "disk").hold = True
    file = computer.file("data", 4096, data=b"contents")
    with pytest.raises(ScenarioError, match="to be unlocked"):
        computer.process().pread(file, 10)


def test_as_many_requests_fail_as_were_asked_to(computer):
    log = []
    block.disk(computer.kernel, "disk").fail = 1
    submit(computer, log, "first")
    submit(computer, log, "second")
    block.drain(computer.kernel)
    assert log == [("first", "failed"), ("second", "ok")]


def test_events_count_kilobytes(computer):
    submit(computer, [], "out")
    submit(computer, [], "in", write=False)
    submit(computer, [], "in", write=False)
    assert (computer.vmstat["pgpgout"], computer.vmstat["pgpgin"]) == (4, 8)
    block.drain(computer.kernel)

"""Pages shared after fork: who may move them."""

from mmigrate import Machine, MiB, Reason
from mmigrate.linux.include.mempolicy import MPOL_MF_MOVE_ALL

MACHINE = {"nodes": (MiB(64), MiB(64))}


def shared_pages_stay(machine: Machine) -> None:
    """A page that a forked child still shares does not move for its parent alone."""
    parent = machine.process("parent")
    data = parent.mmap(pages=8)
    parent.touch(data)
    child = parent.fork("child")
    child.write(data.start, b"mine")  # one copy is made

    result = parent.move_pages(data, node=1)

    assert result.reasons[Reason.SHARED] == 7
    assert parent.placement(data) == {0: 7, 1: 1}


def root_may_move_all(machine: Machine) -> None:
    """With MPOL_MF_MOVE_ALL and CAP_SYS_NICE they move for both processes at once."""
    parent = machine.process("parent")
    data = parent.mmap(pages=8)
    parent.write(data.start, b"before the fork")
    parent.touch(data)
    child = parent.fork("child")

    parent.move_pages(data, node=1, flags=MPOL_MF_MOVE_ALL)

    assert parent.placement(data) == child.placement(data) == {1: 8}
    assert child.read(data.start, 15) == b"before the fork"


def others_may_not(machine: Machine) -> None:
    """A user without the capability cannot touch another user's pages."""
    victim = machine.process("victim", uid=1000)
    data = victim.mmap(pages=1)
    victim.touch(data)
    stranger = machine.process("stranger", uid=1001)
    try:
        stranger.move_pages(data, node=1, process=victim)
    except PermissionError:
        pass
    else:
        raise AssertionError("a stranger moved the page")
    assert victim.placement(data) == {0: 1}

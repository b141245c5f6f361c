"""Commit f72e7dcdd252: a walk of the reverse map meets a huge pmd that a fault has just emptied.

A process forks a child, and both map the small page Q. The child copies its 2 MiB around it,
which then become a huge page; but its area is still found from Q. Somebody migrates Q: the walk
visits the child. A fault on the child's huge page clears the pmd and sets another.
"""

from collections import Counter

import pytest

from mmigrate.errors import KernelBug
from mmigrate.linux.include.mm import MADV_HUGEPAGE
from mmigrate.linux.include.pgtable import is_migration_entry, pte_present, pte_to_swp_entry
from mmigrate.linux.include.switches import FIND_PMD_READS_ONCE
from mmigrate.linux.kernel.pgtable import find_pmds
from mmigrate.linux.mm import huge_memory
from mmigrate.machine.process import peek_pte
from tests.linux.mm.thp import PAGE, huge_area, is_huge, machine

PATHS = ("copy", "fallback", "numa")


class Pending(list):
    """A log that only counts the announced accesses."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def append(self, text):
        self.counts[text] += 1


class Scene:
    """@path: what the fault on the child's huge page does."""

    def __init__(self, path, without=()):
        self.computer = machine(cpus=(0, 0, 1), without=without, numa_balancing=True)
        computer = self.computer
        self.app = app = computer.process("app", cpu=0)
        self.where = where = huge_area(app, advise=False)
        app.write(where.start + 5 * PAGE, b"Q")
        self.child = child = app.fork("child", cpu=0)
        child.touch(where)
        child.madvise(where, MADV_HUGEPAGE)
        computer.drain_pagevecs()
        assert computer.khugepaged_scan() == 1
        assert is_huge(child, where.start)
        computer.drain_pagevecs()
        pmds = find_pmds(child.mm, where.start)
        if path == "numa":
            child.numa_scan()
        else:
            child.fork("grandchild", cpu=0)  # so that the next store must copy
            if path == "fallback":
                huge_memory.state(computer.kernel).enabled = "never"
        self.pmds, self.index = pmds, (where.start >> 21) & 511
        self.mover = computer.process("mover", cpu=1)
        computer.start(self.migrate, cpu=1)
        computer.start(child.write, where.start + 9 * PAGE, b"stored", cpu=2)
        self.walker = computer.kernel.scheduler.alive[-2]
        self.fault = computer.kernel.scheduler.alive[-1]

    def migrate(self):
        q = self.where.start + 5 * PAGE
        return self.mover.move_pages([q], 1, process=self.app)

    def run(self, choose):
        """choose(pending) names the task to go on; @pending: what each is about to do."""
        scheduler = self.computer.kernel.scheduler
        pending = Pending()
        scheduler.log = pending

        def pick(enabled, running):
            wanted = choose(pending)
            return wanted if wanted in enabled else enabled[0]

        try:
            scheduler.run(pick)
        finally:
            scheduler.log = None

    def looks(self, pending, task):
        """How often @task has come to look at the child's pmd."""
        return pending.counts[f"{task.name} R {self.pmds!r} {self.index}"]

    def is_clean(self):
        q = self.where.start + 5 * PAGE
        for mm in self.computer.kernel.mms:
            pte = peek_pte(mm, q)
            assert pte == 0 or pte_present(pte) or not is_migration_entry(pte_to_swp_entry(pte))
        assert self.app.read(q, 1) == b"Q"
        assert self.child.read(self.where.start + 9 * PAGE, 6) == b"stored"
        self.computer.drain_pagevecs()
        assert self.computer.check() == []


def between_two_looks(scene, walk):
    """Let the walker come to its second look at the child's pmd in its n-th walk; then the fault,
    until it has cleared the pmd; then the walker to its end."""
    state = {"phase": "walk"}

    def choose(pending):
        if state["phase"] == "walk" and scene.looks(pending, scene.walker) == walk:
            state["phase"] = "fault"
        if state["phase"] == "fault":
            if scene.pmds.entries[scene.index] is not None:
                return scene.fault
            state["phase"] = "rest"
        return scene.walker

    return choose, state


@pytest.mark.parametrize("path", PATHS)
def test_without_the_commit_a_pte_lock_is_looked_for_through_an_empty_pmd(path):
    found = []
    for look in range(1, 12):
        scene = Scene(path, without=[FIND_PMD_READS_ONCE])
        choose, state = between_two_looks(scene, look)
        try:
            scene.run(choose)
        except KernelBug as bug:
            found.append(str(bug))
        if state["phase"] == "walk":
            break
    assert found
    assert all("a pte lock was looked for through an empty pmd" in bug for bug in found)


@pytest.mark.parametrize("path", PATHS)
def test_with_the_commit_no_look_at_the_empty_pmd_does_harm(path):
    for look in range(1, 12):
        scene = Scene(path)
        choose, state = between_two_looks(scene, look)
        scene.run(choose)
        scene.is_clean()
        if state["phase"] == "walk":
            break
    assert look > 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("late", [0, 1, 2, 4, 7])
def test_the_walk_misses_no_entry_wherever_the_fault_stands(path, late):
    """The fault is stopped some steps after it has emptied the pmd, and the whole walk passes."""
    scene = Scene(path)
    state = {"after": -1}

    def choose(pending):
        if state["after"] < 0 and scene.pmds.entries[scene.index] is None:
            state["after"] = 0
        elif state["after"] >= 0:
            state["after"] += 1
        return scene.walker if state["after"] >= late else scene.fault

    scene.run(choose)
    scene.is_clean()


@pytest.mark.parametrize("path", PATHS)
def test_before_the_race_the_walk_passes_a_huge_pmd(path):
    scene = Scene(path, without=[FIND_PMD_READS_ONCE])
    scene.run(lambda pending: scene.walker)
    scene.is_clean()

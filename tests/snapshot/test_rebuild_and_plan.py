"""A recorded process rebuilt in the model, and migrated there."""

import re
import subprocess
import sys

import pytest

from mmigrate import MiB, Reason
from mmigrate.cli.plan import as_object, make_plan
from mmigrate.errors import EnvironmentLacks, UsageError
from mmigrate.snapshot.plan import plan_migration
from mmigrate.snapshot.rebuild import rebuild
from mmigrate.snapshot.recorder import record
from mmigrate.snapshot.records import EMPTY, EXCLUSIVE, FILE, PRESENT, NodeRecord, PageState
from mmigrate.units import PAGE_SIZE
from tests.snapshot.examples import BASE, area, small


@pytest.fixture(scope="module")
def snapshot():
    worker = subprocess.Popen(
        [sys.executable, "-m", "mmigrate.snapshot.example_process", "--size", "8"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    worker.stdout.readline()
    taken = record(worker.pid)
    worker.stdin.close()
    worker.wait()
    worker.stdout.close()
    return taken


SIZES = [MiB(256), MiB(256)]


def test_every_page_is_where_it_was(snapshot):
    rebuilt = rebuild(snapshot, SIZES)
    for vma in snapshot.vmas:
        if snapshot.kind(vma) == "special":
            continue
        for first, count, state in snapshot.runs(vma):
            for number in range(first, first + count):
                page = rebuilt.process.page_at(vma.start + number * PAGE_SIZE)
                if state.present and not state.zero:
                    assert page is not None
                    assert page.zone.nid == max(state.node, 0)
                elif not state.present:
                    assert page is None
    assert rebuilt.machine.check() == []


def test_what_is_shared_is_shared(snapshot):
    rebuilt = rebuild(snapshot, SIZES)
    assert rebuilt.sharer is not None
    for vma in snapshot.vmas:
        if snapshot.kind(vma) != "anonymous" or vma.shared:
            continue
        for first, _count, state in snapshot.runs(vma):
            if state.present and not state.zero and not state.file:
                page = rebuilt.process.page_at(vma.start + first * PAGE_SIZE)
                assert (page._mapcount > 0) == state.shared


def test_protection_and_locks(snapshot):
    rebuilt = rebuild(snapshot, SIZES)
    maps = rebuilt.process.maps()
    writable = [vma for vma in snapshot.vmas if vma.perms == "rw-p"]
    assert sum(" rw-p " in line for line in maps.splitlines()) <= len(writable)
    locked = sum(vma.locked for vma in snapshot.vmas if vma.has_flag("lo"))
    assert (rebuilt.process.mm.locked_vm * PAGE_SIZE > 0) == (locked > 0)


def test_an_ordinary_user_moves_what_is_his_own(snapshot):
    plan = plan_migration(rebuild(snapshot, SIZES), [0], [1])
    assert plan.moved + plan.stayed == plan.pages
    assert plan.reasons[Reason.SHARED] > 0
    assert set(plan.reasons) <= {Reason.SHARED, Reason.NOT_MIGRATABLE}
    assert plan.after.get(1) == plan.moved
    assert sum(plan.before.values()) == sum(plan.after.values())


def test_root_moves_what_is_shared_too(snapshot):
    rebuilt = rebuild(snapshot, SIZES, privileged=True)
    plan = plan_migration(rebuilt, [0], [1])
    assert set(plan.reasons) <= {Reason.NOT_MIGRATABLE}
    assert 0 not in plan.after
    assert rebuilt.machine.check() == []


def test_a_target_without_room_accounts_for_every_page(snapshot):
    plan, violations = make_plan(
        snapshot, [MiB(256), MiB(4)], "0", "1", lambda *_: None, privileged=True
    )
    assert violations == []
    assert plan.reasons[Reason.NO_MEMORY] > 0
    assert plan.moved + plan.stayed == plan.pages
    assert plan.after[1] == plan.moved


def test_progress_is_told_in_pages(snapshot):
    told = []
    rebuilt = rebuild(snapshot, SIZES, progress=lambda *values: told.append(values))
    total = told[-1][2]
    assert told[-1] == ("rebuilding", total, total)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    told.clear()
    plan = plan_migration(rebuilt, [0], [1], progress=lambda *values: told.append(values))
    moving = plan.pages - sum(rebuilt.unmodelled.values())
    assert told[0] == ("migrating", 0, moving)
    assert told[-1] == ("migrating", moving, moving)


@pytest.mark.parametrize(
    ("sources", "targets", "already"),
    [
        ([0, 1], [1], {1}),
        ([0], [0], {0}),
        ([1], [0, 1], {1}),
        ([0, 1], [0, 1], {0, 1}),
        ([0, 1, 2], [0, 2], {0, 2}),
        ([0, 1], [1, 2], set()),
        ([0, 2], [2, 0], {0, 2}),
        ([0], [1], set()),
    ],
)
def test_pages_that_are_on_the_target_already(sources, targets, already):
    states = [EMPTY, *(PageState(PRESENT | EXCLUSIVE, node, 1) for node in range(3))]
    vmas = [area(BASE, 12, [(3, 1), (4, 2), (5, 3)])]
    nodes = [NodeRecord(node, 64 << 20, 64 << 20, "", [10, 20, 20]) for node in range(3)]
    taken = small(states=states, vmas=vmas, nodes=nodes, nodes_allowed="0-2", pools=[])
    plan = plan_migration(rebuild(taken), sources, targets)
    stay = sum((3, 4, 5)[node] for node in already)
    assert plan.reasons == ({Reason.ALREADY_THERE: stay} if stay else {})
    assert plan.moved == sum((3, 4, 5)[node] for node in sources) - stay


def test_the_json_form(snapshot):
    plan, _ = make_plan(snapshot, SIZES, "0", "1", lambda *_: None)
    found = as_object(plan)
    assert {"pages", "moved", "stayed", "reasons", "vmas"} <= set(found)
    assert sum(area["pages"] for area in found["vmas"]) == found["pages"]
    assert sum(found["reasons"].values()) == found["stayed"]


@pytest.mark.parametrize(
    ("sizes", "sources", "targets", "sentence"),
    [
        (None, "0", "7", r"node 7 does not exist.*--nodes"),
        (SIZES, "0", "2", "node 2 does not exist; there are nodes 0-1"),
        (SIZES, "x", "1", "'x' is not a set of nodes"),
        ([MiB(2), MiB(256)], "0", "1", "node 0 has 2 MiB, which is too small"),
    ],
)
def test_machines_that_do_not_fit(snapshot, sizes, sources, targets, sentence):
    with pytest.raises(UsageError, match=sentence):
        make_plan(snapshot, sizes, sources, targets, lambda *_: None)


def test_what_cannot_have_room_is_refused_before_it_is_tried():
    """A file may say anything: here of a process of four TiB."""
    vmas = [area(1 << 40, 1 << 30, [(1 << 30, 1)])]
    with pytest.raises(UsageError, match="node 0 has 4096 MiB, which is too small"):
        rebuild(small(vmas=vmas))
    taken = small(vmas=vmas)
    with pytest.raises(EnvironmentLacks, match="a model of 1,073,741,824 pages takes about 1,100"):
        make_plan(taken, [1 << 50, MiB(4)], "0", "1", lambda *_: None)


def test_more_numbers_of_huge_pages_than_nodes(snapshot):
    with pytest.raises(UsageError, match="--hugepages has 3 numbers, and the machine 2 nodes"):
        make_plan(snapshot, SIZES, "0", "1", lambda *_: None, free_huge=[1, 2, 3])


@pytest.mark.parametrize(
    ("policy", "allowed", "shown", "note"),
    [
        ("bind:1", "0-1", "bind:1", ""),
        ("interleave:0-1", "0-1", "interleave:0-1", ""),
        ("prefer:0", "0-1", "prefer:0", ""),
        ("bind=static:1", "0-1", "bind=static:1", ""),
        ("bind=static:0-1", "1", "bind=static:1", ""),
        ("bind=relative:1", "1", "bind=relative:1", ""),
        ("local", "0-1", "default", ""),
        ("default", "0-1", "default", ""),
        ("", "0-1", "default", ""),
        ("bind:0", "1", "default", "no node of policy bind:0 can be had here"),
        ("bind=static:0", "1", "default", "no node of policy bind=static:0 can be had here"),
        ("bind:7", "0-1", "default", "no node of policy bind:7 can be had here"),
        ("prefer (many):0-1", "0-1", "default", r"v3.19 has no policy prefer \(many\)"),
        ("weighted interleave:0", "0-1", "default", "v3.19 has no policy weighted interleave"),
    ],
)
def test_policies_of_areas(policy, allowed, shown, note):
    vmas = [area(BASE, 4, [(4, 1)], policy=policy)]
    rebuilt = rebuild(small(vmas=vmas, nodes_allowed=allowed))
    (line,) = (line for line in rebuilt.process.numa_maps().splitlines() if "anon=4" in line)
    assert line.split()[1] == shown
    assert re.search(note, " ".join(rebuilt.notes))
    assert rebuilt.machine.check() == []


def test_what_a_load_maps_around_itself_is_not_kept():
    """Two areas of one file; one has a page in memory that the other did not map."""
    states = [EMPTY, PageState(PRESENT | FILE | EXCLUSIVE, 0, 1)]
    vmas = [
        area(BASE, 4, [(4, 1)], perms="r--p", file=1, name="/usr/bin/app"),
        area(BASE + MiB(1), 4, [(2, 1), (2, 0)], perms="r--p", file=1, name="/usr/bin/app"),
    ]
    rebuilt = rebuild(small(states=states, vmas=vmas), SIZES)
    mapped = [rebuilt.process.page_at(BASE + MiB(1) + 4096 * n) is not None for n in range(4)]
    assert mapped == [True, True, False, False]
    assert rebuilt.machine.check() == []

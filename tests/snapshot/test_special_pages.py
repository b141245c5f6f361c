"""Huge pages, hugetlb, merged pages and control groups: rebuilt as recorded, and what migrate_pages
does to each."""

from array import array

import pytest

from mmigrate import Machine, MiB, Reason
from mmigrate.cli.plan import as_object, make_plan
from mmigrate.errors import UsageError
from mmigrate.linux.include.page_flags import PG_head, PG_hugetlb
from mmigrate.linux.kernel.page_flags import PageKsm
from mmigrate.snapshot import format
from mmigrate.snapshot.forms import Form, pieces
from mmigrate.snapshot.plan import plan_migration
from mmigrate.snapshot.rebuild import rebuild
from mmigrate.snapshot.records import (
    ANON,
    EMPTY,
    EXCLUSIVE,
    FILE,
    HUGE,
    KSM,
    PRESENT,
    SWAPPED,
    FileRecord,
    MemoryGroup,
    NodeRecord,
    PageState,
    PoolRecord,
    packed,
)

from .examples import BASE, GROUPS, OWN, UNIT, GiB, MiB2, area, special

PAGE = 4096
HUGE_AREA, HUGETLB_AREA, SECOND_HUGETLB, MERGED_AREA = 0, 1, 2, 3


def planned(snapshot, sources=(0,), targets=(1,), **options):
    """The plan, and the rebuilt process it was made with; no oracle complains."""
    rebuilt = rebuild(snapshot, **options)
    assert rebuilt.machine.check() == []
    plan = plan_migration(rebuilt, sources, targets)
    assert rebuilt.machine.check() == []
    assert plan.moved + plan.stayed == plan.pages
    assert sum(plan.reasons.values()) == plan.stayed
    assert sum(plan.before.values()) == sum(plan.after.values())
    return plan, rebuilt


def only(snapshot, *numbers):
    snapshot.vmas = [snapshot.vmas[number] for number in numbers]
    return snapshot


def heads(rebuilt, start, pages):
    """The different pages, or heads of huge pages, that are mapped in a range."""
    found = [rebuilt.process.page_at(start + index * PAGE) for index in range(pages)]
    return {page.first_page or page for page in found if page is not None}


# --- which form ---


def test_the_forms_of_an_area():
    snapshot = special()
    found = [(p.form, p.first, p.count, p.guessed) for p in pieces(snapshot, snapshot.vmas[0])]
    assert found == [
        (Form.BASE, 0, 50, False),
        (Form.HUGE, 50, UNIT, False),
        (Form.HUGE, 50 + UNIT, UNIT, False),
        (Form.BASE, 50 + 2 * UNIT, 50, False),
    ]
    others = [
        [(p.form, p.first, p.count) for p in pieces(snapshot, snapshot.vmas[number])]
        for number in (1, 3)
    ]
    assert others[0] == [(Form.HUGETLB, 0, UNIT)]
    assert others[1] == [(Form.MERGED, 0, 8), (Form.MERGED, 12, 4)]


def forms(pages, runs, states, start=BASE, **changes):
    snapshot = special(states=[EMPTY, *states], vmas=[area(start, pages, runs, **changes)])
    return [(p.form, p.first, p.count, p.guessed) for p in pieces(snapshot, snapshot.vmas[0])]


def test_huge_pages_that_are_not_aligned_or_of_files_are_base_pages():
    states = [PageState(OWN | HUGE, 0, 1), PageState(PRESENT | FILE | HUGE, 0, 1)]
    assert forms(UNIT, [(UNIT, 1)], states, BASE + PAGE) == [(Form.BASE, 0, UNIT, False)]
    assert forms(UNIT, [(UNIT, 2)], states) == [(Form.BASE, 0, UNIT, False)]
    assert forms(UNIT, [(UNIT - 1, 1), (1, 0)], states) == [(Form.BASE, 0, UNIT - 1, False)]


def test_a_huge_page_may_be_recorded_in_several_runs():
    states = [PageState(OWN | HUGE, 0, count) for count in (1, 2)]
    assert forms(UNIT, [(100, 1), (UNIT - 100, 2)], states) == [(Form.HUGE, 0, UNIT, False)]


def test_of_which_only_the_sum_is_known():
    """The first ranges that can be huge are taken for it; merged pages are shared ones first."""
    states = [PageState(OWN, 0), PageState(PRESENT | ANON, 0), PageState(SWAPPED)]
    assert forms(3 * UNIT, [(10, 1), (1, 3), (3 * UNIT - 11, 1)], states, anon_huge=MiB2) == [
        (Form.BASE, 0, 10, False),
        (Form.BASE, 10, 1, False),
        (Form.BASE, 11, UNIT - 11, False),
        (Form.HUGE, UNIT, UNIT, True),
        (Form.BASE, 2 * UNIT, UNIT, False),
    ]
    assert forms(9, [(3, 1), (4, 2), (2, 1)], states, merged=5 * PAGE) == [
        (Form.MERGED, 0, 1, True),
        (Form.BASE, 1, 2, False),
        (Form.MERGED, 3, 4, True),
        (Form.BASE, 7, 2, False),
    ]


# --- rebuilding ---


def test_everything_is_rebuilt_in_its_form():
    snapshot = format.loads(format.dumps(special()))
    rebuilt = rebuild(snapshot)
    huge, hugetlb, second, merged = snapshot.vmas
    parts = heads(rebuilt, huge.start, 2 * UNIT + 100)
    assert len(parts) == 102
    assert sum(bool(page.flags & PG_head) for page in parts) == 2
    (first,) = heads(rebuilt, hugetlb.start, 2 * UNIT)
    (other,) = heads(rebuilt, second.start, UNIT)
    assert first.flags & other.flags & PG_hugetlb
    assert (first.zone.nid, other.zone.nid) == (0, 1)
    frames = [rebuilt.process.page_at(merged.start + index * PAGE) for index in range(16)]
    assert frames[8:12] == [None] * 4
    assert all(map(PageKsm, [*frames[:8], *frames[12:]]))
    assert [frames.index(page) for page in frames if page is not None] == [
        *[0] * 4,
        *[4] * 4,
        *[12] * 4,
    ]
    # Two more processes' worth of mappings of the third frame are somebody else's.
    assert [frames[number]._mapcount + 1 for number in (0, 4, 12)] == [4, 4, 6]
    assert rebuilt.machine.ksm["pages_shared"] == 3
    assert rebuilt.notes == []
    assert rebuilt.machine.check() == []


def test_pools_are_as_large_as_recorded():
    rebuilt = rebuild(special())
    (h, _) = rebuilt.machine.kernel.hugetlb.hstates
    assert (h.nr_huge_pages_node, h.free_huge_pages_node) == ([3, 3], [2, 2])
    # Four are free and one is promised: enough for both pages of the process.
    assert h.resv_huge_pages == 0
    rebuilt = rebuild(special(pools=[PoolRecord(MiB2, 9, 3, [4, 2], [2, 2], [1, 1])]))
    (h, _) = rebuilt.machine.kernel.hugetlb.hstates
    assert h.free_huge_pages - h.resv_huge_pages == 1
    assert h.nr_overcommit_huge_pages == 2  # as many as the process could take
    assert rebuilt.machine.check() == []


def test_pools_that_are_not_known_have_no_free_page():
    plan, _ = planned(only(special(pools=[]), HUGETLB_AREA))
    assert plan.forms[Form.HUGETLB].reasons == {Reason.HUGETLB_NO_POOL: UNIT}
    assert any("pools of huge pages of the recorded machine are not known" in n for n in plan.notes)


def test_two_areas_of_one_file_of_hugetlbfs_have_its_pages_in_common():
    file = FileRecord("00:11", "7", "/mnt/huge", "hugetlbfs")
    runs = {"perms": "rw-s", "flags": "rd wr sh ht", "file": 1, "page_size": MiB2}
    states = [EMPTY, PageState(PRESENT | FILE | HUGE, 0, 2)]
    vmas = [area(BASE + n * 4 * MiB2, UNIT, [(UNIT, 1)], **runs) for n in range(2)]
    snapshot = special(files=[file], states=states, vmas=vmas)
    rebuilt = rebuild(snapshot)
    assert len(heads(rebuilt, BASE, UNIT) | heads(rebuilt, BASE + 4 * MiB2, UNIT)) == 1
    (h, _) = rebuilt.machine.kernel.hugetlb.hstates
    assert h.free_huge_pages_node == [2, 2]  # the second page that was made is gone again
    assert rebuilt.machine.check() == []


def test_pages_of_1_gib_stay():
    runs = {"flags": "rd wr ht", "page_size": GiB, "perms": "rw-s"}
    snapshot = special(
        nodes=[NodeRecord(n, 3 * GiB, GiB, "", [10, 20]) for n in range(2)],
        vmas=[area(GiB * 100, GiB // PAGE, [(GiB // PAGE, 3)], **runs)],
        pools=[PoolRecord(GiB, 0, 0, [1, 1], [0, 1], [0, 0])],
        memory_groups=[],
    )
    plan, _ = planned(snapshot, privileged=True)
    assert plan.forms[Form.HUGETLB].reasons == {Reason.HUGETLB_UNSUPPORTED: GiB // PAGE}
    assert plan.forms[Form.HUGETLB].units == 1
    assert plan.left == 0


def test_sizes_that_x86_does_not_have_are_left_out():
    runs = {"flags": "rd wr ht", "page_size": 64 << 10}
    plan, _ = planned(special(vmas=[area(BASE, 32, [(32, 3)], **runs)]))
    assert plan.forms[Form.HUGETLB].reasons == {Reason.HUGETLB_UNSUPPORTED: 32}
    assert plan.notes == ["memory of hugetlbfs is left out: v3.19 on x86-64 has no pages of 64 kB"]


def test_a_node_without_room_for_the_pool():
    with pytest.raises(UsageError, match="node 0 has no room for 3 huge pages of 2 MiB"):
        rebuild(special(), [MiB(4), MiB(64)])


def test_a_merged_page_that_only_one_process_still_maps():
    columns = {"merged_counts": packed(array("I", [1])), "merged_groups": packed(array("I", [1]))}
    states = [EMPTY, PageState(PRESENT | ANON | KSM | EXCLUSIVE, 0, 1)]
    vma = area(BASE, 1, [(1, 1)], flags="rd wr mg", merged=PAGE, **columns)
    plan, rebuilt = planned(special(states=states, vmas=[vma]))
    assert PageKsm(rebuilt.process.page_at(BASE))
    assert plan.forms[Form.MERGED].moved == 1


def test_merged_pages_whose_partners_are_unknown():
    states = [EMPTY, PageState(PRESENT | ANON, 0)]
    vma = area(BASE, 6, [(6, 1)], flags="rd wr mg", merged=5 * PAGE)
    plan, _ = planned(special(states=states, vmas=[vma]))
    assert plan.forms[Form.MERGED].pages == 5
    assert plan.forms[Form.MERGED].reasons == {Reason.SHARED: 4}  # the fifth is alone
    assert any("share a frame is unknown" in note for note in plan.notes)


def test_charges_and_limits():
    rebuilt = rebuild(only(special(), HUGE_AREA))
    group = rebuilt.cgroup
    assert (group.name, group.limit) == ("/all/app", MiB(256))
    assert rebuilt.groups[0].limit is None
    assert group.stat["rss"] == (2 * UNIT + 100) * PAGE
    assert group.stat["rss_huge"] == 2 * MiB2
    assert 0 <= group.usage - group.stat["rss"] < 64 * PAGE  # what CPUs have in stock


def test_a_limit_below_what_is_charged_here():
    groups = [MemoryGroup("/app", MiB(1), None)]
    plan, rebuilt = planned(only(special(memory_groups=groups), HUGE_AREA))
    assert rebuilt.cgroup.limit is None
    assert any("memory cgroup /app has no limit here" in note for note in plan.notes)


# --- what happens to it ---


def test_a_huge_page_is_split_and_moves_in_pieces():
    plan, rebuilt = planned(only(special(), HUGE_AREA))
    huge = plan.forms[Form.HUGE]
    assert (huge.units, huge.split, huge.whole) == (2, 2, 0)
    assert (huge.pages, huge.moved) == (2 * UNIT, 2 * UNIT)
    assert not any(page.flags & PG_head for page in heads(rebuilt, BASE, 4 * UNIT))
    assert plan.charges.before == plan.charges.after > 0
    assert plan.charges.limit == MiB(256)


def test_a_shared_huge_page_is_split_and_stays():
    shared = [EMPTY, PageState(OWN, 0, 1), PageState(PRESENT | ANON | HUGE, 0, 2)]
    plan, _ = planned(only(special(states=shared), HUGE_AREA))
    huge = plan.forms[Form.HUGE]
    assert (huge.split, huge.moved, huge.reasons) == (2, 0, {Reason.SHARED: 2 * UNIT})
    plan, _ = planned(only(special(states=shared), HUGE_AREA), privileged=True)
    assert plan.forms[Form.HUGE].moved == 2 * UNIT


def test_huge_pages_on_other_nodes_are_split_all_the_same_and_not_counted():
    """queue_pages_range splits before it looks at nodes."""
    plan, rebuilt = planned(only(special(), HUGE_AREA), sources=[1], targets=[0])
    assert (plan.pages, plan.elsewhere) == (0, 2 * UNIT + 100)
    assert not any(page.flags & PG_head for page in heads(rebuilt, BASE, 4 * UNIT))


def test_hugetlb_moves_whole_where_the_pool_has_room():
    plan, _ = planned(only(special(), HUGETLB_AREA, SECOND_HUGETLB))
    found = plan.forms[Form.HUGETLB]
    assert (found.units, found.whole, found.moved) == (1, 1, UNIT)
    assert plan.elsewhere == UNIT
    (pool,) = plan.pools
    assert (pool.size, pool.before, pool.after) == (MiB2, [2, 2], [3, 1])


def test_hugetlb_without_room_ends_the_call():
    """What comes before it has moved; what comes after is not tried, merged pages either."""
    plan, _ = planned(special(), free_huge=[5, 0], privileged=True)
    assert plan.left == -12
    assert plan.forms[Form.HUGE].moved == 2 * UNIT
    assert plan.forms[Form.HUGETLB].reasons == {Reason.HUGETLB_NO_POOL: UNIT}
    assert plan.forms[Form.MERGED].reasons == {Reason.NOT_TRIED: 12}


def test_merged_pages_stay_for_a_user_and_move_for_root():
    plan, _ = planned(only(special(), MERGED_AREA))
    merged = plan.forms[Form.MERGED]
    assert (merged.units, merged.pages, merged.reasons) == (3, 12, {Reason.SHARED: 12})
    plan, rebuilt = planned(only(special(), MERGED_AREA), privileged=True)
    assert plan.forms[Form.MERGED].moved == 12
    assert all(page.zone.nid == 1 for page in heads(rebuilt, BASE + 16 * MiB2, 16))
    assert rebuilt.machine.ksm["pages_shared"] == 3


def test_a_cpuset_keeps_a_user_from_other_nodes():
    snapshot = only(special(nodes_allowed="0"), HUGE_AREA)
    with pytest.raises(UsageError, match=r"EPERM: the cpuset .* on node 0 only; root may"):
        make_plan(snapshot, None, "0", "1", lambda *_: None)
    plan, violations = make_plan(snapshot, None, "0", "1", lambda *_: None, privileged=True)
    assert (plan.stayed, plan.allowed, violations) == (0, (0,), [])


def test_the_json_form_names_all_of_it():
    plan, _ = make_plan(special(), None, "0", "1", lambda *_: None, free_huge=[0, 9])
    found = as_object(plan)
    assert found["forms"]["huge"] == {
        "units": 2,
        "pages": 2 * UNIT,
        "moved": 2 * UNIT,
        "moved_whole": 0,
        "split": 2,
        "reasons": {},
    }
    assert found["forms"]["hugetlb"]["moved_whole"] == 1
    assert found["forms"]["merged"]["reasons"] == {"shared": 12}
    assert found["pools"] == [{"size": MiB2, "free_before": [0, 9], "free_after": [1, 8]}]
    assert found["cgroup"]["path"] == GROUPS[-1].path
    assert found["cgroup"]["charged_before"] == found["cgroup"]["charged_after"]
    assert [sorted(vma["forms"]) for vma in found["vmas"]] == [
        ["base", "huge"],
        ["hugetlb"],
        [],
        ["merged"],
    ]


def test_vast_untouched_memory_costs_nothing():
    """It is neither walked nor counted page by page."""
    vast = area(1 << 44, 1 << 28, [(1 << 28, 0)], perms="---p")
    snapshot = only(special(), HUGE_AREA)
    snapshot.vmas.insert(0, vast)
    plan, _ = planned(snapshot)
    assert plan.pages == 2 * UNIT + 100


def test_a_file_of_a_version_1_has_forms_too():
    """Its page types were the same; pools and groups were not there."""
    snapshot = special(pools=[], memory_groups=[], thp="")
    for vma in snapshot.vmas:
        vma.anon_huge = vma.hugetlb = vma.merged = 0
        vma.merged_counts = vma.merged_groups = b""
    plan, rebuilt = planned(snapshot, free_huge=[0, 4])
    assert plan.forms[Form.HUGE].split == 2
    assert plan.forms[Form.MERGED].pages == 12
    assert rebuilt.cgroup is None
    assert plan.charges is None
    assert isinstance(rebuilt.machine, Machine)


def test_nobody_is_ended_for_a_process_that_does_not_fit(monkeypatch):
    """Its helper, who has the shared pages in common with it, would be the first."""

    def kill(*_):
        raise AssertionError("somebody was ended")

    monkeypatch.setattr(Machine, "_kill", kill)
    states = [EMPTY, PageState(PRESENT | ANON, 0, 2), PageState(OWN, 0, 1)]
    vmas = [area(BASE, 1200, [(300, 1), (900, 2)])]
    snapshot = special(states=states, vmas=vmas, pools=[], memory_groups=[])
    with pytest.raises(UsageError, match=r"too small for the recorded pages"):
        rebuild(snapshot, [MiB(4), MiB(4)])
    rebuilt = rebuild(snapshot)
    with pytest.raises(AssertionError, match="somebody was ended"):
        rebuilt.machine.kernel.kill_process(rebuilt.process.task)

"""Each oracle has a seeded bug that it finds, and that no other one does."""

import pytest

from mmigrate import Machine, MiB
from mmigrate.check import ORACLES
from mmigrate.check.view import View
from mmigrate.linux.include.gfp import MIGRATE_RESERVE, MIGRATE_UNMOVABLE
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC
from mmigrate.linux.include.mm import MADV_HUGEPAGE, MADV_MERGEABLE, VM_WRITE
from mmigrate.linux.include.mm_types import PageTable
from mmigrate.linux.include.page_flags import (
    PG_active,
    PG_dirty,
    PG_hwpoison,
    PG_lru,
    PG_mlocked,
    PG_swapbacked,
)
from mmigrate.linux.include.pgtable import (
    SWP_MIGRATION_READ,
    pte_mkwrite,
    pte_wrprotect,
    swp_entry,
    swp_entry_to_pte,
)
from mmigrate.linux.include.vmstat import (
    MM_ANONPAGES,
    NR_ANON_PAGES,
    NR_FREE_PAGES,
    NR_INACTIVE_ANON,
    NR_ISOLATED_ANON,
)
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_flags import page_lru
from mmigrate.linux.kernel.page_ref import get_page
from mmigrate.linux.kernel.pgtable import find_leaf, find_pmds
from mmigrate.linux.kernel.spinlock import spin_lock
from mmigrate.linux.lib.list import ListHead, list_add, list_del
from mmigrate.linux.mm import compaction, page_alloc, vmscan
from mmigrate.linux.mm.compaction import CompactControl
from mmigrate.linux.mm.huge_memory import huge_parts
from mmigrate.linux.mm.page_isolation import set_migratetype_isolate


def huge_area(process):
    """The base pages of a huge page that the process has."""
    area = process.mmap(MiB(4))
    process.madvise(area, MADV_HUGEPAGE)
    start = (area.start + MiB(2) - 1) & -MiB(2)
    process.write(start, b"huge")
    return huge_parts(process.page_at(start))


class Scene:
    """A machine with some of everything: anonymous, forked, file, shared, swapped pages."""

    def __init__(self):
        self.machine = Machine(nodes=(MiB(8), MiB(8)))
        self.kernel = self.machine.kernel
        self.area = self.machine.swapon(MiB(1))
        self.app = self.machine.process("app")
        self.heap = self.app.mmap(pages=4)
        self.app.write(self.heap.start, b"stored")
        self.app.touch(self.heap)
        self.file = self.machine.file("data", 4 * 4096)
        self.view = self.app.mmap(pages=2, file=self.file, shared=True)
        self.app.write(self.view.start, b"in a file")
        self.other = self.app.mmap(pages=1)
        self.app.write(self.other.start, b"in swap")
        self.machine.swap_out(self.app, self.other)
        self.machine.drain_pagevecs()
        self.page = self.machine.page_of(self.app, self.heap.start)
        self.zone = self.page.zone
        assert self.machine.check() == []

    def leaf(self, address):
        return find_leaf(self.app.mm, address), (address >> 12) & 511

    def change_pte(self, address, change):
        table, index = self.leaf(address)
        table.entries[index] = change(table.entries[index])

    def quiet_tlbs(self):
        for cpu in self.kernel.cpus:
            cpu.tlb.clear()


def warnings(scene):
    with scene.app.running():
        sched.warn("something odd")


def locks(scene):
    with scene.app.running():
        spin_lock(scene.zone.lock)


def frames(scene):
    scene.zone.vm_stat[NR_FREE_PAGES] += 1


def free_pages(scene):
    sections = scene.kernel.mem_map.values()
    free = next(page for section in sections for page in section if page and not page._count)
    free.flags |= PG_mlocked


def compound_pages(scene):
    """A tail that remembers a pin nobody has."""
    huge_area(scene.app)[1]._mapcount += 1


def huge_pages(scene):
    """A table of ptes in reserve for no huge pmd."""
    huge_area(scene.app)
    pmds = find_pmds(scene.app.mm, scene.app.mm.mmap[-1].vm_end - 1)
    tables = [table for _, table, _ in View(scene.machine).pmds if table.pmd_huge_pte]
    assert pmds is not None and len(tables) == 1
    tables[0].pmd_huge_pte.append(PageTable(1, 9999, pmds.ptl))


def hugetlb_pools(scene):
    """A free page too many by the count."""
    scene.machine.hugepages(1)
    scene.kernel.hugetlb.hstates[0].free_huge_pages += 1


def hugetlb_reservations(scene):
    """A promise that nobody remembers."""
    scene.machine.hugepages(1)
    scene.kernel.hugetlb.hstates[0].resv_huge_pages += 1


def hugetlb_limits(scene):
    """A page that a mount of hugetlbfs counts, and that nobody has."""
    scene.machine.hugetlbfs(MiB(4))
    scene.kernel.hugetlb.subpools[0].used_hpages += 1


def ksm(scene):
    """One page saved too many."""
    scene.kernel.ksm.pages_sharing += 1


def references(scene):
    get_page(scene.page)


def mapcount(scene):
    # one mapping too many, and a reference to go with it
    scene.page._mapcount += 1


def migration_entries(scene):
    """An entry for a page that is not there any more, with all accounts as if it were."""
    address = scene.heap.start + 3 * 4096
    gone = scene.machine.page_of(scene.app, address)
    entry = swp_entry_to_pte(swp_entry(SWP_MIGRATION_READ, gone.pfn))
    scene.change_pte(address, lambda pte: entry)
    gone._mapcount -= 1
    gone._count -= 1
    pin = scene.app.pin(scene.heap[0:1])
    pin.pages[0] = gone
    gone._count += 1
    scene.page._count -= 1
    scene.zone.vm_stat[NR_ANON_PAGES] -= 1
    scene.quiet_tlbs()


def protection(scene):
    vma = next(v for v in scene.app.mm.mmap if v.vm_start <= scene.heap.start < v.vm_end)
    vma.vm_flags &= ~VM_WRITE


def areas(scene):
    scene.app.mm.total_vm += 1


def reverse_map(scene):
    scene.page.index += 1


def page_cache(scene):
    scene.file.i_mapping.nrpages += 1


def lru(scene):
    scene.zone.vm_stat[NR_INACTIVE_ANON] += 1


def isolated(scene):
    scene.zone.vm_stat[NR_ISOLATED_ANON] += 1


def vmstat(scene):
    scene.zone.vm_stat[NR_ANON_PAGES] += 1


def rss(scene):
    scene.app.mm.rss_stat[MM_ANONPAGES] += 1


def swap_counts(scene):
    scene.area.counts[1] += 1


def translations(scene):
    scene.app.touch(scene.heap)
    scene.change_pte(scene.heap.start, pte_wrprotect)


def devices(scene):
    """A device that was not told of an mprotect."""
    device = scene.machine.device(scene.app)
    device.write(scene.heap.start, b"s")
    kept = dict(device.driver.translations)
    scene.app.mprotect(scene.heap, "r")
    device.driver.translations.update(kept)


def contents(scene):
    scene.page.data = bytes(4096)


def balloon(scene):
    """The host was not told of a page that left."""
    scene.machine.balloon.inflate(2)
    host = scene.machine.balloon.device.host
    given = dict(host.given)
    scene.machine.balloon.deflate(1)
    host.given = given


def direct_writepage(scene):
    """Direct reclaim takes a dirty page of a file for anonymous memory."""
    scene.app.write(scene.view.start, b"in a file")
    page = scene.machine.page_of(scene.app, scene.view.start)
    pages = ListHead()
    with scene.app.running():
        assert vmscan.isolate_lru_page(page) == 0
        page.flags &= ~PG_active
        list_add(page, pages)
        writepage = page.mapping.a_ops.writepage

        def written(page, wbc):
            page.flags &= ~PG_swapbacked  # its other traces are for other oracles
            return writepage(page, wbc)

        page.flags |= PG_swapbacked
        page.mapping.a_ops.writepage = written
        control, stat = vmscan.ScanControl(), vmscan.ReclaimStat()
        vmscan._shrink_page_list(
            pages, page.zone, control, vmscan._FORCED, stat, vmscan.References.RECLAIM
        )
        for left in pages:
            list_del(left)
            vmscan.putback_lru_page(left)
    scene.machine.finish_io()
    scene.machine.drain_pagevecs()


def group(scene):
    """A group, and a page that it pays for."""
    cgroup = scene.machine.cgroup("group")
    scene.app.join(cgroup)
    area = scene.app.mmap(pages=1)
    scene.app.write(area.start, b"charged")
    scene.machine.drain_pagevecs()
    return cgroup.group, scene.machine.page_of(scene.app, area.start)


def charges(scene):
    """A page that was charged twice."""
    group(scene)[0].memory.count += 1


def owners(scene):
    """A page that was freed while it was charged; nobody counts for the root."""
    group(scene)
    sections = scene.kernel.mem_map.values()
    free = next(page for section in sections for page in section if page and not page._count)
    free.mem_cgroup = scene.kernel.memcg.root


def group_lists(scene):
    """A page that changed owners while it was on the LRU."""
    memcg, page = group(scene)
    list_del(page)
    list_add(page, page.zone.lruvec.lists[page_lru(page)])
    memcg.lruvecs[page.zone].lru_size[page_lru(page)] -= 1


def group_statistics(scene):
    group(scene)[0].stat["mapped_file"] += 1


def page_blocks(scene):
    """Isolated, and not given back."""
    set_migratetype_isolate(scene.zone, scene.zone.end_pfn - 1, False)


def out_of_use(scene):
    """Bad memory that somebody still uses."""
    scene.page.flags |= PG_hwpoison
    scene.kernel.num_poisoned_pages += 1


SEEDED = {
    "warnings": warnings,
    "locks": locks,
    "frames": frames,
    "free pages": free_pages,
    "compound pages": compound_pages,
    "huge pages": huge_pages,
    "hugetlb pools": hugetlb_pools,
    "hugetlb reservations": hugetlb_reservations,
    "hugetlb limits": hugetlb_limits,
    "ksm": ksm,
    "references": references,
    "mapcount": mapcount,
    "migration entries": migration_entries,
    "protection": protection,
    "areas": areas,
    "reverse map": reverse_map,
    "page cache": page_cache,
    "lru": lru,
    "isolated": isolated,
    "vmstat": vmstat,
    "rss": rss,
    "swap counts": swap_counts,
    "translations": translations,
    "devices": devices,
    "contents": contents,
    "balloon": balloon,
    "direct writepage": direct_writepage,
    "charges": charges,
    "owners": owners,
    "group lists": group_lists,
    "group statistics": group_statistics,
    "page blocks": page_blocks,
    "out of use": out_of_use,
}


def isolated_in_the_balloon(scene):
    """Counted as isolated, by nobody."""
    scene.machine.balloon.inflate(2)
    scene.machine.balloon.device.vb_dev_info.isolated_pages += 1


def forgotten_by_the_balloon(scene):
    """A page less by the count of the driver."""
    scene.machine.balloon.inflate(2)
    scene.machine.balloon.device.num_pages -= 1


def kept_by_the_free_scanner(scene):
    """Compaction ends, and a page of its own list is not given back."""
    with scene.app.running():
        control = CompactControl(scene.zone, -1, MIGRATE_SYNC)
        start = scene.page.pfn & ~511
        compaction.isolate_freepages_block(control, start, start + 512, control.freepages, False)
        kept = control.freepages.next
        assert kept is not control.freepages
        list_del(kept)
        compaction.release_freepages(control.freepages)


def not_in_the_tree(scene):
    """A merged page, the node of which has left its tree."""
    merged(scene)
    state = scene.kernel.ksm
    [tree] = [tree for tree in state.root_stable_tree if tree]
    tree.clear()


def merged(scene):
    for name in ("one", "two"):
        process = scene.machine.process(name)
        area = process.mmap(pages=1)
        process.write(area.start, b"the same")
        process.madvise(area, MADV_MERGEABLE)
    scene.machine.ksm_scan()


def counted_on_another_node(scene):
    """As many free huge pages as there are, and not where they are."""
    scene.machine.hugepages(2, node=0)
    free = scene.kernel.hugetlb.hstates[0].free_huge_pages_node
    free[0], free[1] = free[1], free[0]


def promised_twice(scene):
    """Reserved pages of a mapping that the counter does not know."""
    scene.machine.hugepages(2)
    scene.app.mmap(MiB(2), hugetlb=MiB(2))
    scene.kernel.hugetlb.hstates[0].resv_huge_pages -= 1


def reserved_too_many(scene):
    """A pageblock that nobody made a reserved one."""
    last = (scene.zone.end_pfn - 1) >> 9
    scene.zone.pageblock_type[last] = MIGRATE_RESERVE


def on_a_list_that_it_does_not_know(scene):
    """A free block that was moved to another list, and still says what it said."""
    pfn, _, kind = page_alloc.free_blocks(scene.zone)[0]
    assert kind != MIGRATE_UNMOVABLE
    scene.kernel.page_of(pfn).index = MIGRATE_UNMOVABLE


def not_told_of_munmap(scene):
    """A device that still reaches what has been freed."""
    device = scene.machine.device(scene.app)
    area = scene.app.mmap(pages=1)
    device.write(area.start, b"s")
    kept = dict(device.driver.translations)
    scene.app.munmap(area)
    device.driver.translations.update(kept)


def uncharged_too_often(scene):
    group(scene)[0].memory.count -= 1


MORE = [
    ("balloon", isolated_in_the_balloon),
    ("balloon", forgotten_by_the_balloon),
    ("references", kept_by_the_free_scanner),
    ("ksm", not_in_the_tree),
    ("hugetlb pools", counted_on_another_node),
    ("hugetlb reservations", promised_twice),
    ("page blocks", reserved_too_many),
    ("page blocks", on_a_list_that_it_does_not_know),
    ("devices", not_told_of_munmap),
    ("charges", uncharged_too_often),
]


@pytest.mark.parametrize(("name", "seed"), MORE, ids=lambda value: getattr(value, "__name__", ""))
def test_finds_others_of_its_bugs_alone(name, seed):
    scene = Scene()
    seed(scene)
    found = scene.machine.check()
    assert {violation.oracle for violation in found} == {name}, [str(v) for v in found]


def test_every_oracle_has_a_seeded_bug():
    assert list(SEEDED) == list(ORACLES)


@pytest.mark.parametrize("name", SEEDED)
def test_finds_its_bug_alone(name):
    scene = Scene()
    SEEDED[name](scene)
    found = scene.machine.check()
    assert {violation.oracle for violation in found} == {name}, [str(v) for v in found]


@pytest.mark.parametrize("name", SEEDED)
def test_says_where_and_what(name):
    scene = Scene()
    SEEDED[name](scene)
    for violation in scene.machine.check():
        assert violation.subject
        assert violation.message
        assert str(violation).startswith(name)


def test_a_page_lost_from_its_list():
    scene = Scene()
    page = next(page for zone in [scene.zone] for head in zone.lruvec.lists for page in head)
    page.flags &= ~PG_lru
    assert {v.oracle for v in scene.machine.check()} == {"lru"}


def test_a_dirty_page_without_its_tag():
    scene = Scene()
    page = scene.file.i_mapping.page_tree.slots[0]
    assert page.flags & PG_dirty
    scene.file.i_mapping.page_tree.tag_clear(0, 0)
    assert {v.oracle for v in scene.machine.check()} == {"page cache"}


def test_a_writable_translation_that_was_not_flushed():
    scene = Scene()
    scene.app.mprotect(scene.heap, "r")
    scene.app.read(scene.heap.start, 1)
    for cpu in scene.kernel.cpus:
        for vpn in cpu.tlb:
            cpu.tlb[vpn] = pte_mkwrite(cpu.tlb[vpn])
    assert {v.oracle for v in scene.machine.check()} == {"translations"}

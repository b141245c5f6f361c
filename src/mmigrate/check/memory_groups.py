"""Memory cgroups: every charge is somebody's, and every counter a recount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mmigrate.check.view import View
from mmigrate.errors import Violation
from mmigrate.linux.include.mm_types import Page
from mmigrate.linux.include.page_flags import PG_head, PG_lru, PG_writeback
from mmigrate.linux.include.pgtable import HPAGE_PMD_NR
from mmigrate.linux.mm import memcontrol_v316
from mmigrate.linux.mm.memcontrol import MemCgroup, MemcgState, mem_cgroup_is_descendant


def _groups(view: View) -> MemcgState | None:
    found = view.kernel.memcg
    return found if isinstance(found, MemcgState) else None


def _size(page: Page) -> int:
    return HPAGE_PMD_NR if page.flags & PG_head else 1


def _charged(view: View) -> Iterator[tuple[Page, MemCgroup]]:
    """Pages in use that somebody pays for."""
    for page in view.pages:
        if page.mem_cgroup is None or not page._count:
            continue
        if view.kernel.memcg.rewritten or memcontrol_v316.is_used(page):
            yield page, page.mem_cgroup


def charges(view: View) -> Iterator[Violation]:
    """The counters of each group, and how many charges have begun and ended."""
    groups = _groups(view)
    if groups is None:
        return
    memory: Counter[int] = Counter()
    stocks: Counter[int] = Counter()
    entries = Counter(groups.swap_cgroup.values())
    for page, memcg in _charged(view):
        memory[memcg.css_id] += _size(page)
    for stock in groups.stocks:
        if stock.cached is not None:
            stocks[stock.cached.css_id] += stock.nr_pages
    alive = list(groups.groups.values())
    for memcg in alive:
        if memcg is groups.root:
            continue
        below = [one.css_id for one in alive if mem_cgroup_is_descendant(one, memcg)]
        pages = sum(memory[css_id] + stocks[css_id] for css_id in below)
        swapped = sum(entries[css_id] for css_id in below)
        for name, value, found in (
            ("memory", memcg.memory.count, pages),
            ("memory+swap", memcg.memsw.count, pages + swapped),
        ):
            if value != found:
                yield Violation("charges", repr(memcg), f"{name} {value}, found {found}")
        own = memcg.css_id
        refs = memory[own] + stocks[own] + entries[own] + memcg.online
        refs += sum(one.parent is memcg for one in alive)
        if memcg.refs != refs:
            yield Violation("charges", repr(memcg), f"{memcg.refs} references, found {refs}")
    held = sum(memory.values()) - memory[groups.root.css_id]
    held += sum(entries.values()) - entries[groups.root.css_id]
    if groups.tries - groups.ends != held:
        yield Violation(
            "charges",
            "machine",
            f"{groups.tries} pages charged and {groups.ends} uncharged, found {held}",
        )


def owners(view: View) -> Iterator[Violation]:
    """No page that is free, and no group that is gone, in a charge."""
    groups = _groups(view)
    if groups is None:
        return
    for page in view.pages:
        memcg = page.mem_cgroup
        if memcg is None:
            continue
        if not page._count:
            yield Violation("owners", repr(page), f"free, and charged to {memcg!r}")
        if groups.groups.get(memcg.css_id) is not memcg:
            yield Violation("owners", repr(page), f"charged to {memcg!r}, which is gone")
    for entry, css_id in groups.swap_cgroup.items():
        if css_id not in groups.groups:
            yield Violation("owners", f"swap entry {entry:#x}", f"charged to no group ({css_id})")


def group_lists(view: View) -> Iterator[Violation]:
    """A page on the LRU is on the lists of the group that pays for it."""
    groups = _groups(view)
    if groups is None:
        return
    for memcg in groups.groups.values():
        for zone, lruvec in memcg.lruvecs.items():
            for lru, head in enumerate(lruvec.lists):
                count = 0
                for page in head:
                    count += _size(page)
                    owner = groups.root if page.mem_cgroup is None else page.mem_cgroup
                    if owner is not memcg and page.flags & PG_lru:
                        yield Violation(
                            "group lists", repr(page), f"on a list of {memcg!r}, of {owner!r}"
                        )
                if memcg is not groups.root and lruvec.lru_size[lru] != count:
                    yield Violation(
                        "group lists",
                        repr(memcg),
                        f"{lruvec.lru_size[lru]} on list {lru} of {zone!r}, found {count}",
                    )


def group_statistics(view: View) -> Iterator[Violation]:
    """memory.stat of each group equals a recount."""
    groups = _groups(view)
    if groups is None:
        return
    found: dict[int, Counter[str]] = {css_id: Counter() for css_id in groups.groups}
    for page, memcg in _charged(view):
        counts = found.setdefault(memcg.css_id, Counter())
        anon = page.mapping is not None and page.mapping.anon
        counts["rss" if anon else "cache"] += _size(page)
        counts["rss_huge"] += _size(page) if page.flags & PG_head else 0
        counts["writeback"] += bool(page.flags & PG_writeback)
        counts["mapped_file"] += not anon and page.pfn in view.mapped
    for css_id in groups.swap_cgroup.values():
        found.setdefault(css_id, Counter())["swap"] += 1
    for css_id, memcg in groups.groups.items():
        for name in ("rss", "cache", "rss_huge", "mapped_file", "writeback", "swap"):
            if memcg is groups.root and name in ("mapped_file", "writeback"):
                continue  # it may have begun before the first group was made
            if memcg.stat[name] != found[css_id][name]:
                yield Violation(
                    "group statistics",
                    repr(memcg),
                    f"{name} {memcg.stat[name]}, found {found[css_id][name]}",
                )

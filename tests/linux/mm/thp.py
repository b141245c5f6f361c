"""What the tests of huge pages share."""

from mmigrate import Machine, Mapping, MiB
from mmigrate.linux.include.mm import MADV_HUGEPAGE
from mmigrate.linux.include.pgtable import PMD_SIZE, pmd_trans_huge
from mmigrate.linux.kernel.pgtable import find_pmds
from mmigrate.linux.mm.huge_memory import huge_parts

HUGE = PMD_SIZE
PAGE = 4096


SIZE = MiB(24)


def machine(size=SIZE, **options):
    return Machine(nodes=(size, size), **options)


def huge_area(process, count=1, advise=True):
    """An aligned range of @count huge pages inside a larger area, not touched yet."""
    area = process.mmap((count + 1) * HUGE)
    if advise:
        process.madvise(area, MADV_HUGEPAGE)
    start = (area.start + HUGE - 1) & -HUGE
    return Mapping(start, count * HUGE)


def huge_page(process, data=b"huge"):
    """(range, head) of a huge page that the process has stored into."""
    where = huge_area(process)
    process.write(where.start, data)
    head = process.page_at(where.start)
    assert is_huge(process, where.start)
    return where, head


def pmd_of(process, address):
    """What stands in the table of pmds; announces nothing."""
    pmds = find_pmds(process.mm, address)
    return None if pmds is None else pmds.entries[(address >> 21) & 511]


def is_huge(process, address):
    return pmd_trans_huge(pmd_of(process, address))


def parts(head):
    return huge_parts(head)


def stats(computer, *names):
    values = computer.vmstat
    return tuple(values[name] for name in names)

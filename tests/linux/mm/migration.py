"""What the tests of migration share."""

from contextlib import contextmanager

from mmigrate.linux.include.gfp import __GFP_THISNODE, GFP_HIGHUSER_MOVABLE
from mmigrate.linux.include.migrate_mode import MIGRATE_SYNC, MR_SYSCALL
from mmigrate.linux.include.vmstat import NR_ISOLATED_ANON
from mmigrate.linux.kernel import sched
from mmigrate.linux.kernel.page_flags import page_is_file_cache
from mmigrate.linux.lib.list import ListHead, list_add_tail
from mmigrate.linux.mm import migrate, page_alloc, vmscan

ON_ONE_NODE = GFP_HIGHUSER_MOVABLE | __GFP_THISNODE


def isolated(machine, *pages):
    """The pages on a private list, as a caller of migrate_pages has them."""
    machine.drain_pagevecs()
    found = ListHead()
    for page in pages:
        assert vmscan.isolate_lru_page(page) == 0
        list_add_tail(page, found)
        page.zone.vm_stat[NR_ISOLATED_ANON + page_is_file_cache(page)] += 1
    return found


class ToNode:
    """A get_new_page that takes from one node, and remembers what it gave."""

    def __init__(self, node):
        self.node = node
        self.given = []

    def __call__(self, page, private, result):
        new = page_alloc.alloc_pages_exact_node(page.zone.kernel, self.node, ON_ONE_NODE, 0)
        self.given.append(new)
        return new


def moved(pagelist, mode=MIGRATE_SYNC, get=None):
    """What migrate_pages returns for a list and node 1."""
    return migrate.migrate_pages(pagelist, get or ToNode(1), None, None, mode, MR_SYSCALL)


def migrated(machine, app, *pages, mode=MIGRATE_SYNC, get=None, put=None):
    """(result, pages still on the list) of one migration to node 1; the rest is put back."""
    with app.running():
        pagelist = isolated(machine, *pages)
        result = migrate.migrate_pages(pagelist, get or ToNode(1), put, None, mode, MR_SYSCALL)
        left = list(pagelist)
        migrate.putback_movable_pages(pagelist)
    return result, left


class Window:
    """A hook that calls @action once, when @when(obj, field, kind) first holds."""

    def __init__(self, when, action):
        self.when = when
        self.action = action
        self.seen = False

    def announce(self, obj, field, kind):
        if not self.seen and self.when(obj, field, kind):
            self.seen = True
            with straight():
                self.action()

    def wait(self, obj, field, kind, until):
        self.announce(obj, field, kind)
        if not until():
            with straight():
                sched.block(obj, field, kind, until, "the test")


@contextmanager
def straight():
    """No hook for a while."""
    previous = sched.install(None)
    try:
        yield
    finally:
        sched.install(previous)


@contextmanager
def in_window(when, action):
    """Run @action in the middle of what follows."""
    window = Window(when, action)
    previous = sched.install(window)
    try:
        yield window
    finally:
        sched.install(previous)
    assert window.seen, "the window was never there"

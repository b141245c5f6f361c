"""A planned migration as tables: by area, by form of page, by reason."""

from __future__ import annotations

from collections.abc import Iterator
from errno import errorcode
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mmigrate.snapshot.forms import Form

if TYPE_CHECKING:
    from mmigrate.snapshot.plan import AreaPlan, FormPlan, Plan

_UNITS = {Form.HUGE: "huge page", Form.HUGETLB: "hugetlb page", Form.MERGED: "merged page"}


def plan_tables(plan: Plan, title: str, most: int | None = None) -> RenderableType:
    """All of it; of areas the @most largest, or every one."""
    with_pages = [area for area in plan.areas if area.pages]
    largest = sorted(with_pages, key=lambda area: -area.pages)[:most]
    largest.sort(key=lambda area: area.area.start)
    parts: list[RenderableType] = [_areas(largest, title)]
    if len(largest) < len(with_pages):
        rest = sum(area.pages for area in with_pages) - sum(area.pages for area in largest)
        hidden = _counted(len(with_pages) - len(largest), "smaller area")
        parts.append(f"and {hidden} with {rest:,} pages (--all lists them)")
    if set(plan.forms) - {Form.BASE}:
        parts += ["", _forms(plan)]
    return Group(*parts, *_totals(plan))


def _areas(areas: list[AreaPlan], title: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    table.add_column("area", overflow="fold")
    for column in ("pages", "moved", "stayed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("what happened", overflow="fold")
    for area in areas:
        name = _short(area.area.name) or area.area.kind
        table.add_row(
            escape(f"{area.area.start:x} {name}"),
            f"{area.pages:,}",
            f"{area.moved:,}",
            f"{area.stayed:,}",
            ", ".join(_events(area)),
        )
    return table


def _short(name: str) -> str:
    """A long path by its last part; --json has all of it."""
    if len(name) <= 28:
        return name
    last = name.rstrip("/").rpartition("/")[2]
    return f"…/{last}" if len(last) <= 40 else f"…{last[-40:]}"


def _events(area: AreaPlan) -> Iterator[str]:
    huge, hugetlb = area.forms.get(Form.HUGE), area.forms.get(Form.HUGETLB)
    if huge is not None and huge.split:
        yield f"{huge.split:,} huge split"
    if hugetlb is not None and hugetlb.whole:
        yield f"{hugetlb.whole:,} huge moved whole"
    for reason, count in area.reasons.most_common():
        yield f"{count:,} {reason.name.lower().replace('_', ' ')}"


def _forms(plan: Plan) -> Table:
    table = Table(title="by form", title_justify="left")
    table.add_column("form", overflow="fold")
    for column in ("pages", "moved", "stayed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("what Linux v3.19 does", overflow="fold")
    for form, found in plan.forms.items():
        table.add_row(
            form.value,
            f"{found.pages:,}",
            f"{found.moved:,}",
            f"{found.stayed:,}",
            _fate(form, found),
        )
    return table


def _fate(form: Form, found: FormPlan) -> str:
    if form is Form.BASE:
        return "moves them one by one"
    units = _counted(found.units, _UNITS[form])
    if form is Form.HUGE:
        if found.split < found.units:
            return f"{units}: {found.split:,} split, the others left as they are"
        if not found.moved:
            return f"{units}: each is split; its base pages stay, {_because(found)}"
        then = "" if found.moved == found.pages else ", as far as they can"
        return f"{units}: each is split, and its base pages are moved{then}"
    if form is Form.HUGETLB:
        refused = found.units - found.whole
        if not refused:
            return f"{units}: each is moved as a whole"
        return f"{units}: {found.whole:,} moved as a whole, {refused:,} not: {_because(found)}"
    many = f"{units}, mapped {found.pages:,} times here"
    if found.moved == found.pages:
        return f"{many}: each is moved once, and all its mappings follow"
    if not found.moved:
        return f"{many}: kept, {_because(found)}"
    return f"{many}: some are kept, {_because(found)}"


def _because(found: FormPlan) -> str:
    return "; ".join(reason.value for reason, _ in found.reasons.most_common())


def _totals(plan: Plan) -> Iterator[RenderableType]:
    if plan.left < 0:
        yield (
            f"[bold]migrate_pages(2) ends with {errorcode[-plan.left]}[/]: "
            "for one page there was no memory, and what comes after it is not tried"
        )
    yield (
        f"[bold]{plan.pages:,} pages: {plan.moved:,} moved, {plan.stayed:,} stayed[/]"
        + (f"; {plan.elsewhere:,} were on other nodes" if plan.elsewhere else "")
    )
    reasons = Table.grid(padding=(0, 2))
    reasons.add_column(justify="right", no_wrap=True, min_width=11)
    reasons.add_column(overflow="fold")
    for reason, count in plan.reasons.most_common():
        reasons.add_row(f"{count:,}", reason.value)
    if reasons.row_count:
        yield reasons
    for when, placed in (("before", plan.before), ("after", plan.after)):
        words = ", ".join(f"{count:,} on node {node}" for node, count in placed.items())
        yield f"{when}: {words or 'no pages'}"
    for pool in plan.pools:
        yield (
            f"free huge pages of {pool.size >> 20} MiB before: {_by_node(pool.before)}; "
            f"after: {_by_node(pool.after)}"
        )
    charges = plan.charges
    if charges is not None:
        limit = (
            "no limit" if charges.limit is None else f"limit {charges.limit / (1 << 20):,.1f} MiB"
        )
        same = "and after: a charge moves with its page"
        if charges.before != charges.after:
            same = f"before, {charges.after / (1 << 20):,.1f} MiB after"
        yield (
            f"memory cgroup {escape(charges.group)} ({limit}): charged "
            f"{charges.before / (1 << 20):,.1f} MiB before {same}"
        )


def _by_node(counts: list[int]) -> str:
    return ", ".join(f"{count:,} on node {node}" for node, count in enumerate(counts))


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"

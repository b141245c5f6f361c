"""Doubly linked circular lists with the links inside the object  (include/linux/list.h).

A `Page` is a `ListHead`: its links are the kernel's `page->lru`. An object that is on no
list points to itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class ListHead:
    """Links of an object, or the head of a list."""

    __slots__ = ("next", "prev")

    next: Any
    prev: Any

    def __init__(self) -> None:
        self.next = self
        self.prev = self

    def __iter__(self) -> Iterator[Any]:
        """The entries in order; the current one may be taken off while walking."""
        entry = self.next
        while entry is not self:
            following = entry.next
            yield entry
            entry = following

    def __reversed__(self) -> Iterator[Any]:
        entry = self.prev
        while entry is not self:
            following = entry.prev
            yield entry
            entry = following


def list_add(new: ListHead, head: ListHead) -> None:
    """Put @new at the front of the list."""
    first = head.next
    new.next = first
    new.prev = head
    first.prev = new
    head.next = new


def list_add_tail(new: ListHead, head: ListHead) -> None:
    """Put @new at the end of the list."""
    last = head.prev
    new.prev = last
    new.next = head
    last.next = new
    head.prev = new


def list_del(entry: ListHead) -> None:
    """Take @entry off its list; it points to itself afterwards."""
    before = entry.prev
    after = entry.next
    before.next = after
    after.prev = before
    entry.next = entry
    entry.prev = entry


def list_move_tail(entry: ListHead, head: ListHead) -> None:
    list_del(entry)
    list_add_tail(entry, head)


def list_empty(head: ListHead) -> bool:
    return head.next is head


def list_move(entry: ListHead, head: ListHead) -> None:
    list_del(entry)
    list_add(entry, head)


def list_splice(source: ListHead, head: ListHead) -> None:
    """Move all entries of @source to the front of @head."""
    if source.next is source:
        return
    first, last, after = source.next, source.prev, head.next
    first.prev = head
    head.next = first
    last.next = after
    after.prev = last
    source.next = source
    source.prev = source

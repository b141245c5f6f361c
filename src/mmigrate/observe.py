"""What a scenario saw, in plain words that two machines can be compared by.

A scenario that is compared returns a dict of observations. These helpers turn results, errnos
and tables into strings, numbers, lists and dicts, and leave out what no kernel promises, such as
addresses.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from mmigrate.api import Mapping, MoveResult
from mmigrate.errors import MemoryFault

# Fields of numa_maps that depend on the moment, or are no count.
_LEFT_OUT: Final = ("file", "active", "kernelpagesize_kB", "mapmax")


def attempt(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """What a call came to: its result in plain values, or the name of its errno or signal."""
    try:
        return plain(function(*arguments, **options))
    except MemoryFault as fault:
        return fault.signal
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))


def plain(value: Any) -> Any:
    """A result as a string, a number, a list or a dict."""
    match value:
        case None:
            return "done"
        case MoveResult():
            text = statuses(value)
            return f"{text} (returned {value.returned})" if value.returned else text
        case Mapping():
            return f"{value.length >> 12} pages"
        case bytes():
            return value.decode("ascii", "backslashreplace").rstrip("\0")
        case str() | int():
            return value
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case OSError():
            return errno.errorcode.get(value.errno or 0, str(value.errno))
        case _:
            return "done"  # a process, or another object that is no answer


def statuses(result: MoveResult | Sequence[int]) -> str:
    """The status of every page: "1 1 EACCES", and "0*5" for five zeroes in a row."""
    values = result.status if isinstance(result, MoveResult) else result
    words = [
        str(value) if value >= 0 else errno.errorcode.get(-value, str(value)) for value in values
    ]
    parts: list[str] = []
    for word, group in groupby(words):
        count = len(list(group))
        parts += [word] * count if count < 4 else [f"{word}*{count}"]
    return " ".join(parts)


def areas(process: Any, where: Mapping) -> list[dict[str, Any]]:
    """The areas of a range as numa_maps tells: policy, and pages by kind and node."""
    found = []
    for start, words in _lines(process.numa_maps()):
        if where.start <= start < where.end:
            fields: dict[str, Any] = {"policy": words[0]}
            for word in words[1:]:
                name, _, value = word.partition("=")
                if name not in _LEFT_OUT and value.isdecimal():
                    fields[name] = int(value)
            found.append(fields)
    return found


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    for line in text.splitlines():
        start, *words = line.split()
        yield int(start, 16), words


class Counters:
    """How counters of /proc/vmstat change: `Counters(machine)`, and later `.change()`."""

    NAMES: Final = ("pgmigrate_success", "pgmigrate_fail")

    def __init__(self, machine: Any, *names: str) -> None:
        self.machine = machine
        self.names = names or self.NAMES
        self.before = machine.vmstat

    def change(self) -> dict[str, int]:
        now = self.machine.vmstat
        return {name: now.get(name, 0) - self.before.get(name, 0) for name in self.names}

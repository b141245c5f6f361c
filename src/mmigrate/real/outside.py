"""Requests to whoever runs the guest that we are in: files in a folder that both can write to.

A request is `N.request`, one JSON object; its answer is `N.answer`, an object with "result" or
"error". Both appear by renaming, complete.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Final

from mmigrate.errors import Missing
from mmigrate.units import PAGE_SIZE

FOLDER: Final = "MMIGRATE_REQUESTS"  # the environment variable
_SECONDS: Final = 30
_MODULE: Final = Path("/sys/bus/virtio/drivers/virtio_balloon")


def ask(request: dict[str, Any]) -> Any:
    """Raises Missing: nobody is there, or refuses."""
    place = os.environ.get(FOLDER)
    if place is None:
        raise Missing("this is not a guest of the lab: nobody outside can be asked")
    folder = Path(place)
    number = time.monotonic_ns()
    (folder / f"{number}.new").write_text(json.dumps(request))
    (folder / f"{number}.new").rename(folder / f"{number}.request")
    answer = folder / f"{number}.answer"
    end = time.monotonic() + _SECONDS
    while not answer.exists():
        if time.monotonic() > end:
            raise Missing("nobody outside the guest answers")
        time.sleep(0.01)
    found = json.loads(answer.read_text())
    answer.unlink()
    if "error" in found:
        raise Missing(found["error"])
    return found["result"]


class Balloon:
    """The virtio balloon of this guest, driven from outside.  @pages: how many it holds."""

    def __init__(self) -> None:
        if not any(_MODULE.glob("virtio*")):
            raise Missing("this computer has no virtio balloon")
        self._whole: int = ask({"balloon": None})

    @property
    def pages(self) -> int:
        now: int = ask({"balloon": None})
        return (self._whole - now) // PAGE_SIZE

    def inflate(self, pages: int) -> None:
        """Take @pages more from the guest, and wait until it has given them."""
        self._set(self.pages + pages)

    def deflate(self, pages: int) -> None:
        """Give @pages back."""
        self._set(max(0, self.pages - pages))

    def _set(self, pages: int) -> None:
        ask({"balloon": self._whole - pages * PAGE_SIZE})
        end = time.monotonic() + _SECONDS
        before = -1
        while (now := self.pages) != pages:
            # A guest that is short of memory gives what it can.
            if now == before and time.monotonic() > end:
                return
            before = now
            time.sleep(0.05)

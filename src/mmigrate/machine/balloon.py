"""A machine's balloon, as its host sees it."""

from __future__ import annotations

from mmigrate.errors import ScenarioError
from mmigrate.linux.drivers import virtio_balloon
from mmigrate.linux.include.kernel import Kernel


class Balloon:
    """Memory that the host has taken back from the machine."""

    def __init__(self, kernel: Kernel) -> None:
        self.device = virtio_balloon.VirtioBalloon(kernel)

    @property
    def pages(self) -> int:
        """How many pages are in it."""
        return self.device.num_pages

    @property
    def given(self) -> list[int]:
        """The frames that the host believes unused, ascending."""
        return sorted(self.device.host.given)

    def inflate(self, pages: int) -> int:
        """Put up to so many pages into it; how many there were."""
        return self._in_steps(virtio_balloon.fill_balloon, pages)

    def deflate(self, pages: int) -> int:
        """Take up to so many pages out of it; how many came."""
        return self._in_steps(virtio_balloon.leak_balloon, pages)

    def _in_steps(self, step: object, pages: int) -> int:
        if pages < 0:
            raise ScenarioError(f"{pages} is not a number of pages")
        done = 0
        while done < pages:
            assert callable(step)
            now = step(self.device, pages - done)
            if not now:
                break
            done += now
        return done

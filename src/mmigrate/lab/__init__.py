"""The lab: boots a kernel with several NUMA nodes under QEMU, with virtme-ng.

It knows nothing of migration: it boots a `Guest`, runs a command in it, and brings back what that
wrote. `run_in_guest` is for one command, `run_jobs` for many jobs in one boot.
"""

from mmigrate.lab.boot import Boot, GuestRun, run_in_guest
from mmigrate.lab.guest import Guest
from mmigrate.lab.jobs import run_jobs
from mmigrate.lab.tools import KernelImage, Tools, find_tools, installed_kernels, kernel_image

__all__ = [
    "Boot",
    "Guest",
    "GuestRun",
    "KernelImage",
    "Tools",
    "find_tools",
    "installed_kernels",
    "kernel_image",
    "run_in_guest",
    "run_jobs",
]

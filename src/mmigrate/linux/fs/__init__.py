"""Filesystems as memory management sees them: the kernel's `fs/`."""

from mmigrate.linux import mm as mm  # the circles of mm begin there

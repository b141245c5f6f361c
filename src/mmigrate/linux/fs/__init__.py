"""Filesystems and `/proc`."""

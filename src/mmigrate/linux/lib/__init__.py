"""Containers under the names of the kernel's own `lib/`."""

"""Memory management: a file for a file of the kernel's `mm/`."""

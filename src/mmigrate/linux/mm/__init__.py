"""Memory management: the kernel's `mm/`, a module a file.

Its modules need each other in circles, as in C. They import modules, not names, so that a
half-loaded one will do; `mmap` takes names from `vma`, so it has to be the first.
"""

from mmigrate.linux.mm import mmap as mmap

"""Memory policies: numbers and the policy object  (include/uapi/linux/mempolicy.h)."""

from __future__ import annotations

from typing import Final

MAX_NUMNODES: Final = 1024

MPOL_DEFAULT: Final = 0
MPOL_PREFERRED: Final = 1
MPOL_BIND: Final = 2
MPOL_INTERLEAVE: Final = 3
MPOL_LOCAL: Final = 4
MPOL_MAX: Final = 5

MPOL_F_STATIC_NODES: Final = 1 << 15
MPOL_F_RELATIVE_NODES: Final = 1 << 14
MPOL_MODE_FLAGS: Final = MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES

MPOL_F_NODE: Final = 1
MPOL_F_ADDR: Final = 2
MPOL_F_MEMS_ALLOWED: Final = 4

MPOL_MF_STRICT: Final = 1
MPOL_MF_MOVE: Final = 2
MPOL_MF_MOVE_ALL: Final = 4
MPOL_MF_LAZY: Final = 8
MPOL_MF_INTERNAL: Final = 16
MPOL_MF_DISCONTIG_OK: Final = 16
MPOL_MF_INVERT: Final = 32
MPOL_MF_VALID: Final = MPOL_MF_STRICT | MPOL_MF_MOVE | MPOL_MF_MOVE_ALL

MPOL_F_SHARED: Final = 1
MPOL_F_LOCAL: Final = 2
MPOL_F_REBINDING: Final = 4
MPOL_F_MOF: Final = 8
MPOL_F_MORON: Final = 16


class Mempolicy:
    """A policy.  @v is the preferred node or a bit mask of nodes; @w the user's mask or
    the mems_allowed it was computed for.  Masks of nodes are plain ints, bit n = node n."""

    __slots__ = ("flags", "mode", "refcnt", "v", "w")

    def __init__(self, mode: int, flags: int, v: int = 0, w: int = 0) -> None:
        self.refcnt = 1
        self.mode = mode
        self.flags = flags
        self.v = v
        self.w = w

"""Numbers of Linux on x86-64 that a process of a `RealMachine` needs  (include/uapi)."""

from __future__ import annotations

from typing import Final

# arch/x86/entry/syscalls/syscall_64.tbl
SYS_READ: Final = 0
SYS_WRITE: Final = 1
SYS_OPEN: Final = 2
SYS_CLOSE: Final = 3
SYS_MMAP: Final = 9
SYS_MPROTECT: Final = 10
SYS_MUNMAP: Final = 11
SYS_BRK: Final = 12
SYS_RT_SIGACTION: Final = 13
SYS_PREAD64: Final = 17
SYS_PWRITE64: Final = 18
SYS_MREMAP: Final = 25
SYS_MINCORE: Final = 27
SYS_MADVISE: Final = 28
SYS_SOCKET: Final = 41
SYS_CONNECT: Final = 42
SYS_EXIT: Final = 60
SYS_FCNTL: Final = 72
SYS_CAPSET: Final = 126
SYS_SETRESUID: Final = 117
SYS_SETRESGID: Final = 119
SYS_SETGROUPS: Final = 116
SYS_MLOCK: Final = 149
SYS_MUNLOCK: Final = 150
SYS_MLOCKALL: Final = 151
SYS_MUNLOCKALL: Final = 152
SYS_PRCTL: Final = 157
SYS_SCHED_SETAFFINITY: Final = 203
SYS_REMAP_FILE_PAGES: Final = 216
SYS_EXIT_GROUP: Final = 231
SYS_MBIND: Final = 237
SYS_SET_MEMPOLICY: Final = 238
SYS_GET_MEMPOLICY: Final = 239
SYS_MIGRATE_PAGES: Final = 256
SYS_VMSPLICE: Final = 278
SYS_MOVE_PAGES: Final = 279
SYS_PIPE2: Final = 293
SYS_CLOSE_RANGE: Final = 436

PROT_READ: Final = 1
PROT_WRITE: Final = 2
PROT_EXEC: Final = 4

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_LOCKED: Final = 0x2000
MAP_POPULATE: Final = 0x8000
MAP_HUGETLB: Final = 0x40000
MAP_HUGE_SHIFT: Final = 26
MREMAP_MAYMOVE: Final = 1
MREMAP_FIXED: Final = 2
MCL_CURRENT: Final = 1

MADV_PAGEOUT: Final = 21
MADV_HWPOISON: Final = 100
MADV_SOFT_OFFLINE: Final = 101

MPOL_MF_STRICT: Final = 1
MPOL_MF_MOVE: Final = 2
MPOL_MF_MOVE_ALL: Final = 4

CLONE_VM: Final = 0x100
CLONE_FS: Final = 0x200
CLONE_FILES: Final = 0x400
CLONE_SIGHAND: Final = 0x800
CLONE_PARENT: Final = 0x8000
CLONE_THREAD: Final = 0x10000
CLONE_SYSVSEM: Final = 0x40000
CLONE_A_THREAD: Final = (
    CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM
)

PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_NAME: Final = 15

SA_SIGINFO: Final = 0x4
SA_RESTORER: Final = 0x04000000
SA_NODEFER: Final = 0x40000000

F_SETPIPE_SZ: Final = 1031
O_RDONLY: Final = 0
O_RDWR: Final = 2
O_CLOEXEC: Final = 0o2000000

# include/uapi/linux/capability.h
CAPABILITIES: Final = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
}
CAPABILITY_VERSION_3: Final = 0x20080522

# /proc/PID/pagemap
PM_FRAME: Final = (1 << 55) - 1
PM_FILE: Final = 1 << 61
PM_SWAP: Final = 1 << 62
PM_PRESENT: Final = 1 << 63
# /proc/kpageflags
KPF_ZERO_PAGE: Final = 24

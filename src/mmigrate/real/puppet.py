"""The program that every process of a `RealMachine` runs: a few hundred bytes that obey orders.

A process of Python would do, but its own thousands of pages would be migrated, locked, counted
and copied with those of the scenario, and its threads would take turns. This one has a page of
code and a few pages of stack, so what /proc and /proc/vmstat tell of it is what the scenario did.

An order is one message on a SOCK_SEQPACKET socket: eight words, then a payload.

    word 0       the number of a system call, or one of the operations below
    words 1..6   its arguments; addresses of the payload are `buffer + PAYLOAD` and on
    word 7       how many bytes of the payload to send back

The answer is two words and as much of the payload. For a system call the first word is its
result. For an operation it is 0, or the number of the signal that a load or store ended in, and
the second word the address. Whoever starts to take orders says hello with the address of its
buffer. When the socket closes the process ends.
"""

from __future__ import annotations

import struct
from typing import Final

from mmigrate.real.assembler import Code

COPY: Final = 0x1000  # (to, from, length): bytes, by loads and stores
TOUCH: Final = 0x1001  # (start, end, step): a store of what is there, each @step bytes
LOOK: Final = 0x1002  # (start, end, step): a load, each @step bytes
SPIN: Final = 0x1004  # (count): use the CPU
CLONE: Final = 0x1003  # (flags, stack or 0, socket): a child or a thread that obeys @socket

BUFFER: Final = 8192  # of a message
HEADER: Final = struct.Struct("<8Q")
ANSWER: Final = struct.Struct("<qQ")
PAYLOAD: Final = HEADER.size
MAX_PAYLOAD: Final = BUFFER - PAYLOAD

BASE: Final = 0x2000_0000  # where the program is; its heap grows above
_PAGE: Final = 4096

# arch/x86/entry/syscalls/syscall_64.tbl
_READ, _WRITE, _RT_SIGRETURN, _CLONE, _EXIT_GROUP = 0, 1, 15, 56, 231
_EINTR = 4
# Offsets in the ucontext that a signal handler is given, and in its siginfo.
_SAVED_RDX, _SAVED_RAX, _SAVED_RIP = 136, 144, 168
_SI_ADDR = 16


def program() -> Code:
    """The instructions.  r12: the socket; r13: the buffer; r14: bytes of payload to send."""
    code = Code()
    code.move("r12", 0)
    code.label("new stack")
    code.address("rsp", "rsp", -BUFFER)
    code.align_down("rsp", 64)
    code.move("r13", "rsp")
    code.label("hello")
    code.move("r14", 0)
    code.move("rax", "r13")

    code.label("done")
    code.move("rdx", 0)
    code.label("answer")
    code.store("r13", PAYLOAD - 16, "rax")
    code.store("r13", PAYLOAD - 8, "rdx")
    code.move("rdi", "r12")
    code.address("rsi", "r13", PAYLOAD - 16)
    code.address("rdx", "r14", 16)
    code.move("rax", _WRITE)
    code.system_call()

    code.label("next order")
    code.move("rdi", "r12")
    code.move("rsi", "r13")
    code.move("rdx", BUFFER)
    code.move("rax", _READ)
    code.system_call()
    code.compare("rax", -_EINTR)
    code.jump("next order", "equal")
    code.compare("rax", PAYLOAD)
    code.jump("end", "less")
    code.load("r14", "r13", 56)
    code.load("rax", "r13", 0)
    code.load("rdi", "r13", 8)
    code.load("rsi", "r13", 16)
    code.load("rdx", "r13", 24)
    code.load("r10", "r13", 32)
    code.load("r8", "r13", 40)
    code.load("r9", "r13", 48)
    operations = {COPY: "copy", TOUCH: "touch", LOOK: "look", CLONE: "clone", SPIN: "spin"}
    for number, label in operations.items():
        code.compare("rax", number)
        code.jump(label, "equal")
    code.system_call()
    code.jump("done")

    code.label("copy")
    code.move("rcx", "rdx")
    code.copy_bytes()
    code.move("rax", 0)
    code.jump("done")

    for label, access in (("touch", code.store_what_is_there), ("look", code.load_a_byte)):
        code.label(label)
        code.move("rax", 0)
        code.label(f"{label} next")
        code.compare("rdi", "rsi")
        code.jump("accessed", "above or equal")
        access()
        code.add("rdi", "rdx")
        code.jump(f"{label} next")
    code.label("accessed")
    code.move("rax", 0)
    code.jump("done")

    code.label("spin")
    code.move("rsi", -1)
    code.label("spin on")
    code.add("rdi", "rsi")
    code.compare("rdi", 0)
    code.jump("spin on", "not equal")
    code.jump("accessed")

    code.label("clone")
    code.move("r15", "rdx")
    code.move("rdx", 0)
    code.move("r10", 0)
    code.move("r8", 0)
    code.move("rax", _CLONE)
    code.system_call()
    code.compare("rax", 0)
    code.jump("done", "not equal")
    code.move("r12", "r15")
    code.compare("rsp", "r13")  # a forked child goes on with its copy of the stack
    code.jump("hello", "equal")
    code.jump("new stack")

    code.label("end")
    code.move("rdi", 0)
    code.move("rax", _EXIT_GROUP)
    code.system_call()

    # A signal of a load or store: go on at `answer` with its number and the address.
    code.label("signal")
    code.load("rax", "rsi", _SI_ADDR)
    code.store("rdx", _SAVED_RDX, "rax")
    code.store("rdx", _SAVED_RAX, "rdi")
    code.address_of("rax", "answer")
    code.store("rdx", _SAVED_RIP, "rax")
    code.give_back()
    code.label("end of signal")
    code.move("rax", _RT_SIGRETURN)
    code.system_call()
    return code


_ELF: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_PT_LOAD, _PT_GNU_STACK = 1, 0x6474E551
_ENTRY: Final = BASE + _ELF.size + 2 * _SEGMENT.size


def image() -> bytes:
    """The program as a file to execute (ELF, statically linked, one segment)."""
    code = program().assembled()
    size = _ENTRY - BASE + len(code)
    identification = b"\x7fELF" + bytes((2, 1, 1))
    header = _ELF.pack(
        identification,
        *(2, 62, 1, _ENTRY),  # an executable for x86-64, in the first version of the format
        *(_ELF.size, 0, 0),
        *(_ELF.size, _SEGMENT.size, 2, 0, 0, 0),
    )
    text = _SEGMENT.pack(_PT_LOAD, 5, 0, BASE, BASE, size, size, _PAGE)
    stack = _SEGMENT.pack(_PT_GNU_STACK, 6, 0, 0, 0, 0, 0, 16)
    return header + text + stack + code


def signal_handler() -> tuple[int, int]:
    """The addresses of the signal handler and of what it returns to."""
    labels = program().labels
    return _ENTRY + labels["signal"], _ENTRY + labels["end of signal"]

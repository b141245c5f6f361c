"""A few instructions of x86-64, as bytes: enough for `puppet.py`, so that nothing is compiled.

code = Code()
code.label("loop")
code.move("rax", "rdi")        # registers, or a register and a number
code.load("rdi", "r13", 8)     # mov rdi, [r13 + 8]
code.jump("loop")
code.bytes_at(0x1000)          # labels become distances
"""

from __future__ import annotations

import struct
from typing import Final

_NAMES: Final = (
    *("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
REGISTERS: Final = {name: number for number, name in enumerate(_NAMES)}
# Conditions of jumps: the second byte of the instruction.
CONDITIONS: Final = {
    "equal": 0x84,
    "not equal": 0x85,
    "below": 0x82,  # of unsigned numbers
    "above or equal": 0x83,
    "less": 0x8C,  # of signed numbers
}


class Code:
    """Instructions in order; 64 bits wide where nothing else is said."""

    def __init__(self) -> None:
        self.code = bytearray()
        self.labels: dict[str, int] = {}
        self._distances: list[tuple[int, str]] = []

    def label(self, name: str) -> None:
        self.labels[name] = len(self.code)

    def assembled(self) -> bytes:
        """The bytes, with the distance to each label filled in."""
        for position, label in self._distances:
            struct.pack_into("<i", self.code, position, self.labels[label] - position - 4)
        return bytes(self.code)

    # --- moves ---

    def move(self, to: str, source: str | int) -> None:
        """@to = a register or a number."""
        target = REGISTERS[to]
        if isinstance(source, int):
            self.code += bytes((0x48 | target >> 3, 0xC7, 0xC0 | target & 7))
            self.code += struct.pack("<i", source)
        else:
            self._registers(0x89, REGISTERS[source], target)

    def load(self, to: str, base: str, offset: int) -> None:
        """@to = the word at @base + @offset."""
        self._memory(0x8B, REGISTERS[to], REGISTERS[base], offset)

    def store(self, base: str, offset: int, source: str) -> None:
        """The word at @base + @offset = @source."""
        self._memory(0x89, REGISTERS[source], REGISTERS[base], offset)

    def address(self, to: str, base: str, offset: int) -> None:
        """@to = @base + @offset."""
        self._memory(0x8D, REGISTERS[to], REGISTERS[base], offset)

    def address_of(self, to: str, label: str) -> None:
        """@to = where @label is."""
        register = REGISTERS[to]
        self.code += bytes((0x48 | register >> 3 << 2, 0x8D, register << 3 & 0x38 | 5))
        self._distance(label)

    # --- arithmetic ---

    def add(self, to: str, source: str) -> None:
        self._registers(0x01, REGISTERS[source], REGISTERS[to])

    def align_down(self, register: str, size: int) -> None:
        """@register &= -@size, for @size up to 128."""
        number = REGISTERS[register]
        self.code += bytes((0x48 | number >> 3, 0x83, 0xE0 | number & 7, -size & 0xFF))

    def compare(self, left: str, right: str | int) -> None:
        register = REGISTERS[left]
        if isinstance(right, int):
            self.code += bytes((0x48 | register >> 3, 0x81, 0xF8 | register & 7))
            self.code += struct.pack("<i", right)
        else:
            self._registers(0x39, REGISTERS[right], register)

    # --- control ---

    def jump(self, label: str, condition: str = "") -> None:
        self.code += bytes((0x0F, CONDITIONS[condition])) if condition else b"\xe9"
        self._distance(label)

    def system_call(self) -> None:
        self.code += b"\x0f\x05"

    def give_back(self) -> None:
        """Return to who called."""
        self.code += b"\xc3"

    # --- loads and stores of bytes ---

    def copy_bytes(self) -> None:
        """rcx bytes from [rsi] to [rdi]."""
        self.code += b"\xfc\xf3\xa4"

    def store_what_is_there(self) -> None:
        """A store into [rdi] that changes nothing, whoever else writes: lock or byte [rdi], 0."""
        self.code += b"\xf0\x80\x0f\x00"

    def load_a_byte(self) -> None:
        """al = [rdi]."""
        self.code += b"\x8a\x07"

    # --- encoding ---

    def _registers(self, opcode: int, register: int, target: int) -> None:
        prefix = 0x48 | register >> 3 << 2 | target >> 3
        self.code += bytes((prefix, opcode, 0xC0 | register << 3 & 0x38 | target & 7))

    def _memory(self, opcode: int, register: int, base: int, offset: int) -> None:
        prefix = 0x48 | register >> 3 << 2 | base >> 3
        self.code += bytes((prefix, opcode, 0x80 | register << 3 & 0x38 | base & 7))
        if base & 7 == 4:  # rsp and r12 need another byte
            self.code.append(0x24)
        self.code += struct.pack("<i", offset)

    def _distance(self, label: str) -> None:
        self._distances.append((len(self.code), label))
        self.code += bytes(4)

"""The instructions, as the assembler of binutils would encode them."""

import pytest

from mmigrate.real.assembler import Code


@pytest.mark.parametrize(
    ("write", "bytes_of_it"),
    [
        (lambda code: code.move("rax", "rdi"), "48 89 f8"),
        (lambda code: code.move("r12", "r15"), "4d 89 fc"),
        (lambda code: code.move("rdx", 8192), "48 c7 c2 00 20 00 00"),
        (lambda code: code.move("r8", -1), "49 c7 c0 ff ff ff ff"),
        (lambda code: code.load("rdi", "r13", 8), "49 8b bd 08 00 00 00"),
        (lambda code: code.load("r14", "r12", 56), "4d 8b b4 24 38 00 00 00"),
        (lambda code: code.store("rdx", 168, "rax"), "48 89 82 a8 00 00 00"),
        (lambda code: code.store("r13", 48, "r9"), "4d 89 8d 30 00 00 00"),
        (lambda code: code.address("rsp", "rsp", -8192), "48 8d a4 24 00 e0 ff ff"),
        (lambda code: code.address("rdx", "r14", 16), "49 8d 96 10 00 00 00"),
        (lambda code: code.align_down("rsp", 64), "48 83 e4 c0"),
        (lambda code: code.add("rdi", "rdx"), "48 01 d7"),
        (lambda code: code.compare("rdi", "rsi"), "48 39 f7"),
        (lambda code: code.compare("rax", -4), "48 81 f8 fc ff ff ff"),
        (lambda code: code.store_what_is_there(), "f0 80 0f 00"),
        (lambda code: code.load_a_byte(), "8a 07"),
        (lambda code: code.copy_bytes(), "fc f3 a4"),
        (lambda code: code.system_call(), "0f 05"),
        (lambda code: code.give_back(), "c3"),
    ],
)
def test_encoding(write, bytes_of_it):
    code = Code()
    write(code)
    assert code.assembled().hex(" ") == bytes_of_it


def test_distances_are_counted_from_the_next_instruction():
    code = Code()
    code.label("back")
    code.jump("on", "above or equal")
    code.jump("back")
    code.address_of("rax", "on")
    code.label("on")
    assert code.assembled().hex(" ") == (
        "0f 83 0c 00 00 00 "  # to 18
        "e9 f5 ff ff ff "  # to 0
        "48 8d 05 00 00 00 00"  # 18
    )

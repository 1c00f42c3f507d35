"""Blocks of every format that was ever written can be read; a damaged one is an error."""

import zlib

import pytest

from controller.errors import InvariantError
from controller.stream.packing import BLOCK_LINES, packed, unpacked

LINES = [b'{"type":"tick","time":%d}' % i for i in range(300)]


def test_lines_come_back_to_the_byte():
    odd = [b"", b"\xff\x00", "\u2028é".encode(), *LINES]
    assert [unpacked(*block) for block in packed(odd)] == [tuple(odd)]


def test_an_append_is_cut_into_blocks():
    many = [b"%d" % i for i in range(2 * BLOCK_LINES + 1)]
    blocks = packed(many)
    assert [count for count, _ in blocks] == [BLOCK_LINES, BLOCK_LINES, 1]
    assert [line for block in blocks for line in unpacked(*block)] == many


@pytest.mark.parametrize("level", [0, 1, 6, 9])
def test_a_block_of_0_2_0_can_be_read(level):
    assert unpacked(len(LINES), zlib.compress(b"\n".join(LINES), level)) == tuple(LINES)


def test_a_block_is_recognised_by_its_first_bytes():
    ((_, body),) = packed(LINES)
    assert body.startswith(bytes.fromhex("28b52ffd"))


@pytest.mark.parametrize("place", [5, 40, -20, -1])
def test_a_flipped_bit_is_no_other_event(place):
    ((count, body),) = packed(LINES)
    damaged = bytearray(body)
    damaged[place] ^= 4
    with pytest.raises(ValueError, match=r"unpacked|events"):
        unpacked(count, bytes(damaged))


@pytest.mark.parametrize("body", [b"", b"what", b"\x28\xb5\x2f\xfd", b"\x78\x01"])
def test_what_is_no_block_is_refused(body):
    with pytest.raises(ValueError, match="unpacked"):
        unpacked(1, body)


def test_a_block_that_is_cut_off_is_refused():
    ((count, body),) = packed(LINES)
    with pytest.raises(ValueError, match="unpacked"):
        unpacked(count, body[:-9])


def test_a_line_with_a_line_end_is_refused():
    with pytest.raises(InvariantError, match="line end"):
        packed([b"a\nb"])

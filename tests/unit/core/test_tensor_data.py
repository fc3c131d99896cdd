"""Values of tensors in bytes."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.problems import Problem
from tollhouse.core.tensor_data import UNREAD, read_values, write_values

NUMBERS = [("INT32", (1, -2)), ("INT64", (2**40,)), ("UINT8", (7, 255)), ("BOOL", ())]


@pytest.mark.parametrize(("datatype", "values"), NUMBERS)
def test_what_is_written_is_read(datatype, values):
    assert values == read_values("x", datatype, write_values(datatype, values))


@given(st.lists(st.binary(max_size=9)))
def test_strings_have_their_length_before_them(texts):
    raw = b"".join(struct.pack("<I", len(it)) + it for it in texts)

    assert tuple(texts) == read_values("x", "BYTES", raw)


@pytest.mark.parametrize(
    ("datatype", "raw"),
    [("INT32", b"\1\0"), ("BYTES", b"\1"), ("BYTES", b"\2\0\0\0x"), ("FP64", b"1" * 9)],
)
def test_what_is_no_such_list_is_refused(datatype, raw):
    with pytest.raises(Problem) as caught:
        read_values("x", datatype, raw)
    assert "x" == caught.value.param


def test_what_nobody_reads_is_not_empty():
    """A lever of such a type would be let in."""
    assert UNREAD == read_values("x", "FP16", b"")
    assert all(UNREAD)


@given(st.sampled_from(["BYTES", "BOOL", "INT16", "FP32"]), st.binary())
def test_any_bytes_are_read_or_refused(datatype, raw):
    with contextlib.suppress(Problem):
        read_values("x", datatype, raw)

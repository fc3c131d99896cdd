"""What a refusal says, and that gRPC's headers carry it."""

import base64
from urllib.parse import quote

import pytest
from google.rpc import error_details_pb2
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.admin.refusal import LONGEST_STATUS, LONGEST_TEXT, fitting, invalid

HEADERS = 8192
"""Bytes of metadata a client of gRPC takes."""
PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def violations(status):
    """Its BadRequest, field by field."""
    found = error_details_pb2.BadRequest()
    (detail,) = status.details
    assert detail.Unpack(found)
    return [(it.field, it.description) for it in found.field_violations]


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=500)), max_size=200))
def test_every_refusal_fits(faults):
    """Whatever was wrong, and in whichever script it was written."""
    status = invalid(faults)

    raw = status.SerializeToString()
    assert len(raw) <= LONGEST_STATUS
    travels = quote(status.message, safe=PRINTABLE), base64.b64encode(raw)
    assert sum(map(len, travels)) < HEADERS - 1024
    told = violations(status)
    assert told == [(field, what[:400]) for field, what in faults[: len(told)]]


@pytest.mark.parametrize("what", ["\N{GRINNING FACE}" * 600, "x" * 9000, "%" * 9000])
def test_the_first_fault_is_told(what):
    """However long it is."""
    assert "name" == violations(invalid([("name", what)]))[0][0]


def test_many_are_counted():
    """A caller learns that what it sees is not all."""
    faults = [(f"documents[{at}].digest", "a digest is v1:…") for at in range(5000)]

    status = invalid(faults)

    assert status.message.startswith("documents[0].digest: a digest is v1:…; documents")
    assert status.message.endswith("; and 4997 more")
    assert 40 < len(violations(status)) < 200


@pytest.mark.parametrize(
    ("field", "what", "said"),
    [
        ("reason", "reason: up to 256 characters", "reason: up to 256 characters"),
        ("terms.labels", "17 labels: few", "terms.labels: 17 labels: few"),
        ("source", "source 'B': 1 to 64 of a-z", "source 'B': 1 to 64 of a-z"),
        ("prune", "no keys to import", "prune: no keys to import"),
    ],
)
def test_a_field_is_named_once(field, what, said):
    """Some faults begin with their field's name: the command line shows no other."""
    assert said == invalid([(field, what)]).message


def test_a_text_is_cut_where_it_travels_in_so_many_bytes():
    """A letter is there whole or not at all."""
    assert "a" * LONGEST_TEXT == fitting("a" * LONGEST_TEXT)
    assert "a" * LONGEST_TEXT + "…" == fitting("a" * (LONGEST_TEXT + 1))
    assert "é" * (LONGEST_TEXT // 6) + "…" == fitting("é" * 500)
    assert "%" * (LONGEST_TEXT // 3) + "…" == fitting("%" * 500)

"""JSON answers of the APIs beside chat, cut anywhere."""

import json
import struct
from typing import Any

import pytest

from tests.unit.meter import corpus, shapes
from tests.unit.meter.lua_meter import metered_document
from tests.unit.meter.reference import OPENAI_ERROR, WORDS
from tests.unit.meter.test_cuts import cuts

_RESPONSES = {
    "input_tokens": 412,
    "input_tokens_details": {"cached_tokens": 128},
    "output_tokens": 6,
    "output_tokens_details": {"reasoning_tokens": 3},
}
_MESSAGES = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 300,
    "cache_read_input_tokens": 100,
    "output_tokens": 6,
    "service_tier": "standard",
}


def _tensor(name: str, datatype: str, values: list[Any], **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1, len(values)], **more}


def _inferred() -> bytes:
    """An answer of Triton's infer."""
    outputs = [
        _tensor(name, datatype, values, data=values)
        for name, datatype, values in (
            ("output_log_probs", "FP32", [0.5] * 2000),
            ("num_output_tokens", "INT32", [6]),
            ("text_output", "BYTES", ["Hello", 'é "num_output_tokens"']),
            ("num_input_tokens", "INT32", [412]),
        )
    ]
    parameters = {"usage": corpus.usage(9), "num_output_tokens": "9"}
    answer = {"model_name": "m", "parameters": parameters, "outputs": outputs}
    return json.dumps(answer, ensure_ascii=False).encode()


_DOCUMENTS = {
    "responses": (
        shapes.document(usage=_RESPONSES, error=None),
        "json,0,0,1,412,6,128,3,0,0,F,0",
    ),
    "messages": (shapes.document(usage=_MESSAGES), "json,0,0,1,412,6,100,-,0,0,F,0"),
    "embeddings": (
        shapes.document(usage={"prompt_tokens": 5, "total_tokens": 5}),
        "json,0,0,1,5,-,-,-,0,0,F,0",
    ),
    "generate": (
        json.dumps(shapes.generated(6, 'He "x"')).encode(),
        "json,0,1,1,412,6,-,-,0,0,F,8",
    ),
    "generate, beams": (
        json.dumps(shapes.generated([6], ["He", "llo"])).encode(),
        "json,0,1,1,412,6,-,-,0,0,F,5",
    ),
    "generate, a batch": (
        b'{"num_input_tokens":[ 10, 20 ],"num_output_tokens":[[100],[200]]}',
        "json,0,0,1,30,300,-,-,0,0,F,0",
    ),
    "generate, no counts": (
        b'{"num_input_tokens":["10"],"num_output_tokens":6.5}',
        "json,0,0,0,-,-,-,-,0,0,F,0",
    ),
    "generate, a count over the bound": (
        b'{"num_input_tokens":1,"num_output_tokens":[%s0]}' % (b"9," * 2500),
        "json,0,0,1,1,-,-,-,0,0,F,0",
    ),
    "infer": (_inferred(), "json,0,1,1,412,6,-,-,0,0,F,29"),
    "infer, counts first": (
        json.dumps(
            {
                "outputs": [_tensor("num_output_tokens", "INT32", [6], data=[6])],
                "more": [_tensor("num_output_tokens", "INT32", [9], data=[9])],
                "message": {"id": "x"},
                "last": {"usage": {"input_tokens": 9, "output_tokens": 9}},
            }
        ).encode(),
        "json,0,0,1,-,6,-,-,0,0,F,0",
    ),
    "usage within, first": (
        b'{"response":{"usage":{"input_tokens":412,"output_tokens":6},"a":1}}',
        "json,0,0,1,412,6,-,-,0,0,F,0",
    ),
}


@pytest.mark.parametrize("name", _DOCUMENTS)
def test_any_cut(name):
    """Counts stand at their place and nowhere else, and no byte changes."""
    document, usage = _DOCUMENTS[name]

    for pieces in cuts(document):
        got = metered_document(pieces, foreign=True)
        assert (got.forwarded, got.usage) == (document, usage), pieces


def binary() -> tuple[int, bytes]:
    """An answer of infer with tensors after the JSON, and that JSON's length."""
    texts = [b"Hello", b"", "é".encode()]
    packed = b"".join(struct.pack("<I", len(text)) + text for text in texts)
    outputs = list[dict[str, Any]]()
    tail = b""
    for name, datatype, values, raw in (
        ("cum_log_probs", "FP32", [0.5], struct.pack("<f", 0.5)),
        ("num_output_tokens", "INT32", [0x01020304], struct.pack("<i", 0x01020304)),
        ("empty", "FP32", [], b""),
        ("text_output", "BYTES", texts, packed),
        ("num_input_tokens", "INT32", [412], struct.pack("<i", 412)),
    ):
        size = {"binary_data_size": len(raw)}
        outputs.append(_tensor(name, datatype, values, parameters=size))
        tail += raw
    head = json.dumps({"model_name": "m", "outputs": outputs}).encode()
    return len(head), head + tail


def test_tensors_after_the_document():
    """Counts are read out of binary tensors, however they are cut."""
    length, body = binary()

    for pieces in cuts(body):
        got = metered_document(pieces, length=length)
        usage = f"json,0,1,1,412,{0x01020304},-,-,0,0,F,7"
        assert (got.forwarded, got.usage) == (body, usage), pieces


def counted(datatype: str, values: list[Any], raw: bytes | None = None) -> str:
    """Say what is read of an answer with such an output count."""
    form: dict[str, Any] = (
        {"data": values}
        if raw is None
        else {"parameters": {"binary_data_size": len(raw)}}
    )
    output = _tensor("num_output_tokens", datatype, values, **form)
    head = json.dumps({"outputs": [output]}).encode()
    length = None if raw is None else len(head)
    said = {
        metered_document(pieces, length=length).usage
        for pieces in cuts(head + (raw or b""))
    }
    (usage,) = said
    return usage.split(",")[5]


def test_the_counts_of_a_batch_add_up():
    """One for each text, in JSON and in binary; up to a bound."""
    assert counted("INT32", [100, 200]) == "300"
    assert counted("INT32", [1, 2], struct.pack("<2i", 100, 200)) == "300"
    assert counted("INT32", [1] * 64, struct.pack("<64i", *[2] * 64)) == "128"
    assert counted("INT32", [-1] * 2, b"\xff" * 8) == "1000000000"
    assert counted("INT32", [1] * 65, struct.pack("<65i", *[2] * 65)) == "-"


@pytest.mark.parametrize(
    ("datatype", "values", "raw"),
    [
        ("BYTES", ["5.0:0"], None),
        ("BYTES", [1], b"\5\0\0\x005.0:0"),
        ("BYTES", [1], b"\0\0\0\0"),
        ("INT64", [1], None),
        ("INT64", [1], struct.pack("<q", 1)),
        ("FP32", [1], struct.pack("<f", 1)),
        ("INT32", ["5"], None),
        ("INT32", [-5], None),
        ("INT32", [5.5], None),
        ("INT32", [1], struct.pack("<2i", 1, 2)),
        ("INT32", [1], b"\1\0\0"),
    ],
)
def test_what_is_no_count_is_not_read_as_one(datatype, values, raw):
    """The ledger estimates then, rather than believe a number that is none."""
    assert counted(datatype, values, raw) == "-"


def test_counts_are_as_many_as_their_shape_says():
    """In JSON, too."""
    output = _tensor("num_output_tokens", "INT32", [1], data=[1, 2])
    document = json.dumps({"outputs": [output]}).encode()

    assert metered_document([document]).usage == "json,0,0,0,-,-,-,-,0,0,F,0"


_WORDS = json.dumps(WORDS).encode()
_CANARIES = [
    (json.dumps(shapes.CANARY).encode(), _WORDS),
    (json.dumps(f'"}}{shapes.CANARY}\\').encode(), _WORDS),
    (json.dumps({"a": [{"error": f"}}{shapes.CANARY}"}]}).encode(), OPENAI_ERROR),
]


@pytest.mark.parametrize(("theirs", "ours"), _CANARIES)
@pytest.mark.parametrize("place", ["first", "last", "alone"])
def test_an_error(theirs, ours, place):
    """A foreign backend's words and Triton's reach nobody, wherever they stand."""
    usage = b'"usage":{"input_tokens":412,"output_tokens":6}'
    body = {
        "first": b'{"error": %s ,' + usage + b"}",
        "last": b'{"a":{"error":1},' + usage + b',"error":%s}',
        "alone": b'{"error":%s}',
    }[place]
    counts = "0,-,-" if place == "alone" else "1,412,6"

    for pieces in cuts(body % theirs):
        got = metered_document(pieces, foreign=ours is OPENAI_ERROR)
        assert got.forwarded == body % ours, pieces
        assert got.usage == f"json,0,0,{counts},-,-,0,0,B,0"


def test_an_error_of_ours():
    """Our frontend words its errors itself; it is an error all the same."""
    body = b'{"error":{"message":"The prompt is too long."}}'

    got = metered_document([body])

    assert (got.forwarded, got.usage) == (body, "json,0,0,0,-,-,-,-,0,0,B,0")


def test_an_error_of_declared_length():
    """Bytes that were promised are sent: Triton declares none with its errors."""
    body = b'{"error":"a"}'

    assert metered_document([body], fixed=True).forwarded == body

"""Triton's answers in gRPC, cut anywhere, against what their messages say."""

import itertools
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from tests.unit.meter import shapes
from tests.unit.meter.lua_meter import grpc_module, lua, metered_grpc
from tests.unit.meter.reference import WORDS
from tests.unit.meter.test_cuts import cuts

_SPOOF = b"num_output_tokens\x12\x05INT32 triton_final_response\x12\x02\x08\x01"


def frame(message: Any, flag: int = 0) -> bytes:
    """Return a message as the wire has it."""
    raw: bytes = message.SerializeToString()
    return struct.pack(">BI", flag, len(raw)) + raw


def response(
    text: bytes | None = b"Hello",
    *,
    request: str = "",
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    final: bool | None = None,
    logits: int = 0,
) -> pb.ModelInferResponse:
    """One response of an engine; `logits` floats come first."""
    message = pb.ModelInferResponse(model_name="m", model_version="1", id=request)
    if final is not None:
        message.parameters["triton_final_response"].bool_param = final
    message.parameters["a"].string_param = "b"

    def add(name: str, datatype: str, raw: bytes, count: int = 1) -> None:
        message.outputs.add(name=name, datatype=datatype, shape=[1, count])
        message.raw_output_contents.append(raw)

    if logits:
        add("logits", "FP32", b"\0" * 4 * logits, logits)
    if output_tokens is not None:
        add("num_output_tokens", "INT32", struct.pack("<i", output_tokens))
    if text is not None:
        add("text_output", "BYTES", struct.pack("<I", len(text)) + text)
    if input_tokens is not None:
        add("num_input_tokens", "INT32", struct.pack("<i", input_tokens))
    return message


def streamed(message: pb.ModelInferResponse) -> bytes:
    """Return the response as one of a stream."""
    return frame(pb.ModelStreamInferResponse(infer_response=message))


def failed(text: str, request: str = "") -> bytes:
    """Return an error of Triton's as one of a stream."""
    inner = pb.ModelInferResponse(id=request) if request else None
    return frame(pb.ModelStreamInferResponse(error_message=text, infer_response=inner))


_TWO_REQUESTS = [
    streamed(response(b"He", request="a", input_tokens=400, output_tokens=1)),
    streamed(response(_SPOOF, request="b", input_tokens=12, output_tokens=3)),
    streamed(response(b"", request="a", input_tokens=400, output_tokens=1)),
    streamed(response(None, request="a", final=True)),
    streamed(response(b"llo", request="b", input_tokens=12, output_tokens=1)),
    streamed(pb.ModelInferResponse()),
    frame(pb.ModelStreamInferResponse()),
]


def test_any_cut_of_a_stream():
    """Outputs add up, each request's input counts once, and no byte changes."""
    stream = b"".join(_TWO_REQUESTS)
    usage = f"grpc,7,3,4,412,6,-,-,0,0,F,{2 + len(_SPOOF) + 3}"

    for pieces in cuts(stream):
        got = metered_grpc(pieces)
        assert (got.forwarded, got.usage) == (stream, usage), pieces


def test_any_cut_of_one_answer():
    """ModelInfer's answer has no envelope around the response."""
    body = frame(response(request="a", input_tokens=412, output_tokens=6, logits=9))

    for pieces in cuts(body):
        got = metered_grpc(pieces, stream=False)
        expected = (body, "grpc,1,1,1,412,6,-,-,0,0,F,5")
        assert (got.forwarded, got.usage) == expected, pieces


def test_an_id_that_comes_again():
    """A request ended by its final response; the next of that id is another one."""
    stream = b"".join(
        streamed(response(request=id_, input_tokens=10, output_tokens=1, final=final))
        for id_, final in [
            ("", False),
            ("", True),
            ("", False),
            ("", True),
            ("b", None),
        ]
    )

    assert metered_grpc([stream]).usage == "grpc,5,5,5,30,5,-,-,0,0,F,25"


def test_values_within_the_output():
    """A server may put values into the tensor itself (InferTensorContents)."""
    message = pb.ModelInferResponse(id="a")
    for name, datatype, field, values in (
        ("text_output", "BYTES", "bytes_contents", [b"He", b"llo"]),
        ("num_input_tokens", "INT32", "int_contents", [400, 12]),
        ("num_output_tokens", "INT32", "int_contents", [300]),
        ("scores", "FP32", "fp32_contents", [0.5] * 100),
    ):
        output = message.outputs.add(name=name, datatype=datatype, shape=[len(values)])
        getattr(output.contents, field).extend(values)
    body = frame(message)

    for pieces in cuts(body):
        got = metered_grpc(pieces, stream=False)
        assert got.usage == "grpc,1,1,1,412,300,-,-,0,0,F,5", pieces


def counted(
    datatype: str, raw: bytes | None, *, shape: int = 1, contents: Sequence[int] = ()
) -> str:
    """Say what is read of a stream with one such output count among good ones."""
    message = response(input_tokens=7)
    output = message.outputs.add(
        name="num_output_tokens", datatype=datatype, shape=[1, shape]
    )
    if raw is not None:
        message.raw_output_contents.append(raw)
    output.contents.int_contents.extend(contents)
    good = streamed(response(input_tokens=7, output_tokens=1))
    stream = good + streamed(message) + good
    (usage,) = {metered_grpc(pieces).usage for pieces in cuts(stream)}
    assert usage.split(",")[4] == "7"
    return usage.split(",")[5]


def test_the_counts_of_a_batch_add_up():
    """One for each text; up to a bound."""
    assert counted("INT32", struct.pack("<2i", 100, 200), shape=2) == "302"
    assert counted("INT32", struct.pack("<64i", *[2] * 64), shape=64) == "130"
    assert counted("INT32", b"\xff" * 8, shape=2) == "1000000002"
    assert counted("INT32", None, shape=2, contents=[100, 200]) == "302"
    assert counted("INT32", struct.pack("<65i", *[2] * 65), shape=65) == "-"


@pytest.mark.parametrize(
    ("datatype", "raw", "contents"),
    [
        ("BYTES", b"\5\0\0\x005.0:0", []),
        ("BYTES", b"\0\0\0\0", []),
        ("INT64", struct.pack("<q", 1), []),
        ("FP32", struct.pack("<f", 1), []),
        ("INT32", struct.pack("<2i", 1, 2), []),
        ("INT32", b"\1\0\0", []),
        ("INT32", None, []),
        ("INT64", None, [1]),
        ("INT32", None, [1, 2]),
    ],
)
def test_what_is_no_count_leaves_none(datatype, raw, contents):
    """The ledger estimates then: a sum without it would be too small."""
    assert counted(datatype, raw, contents=contents) == "-"


@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_an_error(size):
    """Triton's words reach nobody; whose request it was, and the rest, does."""
    canary = shapes.CANARY + "x" * size
    before, after = _TWO_REQUESTS[0], _TWO_REQUESTS[4]
    stream = before + failed(canary, "a") + after
    expected = before + failed(WORDS, "a") + after
    places = range(1, len(stream), 7 if size < 1000 else 9973)

    for place in places:
        got = metered_grpc([stream[:place], stream[place:]])
        assert _messages(got.forwarded) == _messages(expected)
        assert got.usage == "grpc,3,2,2,412,2,-,-,0,0,B,5"
    single = [bytes([one]) for one in failed(shapes.CANARY)]
    assert _messages(metered_grpc(single).forwarded) == _messages(failed(WORDS))


def _messages(body: bytes) -> list[pb.ModelStreamInferResponse]:
    messages = list[pb.ModelStreamInferResponse]()
    while body:
        flag, length = struct.unpack_from(">BI", body)
        assert flag == 0
        raw, body = body[5 : 5 + length], body[5 + length :]
        messages.append(pb.ModelStreamInferResponse.FromString(raw))
    return messages


def test_the_first_message_is_out_at_once():
    """What is complete is forwarded, and of what is not no more than its begin held."""
    meter = grpc_module[b"new"](True)
    message = _TWO_REQUESTS[0]

    for number, byte in enumerate(message):
        forwarded = grpc_module[b"feed"](meter, bytes([byte]))
        expected = message[:6] if number == 5 else b"" if number < 5 else None
        assert forwarded == expected


@pytest.mark.parametrize("stream", [False, True])
def test_memory_is_flat(stream):
    """A message of 64 MiB is read, and nothing of it kept."""
    heap = lua.eval(b'function() collectgarbage() return collectgarbage("count") end')
    inner = response(input_tokens=412, output_tokens=6, logits=16 << 20)
    body = streamed(inner) if stream else frame(inner)
    meter = grpc_module[b"new"](stream)
    before = heap()

    for place in range(0, len(body), 65_536):
        assert grpc_module[b"feed"](meter, body[place : place + 65_536]) is None
        if place % (16 << 20) == 0:
            assert heap() - before < 1024  # KiB

    usage = b"grpc,1,1,1,412,6,-,-,0,0,F,5"
    assert grpc_module[b"pack"](meter, True) == usage


def test_requests_over_the_bound():
    """Ids of a stream that never ends are not collected, and still each counts."""
    heap = lua.eval(b'function() collectgarbage() return collectgarbage("count") end')
    meter = grpc_module[b"new"](True)
    before = heap()

    for number in range(10_000):
        one = response(request=f"{number:0200}", input_tokens=2, output_tokens=1)
        grpc_module[b"feed"](meter, streamed(one))

    usage = b"grpc,10000,10000,10000,20000,10000,-,-,0,0,F,50000"
    assert grpc_module[b"pack"](meter, True) == usage
    assert heap() - before < 2048  # KiB


def test_a_compressed_message():
    """It passes unread, and says so; the next one is read."""
    zipped = frame(pb.ModelStreamInferResponse(error_message="zip"), flag=1)
    stream = zipped + _TWO_REQUESTS[0]

    got = metered_grpc([stream])

    assert (got.forwarded, got.usage) == (stream, "grpc,2,1,1,400,1,-,-,0,0,FX,2")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x12", b"\x12\xff", b"\x12\x05\x0a", b"\x12\x03\x0a\xff\xff", b"\x13",
        b"\x17", b"\x80" * 11, b"\x12\x04\x2a\x7f\x0a\x01", b"\x12\x02\x32\x00",
        b"\x08", b"\x09\x01",
    ],
)  # fmt: skip
def test_a_broken_message(raw):
    """A message that is none passes, and ends where it said."""
    stream = struct.pack(">BI", 0, len(raw)) + raw + _TWO_REQUESTS[0]

    for pieces in cuts(stream):
        got = metered_grpc(pieces)
        assert got.forwarded == stream
        assert got.usage.startswith("grpc,2,1,1,400,1,")


def test_half_a_message_is_no_end():
    """Even where the trailers say OK."""
    assert metered_grpc([_TWO_REQUESTS[0][:-1]]).usage.split(",")[-2] == ""
    assert metered_grpc([b"".join(_TWO_REQUESTS), b"\0"]).usage.split(",")[-2] == ""


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (3, (None, "The model's server refused the request.")),
        (4, (None, "There was no answer in time.")),
        (7, ("14", WORDS)),
        (13, (None, WORDS)),
        (16, ("14", WORDS)),
    ],
)
def test_a_status_has_our_words(status, told):
    """What a backend says beside its status is ours to say."""
    meter = grpc_module[b"new"](True)

    ending = grpc_module[b"ending"](meter, status, None)

    words = tuple(ending[f"grpc_{of}".encode()] for of in ("status", "message"))
    assert words == tuple(it.encode() if it else None for it in told)
    assert grpc_module[b"pack"](meter, True) == b"grpc,0,0,0,-,-,-,-,0,0,B,0"


def test_a_refusal_stands_for_ok():
    """A refused request of a stream, whose earlier ones ended well."""
    meter = grpc_module[b"new"](True)
    refusal = lua.table_from({b"grpc_status": b"8"})

    assert grpc_module[b"ending"](meter, 0, refusal)[b"grpc_status"] == b"8"
    assert grpc_module[b"ending"](meter, 0, None) is None
    assert grpc_module[b"pack"](meter, True) == b"grpc,0,0,0,-,-,-,-,0,0,F,0"


_COUNTS = st.none() | st.integers(0, 10**6)
_RESPONSES = st.builds(
    response,
    st.none() | st.binary(max_size=40) | st.just(_SPOOF),
    request=st.sampled_from(["", "a", "b", "é" * 40]),
    input_tokens=_COUNTS,
    output_tokens=_COUNTS,
    final=st.sampled_from([None, False, False, True]),
    logits=st.integers(0, 9),
)


@settings(max_examples=300, deadline=None)
@given(st.data(), st.lists(_RESPONSES, max_size=8))
def test_any_stream(data, responses):
    """Counts are those of the messages, for any of them and any cut."""
    stream = b"".join(map(streamed, responses))
    places = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    edges = [0, *places, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(edges)]

    got = metered_grpc(pieces)

    assert (got.forwarded, got.usage) == (stream, _expected(responses))


def _expected(responses: list[pb.ModelInferResponse]) -> str:
    contents = usages = length = ended = 0
    outputs = list[int]()
    inputs = dict[str, int]()
    is_input_told = False
    for one in responses:
        values = {
            output.name: raw
            for output, raw in zip(one.outputs, one.raw_output_contents, strict=True)
        }
        counts = {
            name: struct.unpack("<i", raw)[0]
            for name, raw in values.items()
            if name.startswith("num_")
        }
        usages += bool(counts)
        outputs += [counts[name] for name in counts if "output" in name]
        if "num_input_tokens" in counts:
            is_input_told = True
            inputs[one.id] = max(inputs.get(one.id, 0), counts["num_input_tokens"])
        if one.parameters["triton_final_response"].bool_param:
            ended += inputs.pop(one.id, 0)
        text = values.get("text_output", b"\0" * 4)[4:]
        length += len(text)
        contents += bool(text)
    input_ = ended + sum(inputs.values()) if is_input_told else "-"
    output = sum(outputs) if outputs else "-"
    head = f"grpc,{len(responses)},{contents},{usages}"
    return f"{head},{input_},{output},-,-,0,0,F,{length}"

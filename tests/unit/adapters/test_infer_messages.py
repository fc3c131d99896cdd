"""Triton's inference request: read where Triton reads it, and written anew."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as theirs

from tollhouse.adapters.infer_messages import InferMessage
from tollhouse.core.infer import Rewrite
from tollhouse.core.problems import Problem

REWRITE = Rewrite("repository-name", 256)
RAW = {"BYTES": lambda it: struct.pack("<I", len(it)) + it}


def raw(text=b"hi", **tensors):
    """A request whose contents are raw, as clients send it."""
    request = theirs.ModelInferRequest(model_name="tiny", id="mine")
    for name, (datatype, content) in {
        "text_input": ("BYTES", RAW["BYTES"](text)),
        **tensors,
    }.items():
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(content)
    return request


def read(request):
    return InferMessage(request.SerializeToString())


def written(request, rewrite=REWRITE):
    message = read(request)
    message.request()
    return theirs.ModelInferRequest.FromString(message.rewritten(rewrite))


@pytest.mark.parametrize("size", [0, 1, 300])
def test_raw_strings_are_read_as_triton_does(size):
    found = read(raw(b"x" * (size + 1))).request()

    assert size + 1 == found.text_bytes


@pytest.mark.parametrize(
    ("datatype", "form"),
    [("INT32", "<i"), ("INT64", "<q"), ("UINT8", "<B"), ("UINT64", "<Q")],
)
def test_a_cap_is_read_in_any_whole_number(datatype, form):
    """What Triton makes of it is its business; nobody gets past with another size."""
    found = read(raw(max_tokens=(datatype, struct.pack(form, 9)))).request()

    assert 9 == found.output_cap


def test_contents_are_read_as_well():
    request = theirs.ModelInferRequest(model_name="tiny")
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[2, 1])
    text.contents.bytes_contents.extend([b"one", b"three"])
    cap = request.inputs.add(name="max_tokens", datatype="INT32", shape=[2, 1])
    cap.contents.int_contents.extend([3, 4])
    found = read(request).request()

    assert (8, 2, 4) == (found.text_bytes, found.choices, found.output_cap)


@pytest.mark.parametrize(
    "request_",
    [
        raw(max_tokens=("INT32", b"\1\0")),
        raw(text_input=("BYTES", b"\3\0\0\0hi")),
        raw(text_input=("BYTES", b"\3\0")),
        raw(beam_width=("INT32", struct.pack("<i", 2))),
        raw(lora_weights=("FP16", b"\0\0")),
    ],
    ids=["half a number", "half a string", "half a length", "lever", "unread"],
)
def test_what_is_not_read_is_refused(request_):
    with pytest.raises(Problem):
        read(request_).request()


def test_two_readers_can_not_read_two_things():
    """Duplicates, contents beside raw ones, and raw ones that do not match."""
    twice = raw()
    twice.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1])
    twice.raw_input_contents.append(b"")
    beside = raw()
    beside.inputs[0].contents.bytes_contents.append(b"other")
    fewer = raw(max_tokens=("INT32", b"\1\0\0\0"))
    del fewer.raw_input_contents[1]

    for request in (twice, beside, fewer):
        with pytest.raises(Problem):
            read(request).request()


def test_parameters_of_tensors_count():
    """A region of shared memory is read in place of the contents."""
    for which in ("inputs", "outputs"):
        request = raw()
        request.outputs.add(name="text_output")
        parameters = getattr(request, which)[0].parameters
        parameters["shared_memory_region"].string_param = "other"
        with pytest.raises(Problem):
            read(request).request()


@pytest.mark.parametrize("name", ["classification", "binary_data", "other"])
def test_an_output_has_no_parameters(name):
    """`classification` would make strings of the counts."""
    request = raw()
    request.outputs.add(name="num_output_tokens").parameters[name].int64_param = 1
    with pytest.raises(Problem) as caught:
        read(request).request()

    assert name == caught.value.param


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body):
    """Nothing else is raised."""
    with contextlib.suppress(Problem):
        InferMessage(body).request()


def test_the_backends_name_cap_and_counts_are_put_in():
    """All else stays, unknown fields included."""
    request = raw(temperature=("FP32", struct.pack("<f", 0.5)))
    request.parameters["note"].string_param = "x"
    found = written(request)
    names = [it.name for it in found.inputs]

    assert ("repository-name", "mine") == (found.model_name, found.id)
    assert request.parameters == found.parameters
    assert [
        *("text_input", "temperature", "max_tokens"),
        *("return_num_input_tokens", "return_num_output_tokens"),
    ] == names
    assert [
        *request.raw_input_contents,
        *(struct.pack("<i", 256), b"\1", b"\1"),
    ] == list(found.raw_input_contents)
    assert all([1, 1] == it.shape for it in found.inputs)


def test_a_client_that_wants_no_counts_gets_them():
    """They are its bill."""
    request = raw(return_num_output_tokens=("BOOL", b"\0"))
    for name in ("num_output_tokens", "text_output", "num_output_tokens"):
        request.outputs.add(name=name)
    found = written(request, Rewrite("m", None))
    at = [it.name for it in found.inputs].index("return_num_output_tokens")

    assert b"\1" == found.raw_input_contents[at]
    assert len(found.inputs) == len({it.name for it in found.inputs})
    assert ["text_output", "num_input_tokens", "num_output_tokens"] == [
        it.name for it in found.outputs
    ]


def test_contents_stay_contents():
    request = theirs.ModelInferRequest(model_name="tiny")
    text = request.inputs.add(name="text_input", datatype="BYTES", shape=[2, 1])
    text.contents.bytes_contents.extend([b"one", b"three"])
    found = written(request)

    assert [] == list(found.raw_input_contents)
    assert [256, 256] == list(found.inputs[1].contents.int_contents)
    assert [2, 1] == found.inputs[1].shape


def test_a_shape_that_lies_costs_nothing():
    """Triton refuses it; here it must not become a list of that size."""
    request = raw()
    request.inputs[0].shape[:] = [2**62, 1]

    assert [1, 1] == written(request).inputs[1].shape


def test_a_model_without_batches():
    request = raw()
    request.inputs[0].shape[:] = [1]

    assert [1] == written(request).inputs[1].shape


def test_an_id_of_ours_takes_the_place_of_the_clients():
    message = read(raw())
    message.request()
    message.give_id("ours")

    assert "ours" == theirs.ModelInferRequest.FromString(message.rewritten(REWRITE)).id

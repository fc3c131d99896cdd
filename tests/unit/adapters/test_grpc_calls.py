"""Bodies of gRPC calls with one request."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as theirs

from tests.unit.adapters.test_infer_messages import REWRITE, raw
from tollhouse.adapters.grpc_calls import InferCall, ModelCall
from tollhouse.adapters.grpc_frames import framed
from tollhouse.core.problems import Kind, Problem

INFER = framed(raw().SerializeToString())
READY = framed(theirs.ModelReadyRequest(name="tiny", version="3").SerializeToString())


def test_an_inference_is_read_and_written_anew():
    call = InferCall(INFER)
    request = call.request()
    written = call.rewritten(REWRITE)

    assert ("tiny", 2) == (request.model, request.text_bytes)
    assert framed(written[5:]) == written
    found = theirs.ModelInferRequest.FromString(written[5:])
    assert "repository-name" == found.model_name


@pytest.mark.parametrize(
    "kind", [theirs.ModelReadyRequest, theirs.ModelMetadataRequest]
)
def test_a_models_name_is_read_and_put_in_place(kind):
    """Its version stays."""
    call = ModelCall(framed(kind(name="tiny", version="3").SerializeToString()))

    assert "tiny" == call.model()
    renamed = kind.FromString(call.renamed("repository-name")[5:])
    assert ("repository-name", "3") == (renamed.name, renamed.version)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", Kind.INVALID_REQUEST),
        (b"\0", Kind.INVALID_REQUEST),
        (INFER + READY, Kind.INVALID_REQUEST),
        (INFER + b"\0", Kind.INVALID_REQUEST),
        (INFER[:-1], Kind.INVALID_REQUEST),
        (framed(b"\xff"), Kind.INVALID_REQUEST),
        (b"\1" + INFER[1:], Kind.UNSUPPORTED_ENCODING),
    ],
    ids=["nothing", "half a head", "two", "more", "half", "garbage", "compressed"],
)
def test_what_is_not_one_message_is_refused(body, kind):
    for read in (InferCall(body).request, ModelCall(body).model):
        with pytest.raises(Problem) as caught:
            read()
        assert kind is caught.value.kind


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body):
    """Nothing else is raised."""
    for read in (InferCall(framed(body)).request, ModelCall(framed(body)).model):
        with contextlib.suppress(Problem):
            read()

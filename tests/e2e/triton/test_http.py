"""Triton's HTTP API, with Triton's own client and as bare requests."""

import json
import time
from itertools import product
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as client_of
from tritonclient.utils import InferenceServerException

from tests.e2e.main import books
from tests.e2e.triton.calls import MODEL
from tests.e2e.triton.conftest import RENAMED, UNARY
from tests.e2e.triton.found import FREED_SECONDS, ended, settled, truth
from tollhouse.core.usage import CountSource, UsageKind

ANSWER = 40
"""Tokens of an answer that is left at every tenth."""


def tensors(text: bytes, *, binary: bool = True):
    """Inputs as the client's users make them."""
    made = client_of.InferInput("text_input", [1, 1], "BYTES")
    made.set_data_from_numpy(np.array([[text]], object), binary_data=binary)
    most = client_of.InferInput("max_tokens", [1, 1], "INT32")
    most.set_data_from_numpy(np.array([[8]], np.int32), binary_data=binary)
    return [made, most]


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def triton(stack):
    """Triton's client."""
    address = stack.base_url.removeprefix("http://").removesuffix("/v1")
    with client_of.InferenceServerClient(address) as made:
        yield made


@pytest.fixture
def http(stack):
    """A client of no API."""
    with httpx.Client(base_url=stack.base_url.removesuffix("/v1"), timeout=60) as made:
        yield made


def assert_counted(record, entry, cap=8):
    assert (
        UsageKind.FINAL,
        entry["input_tokens"],
        entry["output_tokens"],
        CountSource.BACKEND,
        cap,
    ) == (
        record.kind,
        record.usage.input_tokens,
        record.usage.output_tokens,
        record.output_source,
        record.facts.output_cap,
    )


def test_what_the_client_asks_before_it_infers(stack, triton, make_key, tenant):
    """Of the gateway itself, and of models; none of it is an exchange."""
    headers = bearer(make_key(tenant))
    model = triton.get_model_metadata(RENAMED, headers=headers)

    assert triton.is_server_live(headers)
    assert triton.is_server_ready(headers)
    assert "tollhouse" == triton.get_server_metadata(headers)["name"]
    assert triton.is_model_ready(UNARY, headers=headers)
    assert triton.is_model_ready(RENAMED, "1", headers=headers)
    assert not triton.is_model_ready(UNARY, "7", headers=headers)
    assert not triton.is_model_ready("other", headers=headers)
    assert "text_input" in [it["name"] for it in model["inputs"]]
    assert {} == books.settlements(stack.state_dir, tenant)


@pytest.mark.parametrize(
    "form", [*product([UNARY, RENAMED], [(), ("text_output",)], [0, 1])]
)
def test_an_inference_is_counted_to_the_token(stack, triton, make_key, form):
    """In binary or JSON, whatever outputs the client asks for."""
    model, outputs, binary = form
    tenant = f"http-{model}-{len(outputs)}-{binary}"
    result = triton.infer(
        model,
        tensors(b"Who keeps the toll?", binary=bool(binary)),
        outputs=[client_of.InferRequestedOutput(it, bool(binary)) for it in outputs],
        request_id=tenant,
        headers=bearer(make_key(tenant)),
    )
    (record,), (entry,) = settled(stack, tenant).values(), truth(stack)[tenant]

    assert result.as_numpy("text_output").item()
    assert tenant == result.get_response()["id"]
    assert_counted(record, entry)


@pytest.mark.parametrize("model", [MODEL, RENAMED])
def test_a_generation_is_counted_to_the_token(stack, http, make_key, model):
    """With the fields of its parameters, and no wish for counts."""
    tenant = f"generate-{model}"
    answer = http.post(
        f"/v2/models/{model}/versions/1/generate",
        json={
            "id": tenant,
            "text_input": "Who keeps the toll?",
            "parameters": {"max_tokens": 8, "return_num_output_tokens": False},
        },
        headers=bearer(make_key(tenant)),
    )
    (record,), (entry,) = settled(stack, tenant).values(), truth(stack)[tenant]

    assert 200 == answer.status_code
    assert record.exchange_id == answer.headers["x-tollhouse-exchange"]
    assert answer.json()["text_output"]
    assert_counted(record, entry)


def test_without_a_cap_it_gets_the_models(stack, http, make_key, tenant):
    http.post(
        f"/v2/models/{MODEL}/generate",
        json={"id": tenant, "text_input": "hi"},
        headers=bearer(make_key(tenant)),
    ).raise_for_status()
    (record,), (entry,) = settled(stack, tenant).values(), truth(stack)[tenant]

    assert_counted(record, entry, cap=256)


END = {"end_id": ("INT32", -1)}


def endless(id_, cap):
    """A stream as long as it may be: no token ends it."""
    ask = {"id": id_, "text_input": "The road", "max_tokens": cap, "stream": True}
    return ask | {"end_id": -1}


def test_a_stream_is_counted_to_the_token(stack, http, make_key, tenant):
    with http.stream(
        "POST",
        f"/v2/models/{MODEL}/generate_stream",
        json=endless(tenant, 12),
        headers=bearer(make_key(tenant)),
    ) as answer:
        events = [json.loads(it[5:]) for it in answer.iter_lines() if it]
    (record,), (entry,) = settled(stack, tenant).values(), truth(stack)[tenant]

    assert sum(it["num_output_tokens"] for it in events) == 12
    assert_counted(record, entry, cap=12)


@pytest.mark.timed
def test_a_client_that_leaves_is_billed_to_where_it_read(stack, http, make_key, tenant):
    """At every tenth: one record, within two events; and the engine is free."""
    headers, left = bearer(make_key(tenant)), {}
    for tenth in range(1, 11):
        with http.stream(
            "POST",
            f"/v2/models/{MODEL}/generate_stream",
            json=endless(f"{tenant}/{tenth}", ANSWER),
            headers=headers,
        ) as answer:
            lines = (it for it in answer.iter_lines() if it)
            for _ in range(tenth * ANSWER // 10):
                next(lines)
            left[answer.headers["x-tollhouse-exchange"]] = tenth
        left_at = time.time()
        (entry,) = ended(stack, f"{tenant}/{tenth}")
        assert entry["at"] - left_at <= FREED_SECONDS
    records, generated = settled(stack, tenant, len(left)), truth(stack)

    assert left.keys() == records.keys()
    for exchange, tenth in left.items():
        record, read = records[exchange], tenth * ANSWER // 10
        (entry,) = generated[f"{tenant}/{tenth}"]
        assert read <= record.usage.output_tokens <= read + 2
        assert record.usage.output_tokens <= entry["output_tokens"]
        assert entry["input_tokens"] == record.usage.input_tokens
        assert UsageKind.PARTIAL is record.kind or tenth == 10
    books.rest(stack)
    usage = books.usage(stack, tenant)
    assert len(left) == usage["final"] + usage["partial"]


@pytest.mark.parametrize("path", [f"{MODEL}/generate", f"{UNARY}/infer"])
def test_who_leaves_a_single_answer_pays_its_cap(stack, http, make_key, path):
    """Triton does not notice, and works to its end."""
    tenant, cap = f"early-{path.rpartition('/')[2]}", 400
    tensors_of = {"text_input": ("BYTES", "The road"), "max_tokens": ("INT32", cap)}
    infer = {
        "inputs": [
            {"name": name, "datatype": datatype, "shape": [1, 1], "data": [value]}
            for name, (datatype, value) in (tensors_of | END).items()
        ]
    }
    body = infer if path.endswith("infer") else endless("", cap) | {"stream": False}
    # Of 4 s: time enough to arrive, and to leave long before the end.
    with pytest.raises(httpx.ReadTimeout):
        http.post(
            f"/v2/models/{path}",
            json=body | {"id": tenant},
            headers=bearer(make_key(tenant)),
            timeout=1.5,
        )
    (record,), (entry,) = settled(stack, tenant).values(), ended(stack, tenant)

    assert ("completed", cap) == (entry["outcome"], entry["output_tokens"])
    assert (UsageKind.PARTIAL, cap, CountSource.ESTIMATE) == (
        record.kind,
        record.usage.output_tokens,
        record.output_source,
    )


def test_over_a_limit_it_is_told_when_to_come_again(http, make_key, tenant):
    headers = bearer(make_key(tenant, "tight"))
    body = {"text_input": "hi", "max_tokens": 1}
    path = f"/v2/models/{MODEL}/generate"
    for _ in range(3):
        http.post(path, json=body, headers=headers).raise_for_status()
    late = http.post(path, json=body, headers=headers)

    assert 429 == late.status_code
    assert "6 requests per minute of this API key" in late.json()["error"]
    assert 1 <= int(late.headers["retry-after"]) <= 10


UNKNOWN_MODEL = "The model does not exist or you do not have access to it."
NO_METHOD = "This path does not answer this method."
TEXT = {"text_input": "hi"}
OF_MODEL = f"/v2/models/{MODEL}"
REFUSED: dict[tuple[str, str], tuple[Any, int, str]] = {
    ("GET", "/v2/repository/index"): (None, 404, "Unknown URL."),
    ("GET", f"{OF_MODEL}/config"): (None, 404, "Unknown URL."),
    ("GET", f"{OF_MODEL}/stats"): (None, 404, "Unknown URL."),
    ("GET", f"{OF_MODEL}/versions/x/ready"): (None, 404, "Unknown URL."),
    ("GET", "/v2/models/other"): (None, 404, UNKNOWN_MODEL),
    ("GET", f"{OF_MODEL}/versions/7"): (None, 404, UNKNOWN_MODEL),
    ("GET", OF_MODEL): (TEXT, 400, "This path takes no body."),
    ("DELETE", "/v2"): (None, 405, NO_METHOD),
    ("GET", f"{OF_MODEL}/infer"): (None, 405, NO_METHOD),
    ("POST", "/v2/models/other/generate"): (TEXT, 404, UNKNOWN_MODEL),
    ("POST", f"{OF_MODEL}/versions/7/generate"): (TEXT, 404, UNKNOWN_MODEL),
    ("POST", f"{OF_MODEL}/generate"): ({}, 400, "`text_input` must have text."),
    ("POST", f"{OF_MODEL}/generate_stream"): (
        TEXT | {"parameters": {"beam_width": 2}},
        400,
        "`beam_width` must be 1.",
    ),
    ("POST", f"{OF_MODEL}/infer"): ({"a": 1}, 400, "`a` is not supported."),
}


@pytest.mark.parametrize("request_line", REFUSED, ids=" ".join)
def test_refusals_are_in_tritons_words(stack, http, request_line):
    """Whoever refuses: Envoy, extproc, or Triton, whose own text stays there."""
    body, status, message = REFUSED[request_line]
    answer = http.request(*request_line, json=body, headers=bearer(stack.api_key))

    assert status == answer.status_code
    # Envoy's own have the header alone.
    trace = answer.json().get("trace_id", answer.headers["x-tollhouse-trace"])
    assert trace == answer.headers["x-tollhouse-trace"]
    assert message == answer.json()["error"]
    assert answer.json().keys() <= {"error", "trace_id"}
    assert "application/json" == answer.headers["content-type"]


def test_strangers_are_told_why(stack, http):
    path, body = f"/v2/models/{MODEL}/generate", {"text_input": "hi"}
    created = stack.run(
        "keys", "create", "--tenant", "demo", "--json", "--scope", "models:read"
    )
    nobody = http.post(path, json=body)
    reader = http.post(path, json=body, headers=bearer(json.loads(created)["key"]))

    assert 401 == nobody.status_code
    assert nobody.json()["error"].startswith("Incorrect API key.")
    assert 403 == reader.status_code
    assert "This API key lacks the scope infer:write." == reader.json()["error"]


def test_a_model_that_streams_gives_no_single_answer(triton, make_key, tenant):
    """Triton's 501 is the client's mistake, in words of ours."""
    with pytest.raises(InferenceServerException) as caught:
        triton.infer(MODEL, tensors(b"hi"), headers=bearer(make_key(tenant)))

    assert "400" == caught.value.status()
    assert "The model's server refused the request." == caught.value.message()

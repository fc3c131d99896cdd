"""What a client learns when a server fails: our words, and nothing of the server's."""

from typing import Any

import httpx
import pytest

from tests.e2e.backends.conftest import OPERATIONS, question
from tests.e2e.main.books import settlements, within
from tests.openai_stand_in.profiles import CANARY
from tollhouse.core.usage import TokenUsage, UsageKind

EVERY = [(server, it) for server, served in OPERATIONS.items() for it in served]
FAILED = (502, "server_error", "upstream_error", "api_error")
AWAY = (503, "server_error", "service_unavailable", "overloaded_error")
BUSY = (503, "server_error", "overloaded", "overloaded_error")
LATE = (504, "server_error", "timeout", "timeout_error")
WRONG = (400, "invalid_request_error", None, "invalid_request_error")
LONG = (
    400,
    "invalid_request_error",
    "context_length_exceeded",
    "invalid_request_error",
)
EXPECTED = {
    "#context": LONG,
    "#field": WRONG,
    "#invalid": WRONG,
    "#engine": FAILED,
    "#unknown": AWAY,
    "#key": FAILED,
    "#denied": FAILED,
    "#413": WRONG,
    "#busy": BUSY,
    "#overloaded": BUSY,
    "#500": FAILED,
    "#503": AWAY,
    "#504": LATE,
}

RAW_EXPECTED = {
    "#plain": WRONG,
    "#html": FAILED,
    "#gzip": WRONG,  # not read
    "#identity": LONG,
    "#large": WRONG,  # read to 16 KiB
    "#empty": FAILED,
    "#redirect": FAILED,
    "#cookie": FAILED,
    "#chunked": LONG,
    "#text": FAILED,  # a 2xx the meter can't read: it would be given away
    "#untyped": FAILED,
    "#problem": FAILED,
    "#compressed": FAILED,
    "#nothing": FAILED,
    "#hangup": AWAY,
    "#garbage": FAILED,
}


def shown(response: httpx.Response) -> str:
    """All that reached the client."""
    return f"{response.headers} {response.text}".lower()


def assert_ours(response: httpx.Response, operation: str, expected: Any) -> None:
    status, kind, code, anthropic = expected
    body = response.json()
    assert response.status_code == status
    place = body if operation == "messages" else body["error"]
    assert place.pop("trace_id") == response.headers["x-tollhouse-trace"]
    if operation == "messages":
        assert body["type"] == "error"
        assert body["error"].keys() == {"type", "message"}
        assert body["error"]["type"] == anthropic
    else:
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
        assert (body["error"]["type"], body["error"]["code"]) == (kind, code)
    for word in (*CANARY.lower().split(), "uvicorn", "tensorrt-llm]", "cuda"):
        assert word not in shown(response)
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.parametrize(("server", "operation"), EVERY)
@pytest.mark.parametrize("fault", EXPECTED)
def test_a_failure_is_told_in_our_words(client, server, operation, fault):
    """Whatever the server says and however: one closed list, in the API's dialect."""
    for stream in (False, True) if operation != "embeddings" else (False,):
        more = {"stream": True} if stream else {}
        response = client.ask(operation, question(server, operation, fault, **more))

        assert_ours(response, operation, EXPECTED[fault])
        expects_wait = EXPECTED[fault][0] == 503
        assert response.headers.get("retry-after") == ("7" if expects_wait else None)


@pytest.mark.parametrize("operation", ["chat", "messages"])
@pytest.mark.parametrize("fault", RAW_EXPECTED)
def test_so_is_what_no_server_says(client, operation, fault):
    """Proxies do; and lines that are cut, which Envoy tells of."""
    response = client.ask(operation, question("vllm", operation, fault))

    assert_ours(response, operation, RAW_EXPECTED[fault])
    for name in ("location", "set-cookie", "www-authenticate", "content-encoding"):
        assert name not in response.headers


@pytest.mark.parametrize("fault", ["#enormous", "#book"])
@pytest.mark.parametrize("operation", ["chat", "messages"])
def test_an_endless_answer_is_cut_off(client, operation, fault):
    """More than Envoy holds of an answer: its own reply, nothing of the server's."""
    response = client.ask(operation, question("vllm", operation, fault))

    status, kind, code, anthropic = FAILED
    error = response.json()["error"]
    assert response.status_code == status
    if operation == "messages":
        assert error["type"] == anthropic
    else:
        assert (error["type"], error["code"]) == (kind, code)
    assert "retry-after" not in response.headers
    assert "canary" not in shown(response)


def test_of_an_answer_a_few_headers_are_told(stack, client):
    """A name of ours is absent where we say nothing, as on a plan without rates."""
    for key in (stack.api_key, client.key):
        response = httpx.post(
            f"{stack.base_url}/chat/completions",
            json=question("vllm", "chat", "#chatty"),
            headers={"authorization": f"Bearer {key}"},
        )
        rates = [it for it in response.headers if it.startswith("x-ratelimit-")]

        assert response.status_code == 200
        assert response.json()["usage"]["completion_tokens"] == 1
        assert response.headers["content-type"] == "application/json; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-tollhouse-model"] == "our-vllm"
        assert len(rates) == (6 if key == client.key else 0)
        assert "canary" not in shown(response)


@pytest.mark.parametrize(("server", "operation"), EVERY)
def test_a_field_is_named_where_the_server_does(client, server, operation):
    fault = "#invalid" if server == "triton-openai" else "#field"
    response = client.ask(operation, question(server, operation, fault))

    if operation != "messages":
        assert response.json()["error"]["param"] == "temperature"


def test_nobody_pays_for_a_failure(stack, client):
    """One record, of nothing."""
    response = client.ask("chat", question("vllm", "chat", "#500"))
    id_ = response.headers["x-tollhouse-exchange"]

    within(30, lambda: id_ in settlements(stack.state_dir, "roomy"))
    record = settlements(stack.state_dir, "roomy")[id_]
    assert (record.kind, record.usage) == (UsageKind.FINAL, TokenUsage())


@pytest.mark.parametrize("operation", ["chat", "completions", "embeddings"])
def test_what_the_server_forbids_is_refused_before_it(client, stand_in, operation):
    """By the name of the field, and it hears nothing of it.

    What only says who asks it isn't told either, and answers.
    """
    body = question("trtllm-serve", operation)
    known = client.ask(operation, body | {"metadata": {"a": "b"}, "store": False})
    before = len(stand_in.received)
    response = client.ask(operation, body | {"store": True})

    assert known.status_code == 200
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "store"
    assert response.json()["error"]["code"] == "unsupported_parameter"
    assert len(stand_in.received) == before


def test_a_model_that_does_not_serve_an_api_says_so(client):
    body = question("triton-openai", "responses")
    response = client.ask("responses", body)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "model"

"""envoy/answers.lua's pure part, run in LuaJIT as Envoy runs it."""

import json
from pathlib import Path
from typing import Any

import pytest
from lupa import luajit21

from tollhouse.core.problems import Dialect, Kind, Problem
from tollhouse.core.surface import ENDPOINTS, dialect_of

_SOURCE = Path(__file__).parents[3] / "envoy" / "answers.lua"
CANARY = "canary-0451"

module: Any = luajit21.LuaRuntime(unpack_returned_tuples=True).execute(
    _SOURCE.read_text()
)
NAMES = [
    *("INVALID_REQUEST", "CONTEXT_LENGTH", "UPSTREAM_FAILED", "UNAVAILABLE"),
    *("OVERLOADED", "TIMED_OUT", "MODEL_NOT_FOUND"),
]


def problem(status: int, body: str | None = None) -> str:
    name: str = module["problem"](status, body)
    return name


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.ANTHROPIC, Dialect.TRITON])
@pytest.mark.parametrize(
    ("param", "trace"), [(None, None), ("max_tokens", None), (None, "0af7" * 8)]
)
def test_says_it_as_the_services_would(name, dialect, param, trace):
    """One closed list: status, type and code are those of core.problems."""
    said = json.loads(module["body"](name, dialect, param, trace))
    inner = said["error"]
    message = inner if dialect is Dialect.TRITON else inner["message"]
    expected = Problem(Kind[name], message, param)

    assert expected.status == module["status"](name)
    assert json.loads(expected.body(dialect, trace or "")) == said


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda it: it.path)
def test_a_path_has_the_same_dialect_here_and_there(endpoint):
    dialect = dialect_of(endpoint.path)
    if dialect is not Dialect.GRPC:
        assert dialect == module["dialect"](endpoint.path)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (301, "UPSTREAM_FAILED"),
        (400, "INVALID_REQUEST"),
        (401, "UPSTREAM_FAILED"),  # our credential, not the client's
        (403, "UPSTREAM_FAILED"),
        (404, "UNAVAILABLE"),
        (405, "UNAVAILABLE"),
        (408, "TIMED_OUT"),
        (413, "INVALID_REQUEST"),
        (418, "UPSTREAM_FAILED"),
        (422, "INVALID_REQUEST"),
        (429, "OVERLOADED"),
        (500, "UPSTREAM_FAILED"),
        (501, "INVALID_REQUEST"),  # Triton's, of one answer from a model that streams
        (502, "UPSTREAM_FAILED"),
        (503, "UNAVAILABLE"),
        (504, "TIMED_OUT"),
        (529, "OVERLOADED"),  # Dynamo's and Anthropic's "overloaded"
        (599, "UPSTREAM_FAILED"),
    ],
)
@pytest.mark.parametrize("body", [None, "", CANARY, f'{{"detail":"{CANARY}"}}'])
def test_the_status_decides(status, name, body):
    assert name == problem(status, body)


@pytest.mark.parametrize(
    ("path", "status", "body", "name"),
    [
        ("/v2/models/tiny/versions/7", 404, None, "MODEL_NOT_FOUND"),
        ("/v2/models/tiny/versions/7/infer", 400, "unknown model", "MODEL_NOT_FOUND"),
        ("/v2/models/tiny/versions/7/infer", 503, None, "UNAVAILABLE"),
        ("/v2/models/tiny/versions/7/infer", 400, None, "INVALID_REQUEST"),
        ("/v2/models/tiny", 404, None, "UNAVAILABLE"),
        ("/v1/models/versions/7", 404, None, "UNAVAILABLE"),
    ],
)
def test_a_version_may_be_one_that_never_was(path, status, body, name):
    """A model of the catalog that is not there is our fault; its version is theirs."""
    assert name == module["problem_at"](path, status, body)


@pytest.mark.parametrize(
    ("dialect", "kind", "encoding", "tensors", "is_read"),
    [
        ("openai", "application/json", None, None, True),
        ("openai", "Application/JSON; charset=utf-8", "identity", None, True),
        ("anthropic", "text/event-stream; charset=utf-8", None, None, True),
        ("openai", "application/json", "gzip", None, False),
        ("openai", "text/event-stream", "br", None, False),
        ("openai", "application/problem+json", None, None, False),
        ("openai", "text/plain", None, None, False),
        ("openai", None, None, None, False),
        ("triton", "application/json", None, None, True),
        ("triton", "application/octet-stream", None, "120", True),
        ("triton", "application/octet-stream", "gzip", "120", False),
        ("triton", "application/octet-stream", None, None, False),
        ("openai", "application/octet-stream", None, "120", False),
    ],
)
def test_passes_what_the_meter_reads(dialect, kind, encoding, tensors, is_read):
    assert is_read is module["is_read"](dialect, kind, encoding, tensors)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize(
    ("text", "name"),
    [
        # vLLM's, old and new
        ("This model's maximum context length is 4096 tokens.", "CONTEXT_LENGTH"),
        ("The decoder prompt (length 9) is longer than the maximum model length of 8.",
         "CONTEXT_LENGTH"),
        # SGLang's
        ("The input (9 tokens) is longer than the model's context length (8 tokens).",
         "CONTEXT_LENGTH"),
        # TensorRT-LLM's
        ("The sum of prompt length (9) should not exceed max_num_tokens (8)",
         "CONTEXT_LENGTH"),
        ("Prompt length (9) exceeds maximum input length (8).", "CONTEXT_LENGTH"),
        # OpenAI's and Anthropic's
        ("context_length_exceeded", "CONTEXT_LENGTH"),
        ("prompt is too long: 9 tokens > 8 maximum", "CONTEXT_LENGTH"),
        # a model that is configured here and not there
        ("Unknown model: tiny", "UNAVAILABLE"),
        ("The model `tiny` does not exist.", "UNAVAILABLE"),
        # engines that failed
        ("CUDA out of memory", "UPSTREAM_FAILED"),
        ("[TensorRT-LLM][ERROR] Assertion failed: x", "UPSTREAM_FAILED"),
        ("Traceback (most recent call last)", "UPSTREAM_FAILED"),
        ("Stub process 'm' is not healthy.", "UPSTREAM_FAILED"),
        # the client's
        ("temperature must be non-negative", "INVALID_REQUEST"),
        ("invalid JSON schema: failed to compile the grammar", "INVALID_REQUEST"),
    ],
)  # fmt: skip
def test_three_things_that_servers_answer_400_for(status, text, name):
    body = json.dumps({"error": {"message": text, "code": 400}})

    assert name == problem(status, body)
    assert name == problem(status, json.dumps({"object": "error", "message": text}))
    assert name == problem(status, json.dumps({"detail": text}))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"error": {"message": "x", "param": "temperature"}}, "temperature"),
        ({"message": "x", "param": "top_p", "code": 400}, "top_p"),
        ({"detail": [{"loc": ["body", "max_tokens"], "msg": CANARY}]}, "max_tokens"),
        ({"error": {"message": "x", "param": None}}, None),
        ({"error": {"message": "x", "param": CANARY}}, None),
        ({"error": {"message": "x", "param": "a" * 65}}, None),
        ({"error": {"message": '"param": "temperature"'}}, None),  # text, escaped
        ({"detail": [{"loc": ["query", "x"]}]}, None),
    ],
)
def test_a_field_is_named_where_its_name_looks_like_one(body, param):
    assert param == module["param"](json.dumps(body))


@pytest.mark.parametrize(
    ("name", "told", "seconds"),
    [
        ("OVERLOADED", None, "1"),
        ("OVERLOADED", "7", "7"),
        ("OVERLOADED", "0", "1"),
        ("UNAVAILABLE", "86400", "60"),
        ("UNAVAILABLE", "Fri, 31 Dec 1999 23:59:59 GMT", "1"),
        ("OVERLOADED", f"7 {CANARY}", "1"),
        ("UPSTREAM_FAILED", "7", None),
        ("INVALID_REQUEST", "7", None),
    ],
)
def test_when_to_try_again(name, told, seconds):
    assert seconds == module["retry_after"](name, told)

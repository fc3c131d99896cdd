"""The one table of paths."""

import pytest

from tollhouse.core import surface
from tollhouse.core.identity import Permission
from tollhouse.core.problems import Dialect


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("POST", "/v1/chat/completions", Permission.CHAT_WRITE),
        ("POST", "/v1/chat/completions?x=/v1/models", Permission.CHAT_WRITE),
        ("POST", "/v1/completions", Permission.COMPLETIONS_WRITE),
        ("GET", "/v1/models", Permission.MODELS_READ),
        ("GET", "/v1/models?limit=1", Permission.MODELS_READ),
        ("POST", "/v1/models", None),
        ("GET", "/v1/chat/completions", None),
        ("post", "/v1/completions", None),
        ("POST", "/V1/completions", None),
        ("POST", "/v1/completions/", None),
        ("POST", "/v1/completions;x=1", None),
        ("POST", "//v1/completions", None),
        ("GET", "/v1/models/tiny", Permission.MODELS_READ),
        ("POST", "/v1/models/tiny", None),
        ("GET", "/v1/models/", None),
        ("POST", "/v1/responses", Permission.CHAT_WRITE),
        ("POST", "/v1/messages", Permission.CHAT_WRITE),
        ("POST", "/v1/embeddings", Permission.EMBEDDINGS_WRITE),
        ("GET", "/v2/models/tiny/ready", Permission.MODELS_READ),
        ("POST", "/v2/models/tiny/versions/1/infer", Permission.INFER_WRITE),
        ("POST", "/v2/models/tiny/versions/x/infer", None),
        ("POST", "/v2/models/a/b/infer", None),
        ("POST", "/v2/models/tiny/load", None),
        ("POST", "/v2/repository/index", None),
        ("POST", "/inference.GRPCInferenceService/ModelInfer", Permission.INFER_WRITE),
        ("POST", "/inference.GRPCInferenceService/RepositoryModelLoad", None),
        ("GET", "/", None),
        ("", "", None),
    ],
)
def test_needed(method: str, path: str, permission: Permission | None):
    """The one table, by method and exact path."""
    place = surface.find(method, path)

    assert (place and place.endpoint.permission) == permission


@pytest.mark.parametrize(
    ("method", "path", "model", "version"),
    [
        ("GET", "/v1/models/org/tiny", "org/tiny", None),
        ("GET", "/v1/models/tiny%3A8b", "tiny:8b", None),
        ("POST", "/v2/models/tiny/generate", "tiny", None),
        ("POST", "/v2/models/tiny/versions/7/infer", "tiny", "7"),
        ("GET", "/v2/models/tiny/versions/7", "tiny", "7"),
        ("POST", "/v1/completions", None, None),
    ],
)
def test_names(method: str, path: str, model: str | None, version: str | None):
    """What a path names is read from it."""
    place = surface.find(method, path)

    assert place is not None
    assert (place.model, place.version) == (model, version)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", Dialect.OPENAI),
        ("/v1/messages", Dialect.ANTHROPIC),
        ("/v1/messages/count_tokens", Dialect.ANTHROPIC),
        ("/v2/repository/index", Dialect.TRITON),
        ("/inference.GRPCInferenceService/TraceSetting", Dialect.GRPC),
        ("/", Dialect.OPENAI),
    ],
)
def test_dialects(path: str, dialect: Dialect):
    """Also of paths that are not served."""
    assert surface.dialect_of(path) == dialect


def test_each_endpoint_finds_itself():
    """No pattern hides another."""
    for it in surface.ENDPOINTS:
        path = it.path.replace("{model}", "m").replace("{version}", "1")
        place = surface.find(it.method, path)
        assert place is not None
        assert place.endpoint == it


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/tiny/infer", True),
        ("/v2/models/tiny/versions/1/generate", True),
        ("/v2/models/tiny/generate_stream", False),
        (f"{surface.GRPC_SERVICE}ModelInfer", False),
        (surface.STREAM_INFER, False),
        ("/v1/chat/completions", False),
    ],
)
def test_what_works_on_for_a_client_that_left(path: str, expected: bool) -> None:
    """Triton's HTTP, but for its stream."""
    place = surface.find("POST", path)

    assert place
    assert expected is place.endpoint.runs_on

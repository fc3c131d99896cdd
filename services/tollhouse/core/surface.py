"""Every path that is served: what it does, what it needs, and how refusals are worded.

The one table of it. Envoy's routes (envoy/envoy.yaml) name the same paths; a path that
is in neither reaches nobody, and a test compares both.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final
from urllib.parse import quote, unquote

from tollhouse.core.catalog import Operation
from tollhouse.core.identity import Permission
from tollhouse.core.problems import Dialect


class Subject(StrEnum):
    """What a path without an operation tells about."""

    MODELS = "models"
    MODEL = "model"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path.

    `path` is exact but for `{model}` and `{version}`. `serves` is the operation of a
    path that makes a model work, else what it tells about.
    """

    method: str
    path: str
    permission: Permission
    serves: Operation | Subject
    dialect: Dialect = Dialect.OPENAI

    @property
    def operation(self) -> Operation | None:
        """What it makes a model do, None for nothing."""
        return self.serves if isinstance(self.serves, Operation) else None

    @property
    def runs_on(self) -> bool:
        """Whether the model works to the end for a client that has left.

        Triton cancels what it is asked by gRPC, and over HTTP what it streams.
        """
        is_triton = self.dialect is Dialect.TRITON
        return is_triton and self.path.endswith(("/infer", "/generate"))


PERMISSIONS: Final[Mapping[Operation, Permission]] = MappingProxyType(
    {
        Operation.CHAT: Permission.CHAT_WRITE,
        Operation.COMPLETIONS: Permission.COMPLETIONS_WRITE,
        Operation.EMBEDDINGS: Permission.EMBEDDINGS_WRITE,
        Operation.RESPONSES: Permission.CHAT_WRITE,
        Operation.MESSAGES: Permission.CHAT_WRITE,
        Operation.INFER: Permission.INFER_WRITE,
    }
)
"""What each operation needs: three APIs are ways to chat."""

GRPC_SERVICE: Final = "/inference.GRPCInferenceService/"
STREAM_INFER: Final = GRPC_SERVICE + "ModelStreamInfer"
"""Any number of requests on one stream, any number of answers to each."""


def _posts(
    path: str, operation: Operation, dialect: Dialect = Dialect.OPENAI
) -> Endpoint:
    return Endpoint("POST", path, PERMISSIONS[operation], operation, dialect)


def _tells(method: str, path: str, subject: Subject, dialect: Dialect) -> Endpoint:
    return Endpoint(method, path, Permission.MODELS_READ, subject, dialect)


def _of_model(path: str) -> tuple[Endpoint, ...]:
    """Triton's paths of one model, or of one version of it."""
    return (
        _tells("GET", path, Subject.MODEL, Dialect.TRITON),
        _tells("GET", f"{path}/ready", Subject.MODEL, Dialect.TRITON),
        *(
            _posts(f"{path}/{what}", Operation.INFER, Dialect.TRITON)
            for what in ("infer", "generate", "generate_stream")
        ),
    )


ENDPOINTS: Final = (
    _posts("/v1/chat/completions", Operation.CHAT),
    _posts("/v1/completions", Operation.COMPLETIONS),
    _posts("/v1/embeddings", Operation.EMBEDDINGS),
    _posts("/v1/responses", Operation.RESPONSES),
    _posts("/v1/messages", Operation.MESSAGES, Dialect.ANTHROPIC),
    _tells("GET", "/v1/models", Subject.MODELS, Dialect.OPENAI),
    _tells("GET", "/v1/models/{model}", Subject.MODEL, Dialect.OPENAI),
    *(
        _tells("GET", path, Subject.SERVER, Dialect.TRITON)
        for path in ("/v2", "/v2/health/live", "/v2/health/ready")
    ),
    *_of_model("/v2/models/{model}"),
    *_of_model("/v2/models/{model}/versions/{version}"),
    *(
        _posts(GRPC_SERVICE + method, Operation.INFER, Dialect.GRPC)
        for method in ("ModelInfer", "ModelStreamInfer")
    ),
    *(
        _tells("POST", GRPC_SERVICE + method, Subject.MODEL, Dialect.GRPC)
        for method in ("ModelReady", "ModelMetadata")
    ),
    *(
        _tells("POST", GRPC_SERVICE + method, Subject.SERVER, Dialect.GRPC)
        for method in ("ServerLive", "ServerReady", "ServerMetadata")
    ),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a request goes, and the model and version that the path names, if any."""

    endpoint: Endpoint
    model: str | None = None
    version: str | None = None

    def path_of(self, model: str) -> str:
        """The path at a backend that calls the model so; "" where it is in no path."""
        if self.model is None:
            return ""
        name = quote(model, safe="")
        return self.endpoint.path.format(model=name, version=self.version)


def find(method: str, path: str) -> Place | None:
    """What is at a path, None for nothing; `path` may carry a query string.

    Compared to the letter: what Envoy routes to a backend it routes by these too.
    """
    path = path.partition("?")[0]
    exact = _EXACT.get((method, path))
    if exact is not None:
        return exact
    for endpoint, pattern in _PATTERNS:
        if endpoint.method == method and (match := pattern.fullmatch(path)):
            names = {key: unquote(value) for key, value in match.groupdict().items()}
            return Place(endpoint, **names)
    return None


def dialect_of(path: str) -> Dialect:
    """How whoever asks for this path, served or not, expects to be refused."""
    if path.startswith(_PREFIXES):  # of most requests all there is to ask
        for prefix, dialect in _DIALECTS.items():
            if path.startswith(prefix):
                return dialect
    return Dialect.OPENAI


_DIALECTS: Final = {
    "/v1/messages": Dialect.ANTHROPIC,
    "/v2": Dialect.TRITON,
    GRPC_SERVICE: Dialect.GRPC,
}
_PREFIXES: Final = tuple(_DIALECTS)
_EXACT: Final = {
    (it.method, it.path): Place(it) for it in ENDPOINTS if "{" not in it.path
}


def _pattern(path: str) -> re.Pattern[str]:
    # OpenAI's names of models may have slashes, Triton's are folders.
    name = "[^/]+" if path.startswith("/v2/") else ".+"
    return re.compile(
        re.escape(path)
        .replace(r"\{model\}", f"(?P<model>{name})")
        .replace(r"\{version\}", "(?P<version>[0-9]+)")
    )


_PATTERNS: Final = tuple((it, _pattern(it.path)) for it in ENDPOINTS if "{" in it.path)

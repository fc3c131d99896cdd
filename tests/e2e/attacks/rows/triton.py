"""Triton's control plane, which is for nobody outside; and its gRPC, judged."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.http2 import call, frame
from tests.e2e.attacks.row import (
    NO_BYTE,
    UNIMPLEMENTED,
    UNKNOWN_URL,
    Expect,
    Row,
    refused,
    rows,
)
from tollhouse.pb.tollhouse.triton.v1 import infer_pb2 as pb

_EXACT = "exact paths; anything else is a 404"
_GRPC = "a route answers every gRPC call: UNIMPLEMENTED"
_TRITON = "/inference.GRPCInferenceService/"
_PATHS = [
    (1, "load a model", "POST", "/v2/repository/models/evil/load"),
    (2, "unload a model", "POST", "/v2/repository/models/tiny-chat/unload"),
    (3, "list the repository", "POST", "/v2/repository/index"),
    (4, "map shared memory", "POST", "/v2/systemsharedmemory/region/evil/register"),
    (5, "show shared memory", "GET", "/v2/systemsharedmemory/status"),
    (6, "unmap shared memory", "POST", "/v2/systemsharedmemory/unregister"),
    (7, "map GPU memory", "POST", "/v2/cudasharedmemory/region/evil/register"),
    (8, "show GPU memory", "GET", "/v2/cudasharedmemory/status"),
    (9, "write traces to a file", "POST", "/v2/trace/setting"),
    (10, "trace one model", "POST", "/v2/models/tiny-chat/trace/setting"),
    (11, "write logs to a file", "POST", "/v2/logging"),
    (12, "statistics of all models", "GET", "/v2/models/stats"),
    (13, "configuration of a model", "GET", "/v2/models/tiny-chat/config"),
    (14, "statistics of a model", "GET", "/v2/models/tiny-chat/stats"),
    (15, "the list of models", "GET", "/v2/models"),
    (16, "load a model", "POST", "/v2/models/tiny-chat/load"),
    (20, "metrics", "GET", "/metrics"),
    (21, "vLLM: load an adapter", "POST", "/v1/load_lora_adapter"),
    (22, "vLLM: sleep", "POST", "/sleep"),
    (23, "vLLM: take a profile", "POST", "/start_profile"),
    (24, "vLLM: count tokens", "POST", "/tokenize"),
    (25, "vLLM: run a method on all workers", "POST", "/collective_rpc"),
]
RPCS = (
    *("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata"),
    *("ModelInfer", "ModelStreamInfer", "ModelConfig", "ModelStatistics"),
    *("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"),
    *("SystemSharedMemoryStatus", "SystemSharedMemoryRegister"),
    *("SystemSharedMemoryUnregister", "CudaSharedMemoryStatus"),
    *("CudaSharedMemoryRegister", "CudaSharedMemoryUnregister"),
    *("TraceSetting", "LogSettings"),
)
"""Every RPC of inference.GRPCInferenceService."""
_OTHERS = [
    (30, "another letters' case", "/inference.GRPCInferenceService/modelinfer"),
    (31, "a doubled slash", "//inference.GRPCInferenceService/LogSettings"),
    (32, "dot segments", "/x/../inference.GRPCInferenceService/RepositoryModelLoad"),
    (33, "reflection", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"),
    (
        34,
        "old reflection",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    ),
    (35, "health", "/grpc.health.v1.Health/Check"),
    (36, "channels", "/grpc.channelz.v1.Channelz/GetServers"),
    (37, "our authz", "/envoy.service.auth.v3.Authorization/Check"),
    (38, "our extproc", "/envoy.service.ext_proc.v3.ExternalProcessor/Process"),
    (39, "our aggregator", "/tollhouse.usage.v1.UsageIngestService/ReportUsage"),
    (40, "our usage", "/tollhouse.usage.v1.UsageQueryService/GetUsage"),
    (41, "our admin API", "/tollhouse.admin.v1.AdminService/CreateKey"),
    (
        42,
        "Envoy's discovery",
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
    ),
    (43, "a chat in gRPC", words.CHAT),
    (44, "the list of models in gRPC", words.MODELS),
    (45, "the health check in gRPC", "/healthz"),
]
_A = frame(b"\x0a\x09tiny-chat")
_B = frame(b"\x0a\x07private")
_STREAM = f"{_TRITON}ModelStreamInfer"
_CALL = f"{_TRITON}ModelInfer"
_UNARY = "extproc: the one message of a call"
_NO_KEY = Expect(grpc=16)
_SERVED = {
    "ServerLive": (None, "ext_authz", _NO_KEY),
    "ServerReady": (None, "ext_authz", _NO_KEY),
    "ServerMetadata": (None, "ext_authz", _NO_KEY),
    "ModelReady": (words.KEY, _UNARY, Expect(grpc=5)),
    "ModelMetadata": (words.KEY, _UNARY, Expect(grpc=5)),
    "ModelInfer": (words.KEY, _UNARY, Expect(grpc=3)),
}
"""With an empty message, and without a key where one is enough."""
_JUDGED = "extproc: every message of a stream, before it goes on"
_NOT_FOUND = Expect(grpc=5)
_INVALID = Expect(grpc=3)


def _text(model: str, **tensors: bytes) -> bytes:
    """A message that Triton would take."""
    request = pb.ModelInferRequest(model_name=model)
    for name, raw in {"text_input": b"\2\0\0\0hi", **tensors}.items():
        datatype = "BYTES" if name == "text_input" else "INT32"
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(raw)
    return frame(request.SerializeToString())


def _region() -> pb.ModelInferRequest:
    """What makes of a message one whose answer goes to a region of memory."""
    output = pb.InferRequestedOutputTensor(name="text_output")
    output.parameters["shared_memory_region"].string_param = words.EVIL
    return pb.ModelInferRequest(outputs=[output])


_FOREIGN = _text("private")
_BOTH = frame(_text("tiny-chat")[5:] + _B[5:])
_MAPPED = frame(_text("tiny-chat")[5:] + _region().SerializeToString())
_NAMED = frame(
    _text("tiny-chat")[5:]
    + pb.ModelInferRequest(
        parameters={"shared_memory_" + "n" * 9_000: pb.InferParameter(bool_param=True)}
    ).SerializeToString()
)
_CUT = f"`shared_memory_{'n' * 50}%E2%80%A6` is not supported."
_LATE = "The request did not arrive in time."
_ZIPPED = [frame(b"\x1f\x8b", flag=1)]

ROWS = [
    *rows(
        "triton",
        [
            (at, what, _EXACT, ask(path, method=how), UNKNOWN_URL)
            for at, what, how, path in _PATHS
        ],
    ),
    *rows(
        "grpc",
        [
            (at, f"Triton's {rpc}", _GRPC, call(f"{_TRITON}{rpc}"), UNIMPLEMENTED)
            for at, rpc in enumerate(RPCS, start=1)
            if rpc not in _SERVED and rpc != "ModelStreamInfer"
        ],
    ),
    *rows(
        "grpc",
        [
            (
                RPCS.index(rpc) + 1,
                f"Triton's {rpc}, {'empty' if key else 'without a key'}",
                why,
                call(f"{_TRITON}{rpc}", key=key),
                expect,
            )
            for rpc, (key, why, expect) in _SERVED.items()
        ],
    ),
    *rows(
        "grpc",
        [
            (at, what, _UNARY, call(f"{_TRITON}{rpc}", messages=messages), expect)
            for at, what, rpc, messages, expect in (
                (50, "a compressed message", "ModelInfer", _ZIPPED, UNIMPLEMENTED),
                (51, "4 GB in a call", "ModelInfer", [b"\0\xff\xff\xff\xff"], _INVALID),
                (53, "two models in one message", "ModelInfer", [_BOTH], _NOT_FOUND),
                (72, "a model of others", "ModelInfer", [_FOREIGN], _NOT_FOUND),
                (73, "metadata of others' model", "ModelMetadata", [_B], _NOT_FOUND),
                (74, "two messages", "ModelInfer", [_text("tiny-chat")] * 2, _INVALID),
                (75, "half a message", "ModelInfer", [_FOREIGN[:-1]], _INVALID),
                (76, "no message", "ModelInfer", [], _INVALID),
                (
                    77,
                    "a lever in a call",
                    "ModelInfer",
                    [_text("tiny-chat", beam_width=b"\x40\0\0\0")],
                    _INVALID,
                ),
                (78, "values from others' memory", "ModelInfer", [_MAPPED], _INVALID),
            )
        ],
    ),
    *rows(
        "grpc",
        [
            (at, what, _JUDGED, call(_STREAM, messages=messages), expect)
            for at, what, messages, expect in (
                (7, "an empty message on a stream", [frame(b"")], _INVALID),
                (52, "a model that the key has not", [_FOREIGN], _NOT_FOUND),
                (65, "a compressed message on a stream", _ZIPPED, UNIMPLEMENTED),
                (66, "4 GB on a stream", [b"\0\xff\xff\xff\xff"], _INVALID),
                (67, "half a message on a stream", [_FOREIGN[:-1]], _INVALID),
                (68, "no message on a stream", [], _INVALID),
                (69, "bytes that are no message", [frame(b"\xff" * 9)], _INVALID),
                (
                    70,
                    "a lever on a stream",
                    [_text("tiny-chat", beam_width=b"\x40\0\0\0")],
                    _INVALID,
                ),
            )
        ],
    ),
    *rows(
        "grpc",
        [(at, what, _GRPC, call(path), UNIMPLEMENTED) for at, what, path in _OTHERS],
    ),
    *rows(
        "grpc",
        [
            (
                54,
                "a stream that never ends",
                "no buffer for streams: the first message is answered",
                call(_STREAM, messages=[_FOREIGN], ends=False),
                _NOT_FOUND,
            ),
            (
                62,
                "a stream without the scope for it",
                "authz: scope of the operation",
                call(_STREAM, messages=[_FOREIGN], key=words.READER),
                Expect(grpc=7),
            ),
            (
                63,
                "a stream with the proof of admission",
                "early removal of x-tollhouse-*",
                call(
                    _STREAM,
                    ("x-tollhouse-admitted", words.PROOF),
                    ("x-tollhouse-cluster", "tiny-chat-grpc"),
                    messages=[_FOREIGN],
                ),
                _NOT_FOUND,
            ),
            (
                64,
                "a stream's path with more behind it",
                _GRPC,
                call(f"{_STREAM};x=1", messages=[_FOREIGN]),
                UNIMPLEMENTED,
            ),
            (
                71,
                "a call that never ends, to nobody",
                "no buffer where gRPC is refused",
                call(f"{_TRITON}ModelConfig", messages=[_A], ends=False),
                UNIMPLEMENTED,
            ),
            (
                55,
                "a call without a key",
                "ext_authz",
                call(_CALL, messages=[_FOREIGN], key=None),
                _NO_KEY,
            ),
            (
                56,
                "a call with the proof of admission",
                "early removal of x-tollhouse-*",
                call(
                    _CALL,
                    ("x-tollhouse-admitted", words.PROOF),
                    ("x-tollhouse-cluster", "tiny-chat-grpc"),
                    messages=[_FOREIGN],
                ),
                _NOT_FOUND,
            ),
            (
                57,
                "another message format",
                _UNARY,
                call(_CALL, messages=[b"{}"], content_type="application/grpc+json"),
                _INVALID,
            ),
            (
                79,
                "a call without the scope for it",
                "authz: scope of the operation",
                call(_CALL, messages=[_FOREIGN], key=words.READER),
                Expect(grpc=7),
            ),
            (
                80,
                "a call's path with more behind it",
                _GRPC,
                call(f"{_CALL};x=1", messages=[_FOREIGN]),
                UNIMPLEMENTED,
            ),
            (
                82,
                "a parameter whose name is longer than clients' headers",
                "extproc repeats 64 characters of a name",
                call(_CALL, messages=[_NAMED]),
                Expect(grpc=3, headers=(("grpc-message", _CUT),)),
            ),
            (
                58,
                "gRPC-Web",
                _EXACT,
                ask(
                    f"{_TRITON}RepositoryModelLoad",
                    "x-grpc-web: 1",
                    "content-type: application/grpc-web+proto",
                    body=frame(b""),
                ),
                refused(404),
            ),
            (
                59,
                "gRPC-Web to a chat",
                "extproc: UTF-8 JSON",
                call(words.CHAT, content_type="application/grpc-web"),
                refused(400),
            ),
            (
                60,
                "the method in a header",
                _EXACT,
                ask("/inference.GRPCInferenceService/ModelInfer", body=frame(b"")),
                UNKNOWN_URL,
            ),
            (
                61,
                "a path without its slash",
                "the codec refuses it",
                call("inference.GRPCInferenceService/ModelInfer"),
                Expect(frozenset({200, 400, 404, NO_BYTE})),
            ),
        ],
    ),
    Row(
        "grpc-81",
        "a call that never ends",
        "max_stream_duration",
        call(_CALL, messages=[_FOREIGN], ends=False),
        Expect(grpc=4, headers=(("grpc-message", _LATE),)),
        variant="hurried",
    ),
]

"""Triton's HTTP API: what gets past the judge of a model, or past the model's name."""

import json

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import Http1, ask, request, send
from tests.e2e.attacks.row import (
    PASSES,
    UNAUTHENTICATED,
    UNKNOWN_URL,
    Arrived,
    Row,
    refused,
    rows,
    says,
)
from tests.e2e.edge.backend import Received

_MODEL = "/v2/models/tiny-chat"
_PRIVATE = "/v2/models/private"
_TEXT = {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["hi"]}
_REGION = {"shared_memory_region": "evil", "shared_memory_byte_size": 4096}
_SCOPE = "extproc: the key's scopes cover the path's model"
_LEVER = "extproc refuses it by name"
_ONE = "extproc: one body, whoever reads it"
_EXACT = "exact paths; anything else is a 404"
_UNKNOWN = says("The model does not exist", status=404)
_HEAD = "inference-header-content-length"


def _generate(**fields: object) -> bytes:
    return json.dumps({"text_input": "hi"} | fields).encode()


def _infer(*inputs: object, **fields: object) -> bytes:
    return json.dumps({"inputs": [_TEXT, *inputs]} | fields).encode()


def _tensor(name: str, value: object, **fields: object) -> dict[str, object]:
    tensor = {"name": name, "datatype": "INT32", "shape": [1, 1]}
    return tensor | ({"data": [value]} | fields)


def _ask(what: str, body: bytes, *headers: str, model: str = _MODEL) -> Http1:
    return ask(f"{model}/{what}", *headers, body=body)


def _tell(path: str, *headers: str, key: bytes | None = words.KEY) -> Http1:
    return ask(path, *headers, method="GET", body=b"", length=False, key=key)


def _arrives(line: str, **fields: object) -> Arrived:
    """Say that this line and these fields arrive."""

    def arrived(received: Received) -> bool:
        body = json.loads(received.body or b"{}")
        return received.line == f"{line} HTTP/1.1" and fields.items() <= body.items()

    return arrived


_SPLIT = _infer()
_TOLD = {"return_num_input_tokens": False, "return_num_output_tokens": 0}

ROWS = [
    *rows(
        "infer",
        [
            (1, "metadata of a model of others", _SCOPE, _tell(_PRIVATE), _UNKNOWN),
            (
                2,
                "readiness of a model of others",
                _SCOPE,
                _tell(f"{_PRIVATE}/versions/1/ready"),
                _UNKNOWN,
            ),
            (
                3,
                "inference on a model of others",
                _SCOPE,
                _ask("infer", _infer(), model=_PRIVATE),
                _UNKNOWN,
            ),
            (
                4,
                "generation on a model of others",
                _SCOPE,
                _ask("generate", _generate(), model=_PRIVATE),
                _UNKNOWN,
            ),
            (
                5,
                "dot segments to a model of others",
                "normalize_path: what is judged is what is routed",
                _ask("../private/generate", _generate()),
                _UNKNOWN,
            ),
            (
                6,
                "another model in the body",
                "extproc: the path's model, and no other",
                _ask("generate", _generate(model_name="private")),
                says("names another model"),
            ),
            (
                7,
                "another model in the body of an inference",
                "extproc: the path's model, and no other",
                _ask("infer", _infer(model_name="private")),
                says("`model_name`"),
            ),
            (
                8,
                "the right proof, for a model of others",
                "early removal of x-tollhouse-*",
                _ask(
                    "generate",
                    _generate(),
                    "x-tollhouse-admitted: " + words.PROOF.decode(),
                    "x-tollhouse-cluster: tiny-chat-http",
                    model=_PRIVATE,
                ),
                _UNKNOWN,
            ),
            (
                9,
                "inference without the scope for it",
                "authz: scope of the operation",
                ask(f"{_MODEL}/generate", body=_generate(), key=words.READER),
                says("lacks the scope", status=403),
            ),
            (
                10,
                "metadata without a key",
                "ext_authz",
                _tell(_MODEL, key=None),
                UNAUTHENTICATED,
            ),
            (
                11,
                "the server's health without a key",
                "ext_authz",
                _tell("/v2/health/ready", key=None),
                UNAUTHENTICATED,
            ),
            (
                12,
                "a body that nobody judges",
                "extproc: what tells takes no body",
                ask(_MODEL, method="GET", body=_generate()),
                says("takes no body"),
            ),
            (
                13,
                "a path that begins like one",
                _EXACT,
                _ask("generate;x=1", _generate()),
                UNKNOWN_URL,
            ),
            (
                14,
                "an escaped name",
                _EXACT,
                _tell("/v2/models/%70rivate"),
                refused(404),
            ),
            (
                15,
                "a version that is none",
                _EXACT,
                _tell(f"{_MODEL}/versions/-1/ready"),
                UNKNOWN_URL,
            ),
            (
                16,
                "another method for what tells",
                "a route for other methods",
                ask("/v2", method="DELETE", body=b""),
                refused(405),
            ),
            (
                17,
                "another method for what works",
                "a route for other methods",
                ask(f"{_MODEL}/infer", method="PUT", body=_infer()),
                refused(405),
            ),
        ],
    ),
    *rows(
        "infer",
        [
            (at, f"{what}: {how}", _LEVER, _ask(how, body), says(f"`{name}`"))
            for at, what, how, name, body in (
                (20, "beams", "generate", "beam_width", _generate(beam_width=64)),
                (
                    21,
                    "beams among the parameters",
                    "generate_stream",
                    "beam_width",
                    _generate(parameters={"beam_width": 64}),
                ),
                (
                    22,
                    "beams as a tensor",
                    "infer",
                    "beam_width",
                    _infer(_tensor("beam_width", 64)),
                ),
                (
                    23,
                    "a prompt that the server fetches",
                    "generate",
                    "image_url_input",
                    _generate(image_url_input="http://169.254.169.254/"),
                ),
                (
                    24,
                    "an adapter from a path",
                    "generate",
                    "lora_path",
                    _generate(lora_path="/evil"),
                ),
                (
                    25,
                    "a place in the engine's queue",
                    "generate",
                    "priority",
                    _generate(parameters={"priority": 1}),
                ),
                (
                    26,
                    "values from others' memory",
                    "infer",
                    "shared_memory_byte_size",
                    _infer(_tensor("x", 1, parameters=_REGION)),
                ),
                (
                    27,
                    "an answer into others' memory",
                    "infer",
                    "shared_memory_byte_size",
                    _infer(outputs=[{"name": "text_output", "parameters": _REGION}]),
                ),
                (
                    28,
                    "more than the model may say",
                    "generate",
                    "max_tokens",
                    _generate(max_tokens=-1),
                ),
            )
        ],
    ),
    *rows(
        "infer",
        [
            (
                30,
                "the same key twice",
                _ONE,
                _ask(
                    "generate", b'{"text_input":"hi","max_tokens":2,"max_tokens":999}'
                ),
                refused(400),
            ),
            (
                31,
                "a field and a parameter of one name",
                _ONE,
                _ask("generate", _generate(x=1, parameters={"x": 2})),
                says("`x` is given twice"),
            ),
            (
                32,
                "the same tensor twice",
                _ONE,
                _ask("infer", _infer(_TEXT)),
                says("the same name twice"),
            ),
            (
                33,
                "a JSON that ends before its end",
                _ONE,
                _ask("infer", _SPLIT + b"{}", f"{_HEAD}: {len(_SPLIT)}"),
                says("binary data of no input"),
            ),
            (
                34,
                "two lengths of the JSON",
                _ONE,
                _ask("infer", _SPLIT, f"{_HEAD}: {len(_SPLIT)}", f"{_HEAD}: 2"),
                says(_HEAD),
            ),
            (
                35,
                "a length that is none",
                _ONE,
                _ask("infer", _SPLIT, f"{_HEAD}: +{len(_SPLIT)}"),
                says(_HEAD),
            ),
            (
                36,
                "binary data that is not there",
                _ONE,
                _ask(
                    "infer",
                    _infer(_tensor("x", 1, parameters={"binary_data_size": 2**31})),
                ),
                says("less binary data"),
            ),
            (
                37,
                "a compressed body",
                "a route for any content-encoding; no decompressor",
                _ask("generate", _generate(), "content-encoding: gzip"),
                refused(415),
            ),
            (
                38,
                "3 MiB and more",
                "a route for declared lengths",
                _ask("generate", _generate(x="x" * (4 << 20))),
                refused(413),
            ),
        ],
    ),
    *rows(
        "infer",
        [
            (
                40,
                "counts that are not told",
                "extproc asks for them: they are the bill",
                _ask("generate", _generate(max_tokens=2, **_TOLD)),
                PASSES,
                _arrives(
                    f"POST {_MODEL}/generate",
                    max_tokens=2,
                    return_num_input_tokens=True,
                    return_num_output_tokens=True,
                ),
            ),
            (
                41,
                "an output without a bound",
                "extproc: the model's own cap",
                _ask("generate_stream", _generate()),
                PASSES,
                _arrives(f"POST {_MODEL}/generate_stream", max_tokens=256),
            ),
            (
                42,
                "a path of the client's choice at the backend",
                "early_header_mutation; the path is rewritten by extproc alone",
                _tell(f"{_MODEL}/ready", "x-envoy-original-path: /evil"),
                PASSES,
                _arrives(f"GET {_MODEL}/ready"),
            ),
        ],
    ),
    Row(
        "infer-50",
        "a body that does not end",
        "max_stream_duration",
        send(request(f"{_MODEL}/generate", body=_generate())[:-5]),
        refused(408),
        variant="hurried",
    ),
    Row(
        "infer-51",
        "a good key while extproc is away",
        "local_reply_config: in Triton's own error shape",
        _ask("generate", _generate()),
        refused(503),
        variant="no-extproc",
    ),
]

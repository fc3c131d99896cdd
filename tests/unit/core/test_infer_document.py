"""Bodies of Triton's HTTP API: read where Triton reads them, and written anew."""

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as client_of
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.infer import Rewrite
from tollhouse.core.infer_document import document_of
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.surface import find

REWRITE = Rewrite("repository-name", 256)
CAPPED = Rewrite("repository-name", None)
TEXT: dict[str, Any] = {
    "name": "text_input",
    "datatype": "BYTES",
    "shape": [1, 1],
    "data": ["four"],
}
STRING = b"\4\0\0\0four"


def document(what, body, head=None):
    place = find("POST", f"/v2/models/tiny/{what}")
    assert place
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return document_of(place, raw, head)


def infer(*inputs, **fields):
    return document("infer", {"inputs": [TEXT, *inputs], **fields})


def generate(**fields):
    return document("generate", {"text_input": "four", **fields})


def binary(tail=STRING, **parameters):
    """An inference whose text is binary."""
    text: dict[str, Any] = {it: TEXT[it] for it in ("name", "datatype", "shape")}
    text["parameters"] = {"binary_data_size": 8, **parameters}
    head = json.dumps({"inputs": [text]}).encode()
    return document("infer", head + tail, str(len(head)))


def tensor(name, *values, datatype="INT32"):
    return {"name": name, "datatype": datatype, "shape": [1, 1], "data": list(values)}


def written(made, rewrite=REWRITE):
    """The JSON, the bytes after it."""
    made.request()
    body = made.rewritten(rewrite)
    end = len(body) if made.head_bytes is None else made.head_bytes
    return json.loads(body[:end]), body[end:]


@pytest.mark.parametrize(
    "made",
    [
        lambda: infer(tensor("max_tokens", 7)),
        lambda: infer(tensor("max_tokens", [7])),
        lambda: generate(max_tokens=7),
        lambda: generate(max_tokens=[7]),
        lambda: generate(parameters={"max_tokens": 7}),
    ],
    ids=["infer", "nested", "field", "list", "parameter"],
)
def test_a_text_and_its_cap_are_what_it_costs(made):
    """Wherever Triton would find them."""
    found = made().request()

    assert ("tiny", 4, 1, 7) == (
        found.model,
        found.text_bytes,
        found.choices,
        found.output_cap,
    )


def test_binary_values_are_read_as_triton_does():
    found = binary().request()

    assert (4, 1) == (found.text_bytes, found.choices)


@pytest.mark.parametrize("is_binary", [True, False])
def test_what_tritons_client_makes_is_read(is_binary):
    """And what it gets to be told is written so that Triton finds it."""
    text = client_of.InferInput("text_input", [2, 1], "BYTES")
    values = np.array([["four"], ["eleven"]], object)
    text.set_data_from_numpy(values, binary_data=is_binary)
    asks = client_of.InferInput("return_num_output_tokens", [2, 1], "BOOL")
    asks.set_data_from_numpy(np.array([[False], [False]]), binary_data=is_binary)
    outputs = [client_of.InferRequestedOutput("text_output")]
    body, size = client_of.InferenceServerClient.generate_request_body(
        [text, asks], outputs=outputs
    )
    made = document("infer", body, None if size is None else str(size))
    found = made.request()
    head, tail = written(made)

    assert (10, 2) == (found.text_bytes, found.choices)
    assert [("text_output",), ("num_input_tokens",), ("num_output_tokens",)] == [
        (it["name"],) for it in head["outputs"]
    ]
    ours = {it["name"]: it for it in head["inputs"]}
    assert [*ours] == [
        *("text_input", "max_tokens"),
        *("return_num_input_tokens", "return_num_output_tokens"),
    ]
    assert ([2, 1], [256, 256]) == (
        ours["max_tokens"]["shape"],
        ours["max_tokens"]["data"],
    )
    assert [True, True] == ours["return_num_output_tokens"]["data"]
    assert (b"\4\0\0\0four\6\0\0\0eleven" if is_binary else b"") == tail
    assert ("application/octet-stream" if is_binary else "application/json") == (
        made.content_type
    )


def test_without_named_outputs_all_come():
    head, _ = written(infer())

    assert "outputs" not in head


@pytest.mark.parametrize("form", [{}, {"binary_data": True}, {"binary_data": False}])
def test_counts_that_a_client_names_are_ours(form):
    """Once each, in the form it asked for; those it did not name in JSON."""
    named = {"name": "num_output_tokens"} | ({"parameters": form} if form else {})
    text = {"name": "text_output", "parameters": {"binary_data": True}}
    head, _ = written(infer(outputs=[named, named, text]))

    assert [
        text,
        {"name": "num_input_tokens", "parameters": {"binary_data": False}},
        named,
    ] == head["outputs"]


@pytest.mark.parametrize("name", ["stream", "streaming"])
def test_a_stream_has_its_own_path(name):
    """Of one asked for on the other, Triton would make all tokens and show none."""
    for value in (True, [True], 1):
        with pytest.raises(Problem) as caught:
            generate(**{name: value}).request()
        assert (Kind.INVALID_REQUEST, name) == (caught.value.kind, caught.value.param)
    with pytest.raises(Problem):
        generate(parameters={name: True}).request()
    streamed = document("generate_stream", {"text_input": "four", name: True})

    assert written(streamed)[0][name] is True
    assert written(generate(**{name: False}))[0][name] is False


def test_what_is_not_looked_at_stays_byte_for_byte():
    """Numbers of any form; so no value changes on its way."""
    seed = b'{"name":"seed","datatype":"UINT64","shape":[1,1],"data":[1.50e3]}'
    body = b'{"id": "mine", "inputs": [%s, %s]}' % (json.dumps(TEXT).encode(), seed)
    made = document("infer", body)
    made.request()

    assert b'"data":[1.50e3]' in made.rewritten(REWRITE)
    flat = document("generate", b'{"text_input": "four", "temperature": 1.50e0}')
    flat.request()
    assert b'"temperature":1.50e0' in flat.rewritten(REWRITE)


def test_a_generation_gets_a_cap_and_is_asked_for_counts():
    """Whatever the client wishes; its own cap stays."""
    head, _ = written(
        generate(id="mine", parameters={"return_num_input_tokens": False, "top_k": 3})
    )

    assert {
        "id": "mine",
        "text_input": "four",
        "top_k": 3,
        "max_tokens": 256,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    } == head
    assert 7 == written(generate(max_tokens=7), CAPPED)[0]["max_tokens"]


@pytest.mark.parametrize(
    "made",
    [
        lambda: generate(beam_width=2),
        lambda: generate(parameters={"beam_width": 2}),
        lambda: infer(tensor("beam_width", 2)),
        lambda: infer(tensor("beam_width", [[2]]) | {"shape": [1, 1, 1]}),
        lambda: generate(image_url_input="http://inside"),
        lambda: generate(priority=1),
        lambda: generate(parameters={"timeout": 1}),
        lambda: infer(parameters={"priority": 1}),
        lambda: infer(
            outputs=[{"name": "o", "parameters": {"shared_memory_region": "r"}}]
        ),
        lambda: infer(tensor("x") | {"parameters": {"shared_memory_region": "r"}}),
        lambda: infer(outputs=[{"name": "o", "parameters": {"classification": 1}}]),
        lambda: infer(
            outputs=[
                {
                    "name": "num_output_tokens",
                    "parameters": {"binary_data": True, "classification": 1},
                }
            ]
        ),
        lambda: generate(lora_task_id=0),
        lambda: generate(guided_decoding_guide_type="regex"),
        lambda: infer(tensor("guided_decoding_guide_type", "regex", datatype="BYTES")),
        lambda: infer(model_name="other"),
    ],
)
def test_levers_are_refused_wherever_they_are(made):
    with pytest.raises(Problem) as caught:
        made().request()
    assert Kind.UNSUPPORTED is caught.value.kind


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: generate(model="other"), "`model` names another model than the path."),
        (lambda: generate(model_name=1), "`model_name` names another model"),
        (lambda: generate(max_tokens="7"), "`max_tokens` must be a whole number"),
        (
            lambda: generate(stop_words=[["a"]]),
            "`stop_words` must be a value or a list",
        ),
        (lambda: generate(x={}), "`x` must be a value or a list of values."),
        (lambda: generate(x=None), "`x` must be a value or a list of values."),
        (lambda: generate(id=1), "`id` must be a string."),
        (lambda: generate(parameters=[]), "`parameters` must be an object."),
        (lambda: generate(x=1, parameters={"x": 2}), "`x` is given twice."),
        (
            lambda: document("generate", b'{"text_input":"a","text_input":"b"}'),
            "The body has the same key twice.",
        ),
        (lambda: document("generate", {}), "`text_input` must have text."),
        (lambda: document("infer", {}), "`text_input` must have text."),
        (lambda: document("infer", b"[]"), "The body must be a JSON object."),
        (lambda: infer(TEXT), "`inputs` has the same name twice."),
        (
            lambda: infer({"name": "x"}),
            "`inputs` must have datatype, name, shape each.",
        ),
        (
            lambda: infer(TEXT | {"x": 1}),
            "`inputs` must have datatype, name, shape each.",
        ),
        (lambda: infer(tensor(1)), "`inputs` must have a string as each name."),
        (lambda: infer(tensor("x") | {"shape": [-1]}), "`x` has no datatype or shape."),
        (
            lambda: infer(tensor("x") | {"shape": [True]}),
            "`x` has no datatype or shape.",
        ),
        (lambda: infer(outputs={}), "`outputs` must be a list."),
        (lambda: infer(outputs=[{}]), "`outputs` must have name each."),
        (lambda: infer(id=[]), "`id` must be a string."),
        (
            lambda: infer(tensor("beam_width", {})),
            "`beam_width` must be a value or a list",
        ),
        (
            lambda: infer(tensor("beam_width", [[1]])),
            "`beam_width` must be a value or a list",
        ),
    ],
)
def test_what_is_wrong_is_named(made, message):
    with pytest.raises(Problem) as caught:
        made().request()
    assert Kind.INVALID_REQUEST is caught.value.kind
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize("head", ["", "-1", "+1", "1.0", "1, 1", "999", "9" * 12, "٣"])
def test_a_head_that_is_no_length_is_refused(head):
    """Two readers must not find two bodies in one."""
    with pytest.raises(Problem):
        document("infer", b'{"inputs":[]}', head).request()


@pytest.mark.parametrize(
    "made",
    [
        lambda: binary(STRING + b"x"),
        lambda: binary(STRING[:-1]),
        lambda: binary(binary_data_size=-1),
        lambda: binary(binary_data_size="8"),
        lambda: binary(binary_data_size=True),
        lambda: binary(b"\5\0\0\0four"),
        lambda: infer(TEXT | {"name": "x", "parameters": {"binary_data_size": 0}}),
    ],
    ids=["more", "less", "negative", "string", "bool", "lies", "beside"],
)
def test_binary_data_that_does_not_fit_is_refused(made):
    with pytest.raises(Problem):
        made().request()


def test_what_takes_the_place_of_a_binary_value_takes_its_bytes_out():
    cap = {"name": "max_tokens", "datatype": "INT32", "shape": [1, 1]}
    asks = {"name": "return_num_input_tokens", "datatype": "BOOL", "shape": [1, 1]}
    head = json.dumps(
        {
            "inputs": [
                asks | {"parameters": {"binary_data_size": 1}},
                TEXT,
                cap | {"parameters": {"binary_data_size": 4}},
            ]
        }
    ).encode()
    made = document("infer", head + b"\0" + struct.pack("<i", 7), str(len(head)))
    found = made.request()
    fields, tail = written(made, CAPPED)

    assert 7 == found.output_cap
    assert struct.pack("<i", 7) == tail
    assert [*("text_input", "max_tokens")] == [it["name"] for it in fields["inputs"]][
        :2
    ]


def test_a_model_without_batches():
    text = TEXT | {"shape": [1]}
    fields, _ = written(document("infer", {"inputs": [text]}))

    assert tensor("max_tokens", 256) | {"shape": [1]} == fields["inputs"][1]


@given(
    st.sampled_from(["infer", "generate"]),
    st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=4)),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        [
                            "inputs",
                            "outputs",
                            "name",
                            "shape",
                            "data",
                            "parameters",
                            "id",
                        ]
                    ),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
    ),
    st.one_of(st.none(), st.text(max_size=3)),
)
def test_any_body_is_read_or_refused(what, body, head):
    """Nothing else is raised."""
    with contextlib.suppress(Problem):
        document(what, body, head).request()

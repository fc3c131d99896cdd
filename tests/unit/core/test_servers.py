"""What goes to each kind of server, and what is refused before it."""

import json
from typing import Any

import pytest

from tests import examples
from tollhouse.core.catalog import Operation, Provider, Server
from tollhouse.core.forwarding import fit, forwarded, strips
from tollhouse.core.problems import Kind, Problem
from tollhouse.core.request import parse
from tollhouse.core.servers import SERVERS

BODIES: dict[Operation, dict[str, Any]] = {
    Operation.CHAT: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    Operation.COMPLETIONS: {"model": "m", "prompt": "hi"},
    Operation.EMBEDDINGS: {"model": "m", "input": "hi"},
    Operation.RESPONSES: {"model": "m", "input": "hi"},
    Operation.MESSAGES: {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "hi"}],
    },
}
STREAMED = [it for it in BODIES if it is not Operation.EMBEDDINGS]
CONTINUOUS = {Server.VLLM, Server.TRTLLM_SERVE, Server.SGLANG, Server.NIM}


def sent(
    server: Server, operation: Operation = Operation.CHAT, **fields: Any
) -> dict[str, Any]:
    """Return what the server gets of such a request."""
    request = parse(operation, json.dumps(BODIES[operation] | fields).encode())
    model = examples.model(
        provider=Provider.OPENAI, server=server, inject_default=False
    )
    fit(request, model)
    body, _ = forwarded(request, model)
    decoded: dict[str, Any] = json.loads(body)
    return decoded


def refused(
    server: Server, operation: Operation = Operation.CHAT, **fields: Any
) -> Problem:
    with pytest.raises(Problem) as caught:
        sent(server, operation, **fields)
    assert caught.value.kind is Kind.UNSUPPORTED
    return caught.value


def test_every_server_is_in_the_table():
    assert set(Server) == set(SERVERS)


@pytest.mark.parametrize("server", Server)
@pytest.mark.parametrize("operation", [Operation.CHAT, Operation.COMPLETIONS])
def test_usage_is_asked_for_in_the_words_it_knows(server, operation):
    """Cumulative on every event only where that is known: OpenAI's refuses it."""
    options = sent(server, operation, stream=True)["stream_options"]

    expected = {"include_usage": True}
    if server in CONTINUOUS:
        expected["continuous_usage_stats"] = True
    assert expected == options


@pytest.mark.parametrize("server", Server)
def test_of_several_choices_no_event_tells_all(server):
    """It tells its own choice's: an aborted stream would be billed for one of them."""
    if SERVERS[server].single_choice:
        return
    asked = {"include_usage": True, "continuous_usage_stats": True}
    body = sent(server, stream=True, n=2, stream_options=asked)

    assert {"include_usage": True} == body["stream_options"]


@pytest.mark.parametrize("server", Server)
@pytest.mark.parametrize("operation", [Operation.RESPONSES, Operation.MESSAGES])
def test_streams_that_end_with_their_usage_are_not_asked_for_it(server, operation):
    body = sent(server, operation, stream=True)

    assert "stream_options" not in body


@pytest.mark.parametrize("operation", STREAMED)
def test_only_an_event_of_its_own_is_taken_out(operation):
    """The event that has the usage of the others has more in it."""
    body = json.dumps(BODIES[operation] | {"stream": True}).encode()

    assert (operation in (Operation.CHAT, Operation.COMPLETIONS)) == strips(
        parse(operation, body)
    )


@pytest.mark.parametrize("server", Server)
@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (Operation.COMPLETIONS, "max_tokens"),
        (Operation.RESPONSES, "max_output_tokens"),
        (Operation.MESSAGES, "max_tokens"),
    ],
)
def test_the_cap_has_the_operations_name(server, operation, name):
    assert 7 == sent(server, operation, **{name: 7})[name]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_chats_cap_has_the_name_that_counts(name):
    """Under another, Triton's frontend gives its default of 16 tokens."""
    body = sent(Server.TRITON_OPENAI, Operation.CHAT, **{name: 7})

    assert 7 == body["max_tokens"]
    assert "max_completion_tokens" not in body
    assert 7 == sent(Server.VLLM, Operation.CHAT, **{name: 7})[name]


def test_a_default_cap_is_put_in_under_that_name():
    request = parse(
        Operation.RESPONSES, json.dumps(BODIES[Operation.RESPONSES]).encode()
    )
    model = examples.model(provider=Provider.OPENAI, inject_default=True)

    body, injected = forwarded(request, model)
    assert injected
    assert 256 == json.loads(body)["max_output_tokens"]


@pytest.mark.parametrize("server", Server)
def test_embeddings_get_neither_cap_nor_stream_options(server):
    """A server that forbids other fields would refuse them."""
    body = sent(server, Operation.EMBEDDINGS)

    assert BODIES[Operation.EMBEDDINGS] == body


@pytest.mark.parametrize(
    "operation", [Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS]
)
def test_trtllm_serve_forbids_what_it_does_not_know(operation):
    """So it is refused by name; what says nothing is left out."""
    problem = refused(Server.TRTLLM_SERVE, operation, store=True)

    assert "store" == problem.param
    told = {"service_tier": "auto", "metadata": {"a": "b"}, "safety_identifier": "x"}
    quiet = told | {"store": False, "verbosity": None}
    body = sent(Server.TRTLLM_SERVE, operation, **quiet, user="u")
    assert BODIES[operation] | {"user": "u"} == body
    assert told.items() <= sent(Server.VLLM, operation, **told).items()


@pytest.mark.parametrize("name", ["add_generation_prompt", "include_reasoning"])
def test_no_switch_that_may_be_on_is_left_out_where_it_is_false(name):
    """Its client would get what it switched off."""
    problem = refused(Server.TRTLLM_SERVE, Operation.CHAT, **{name: False})

    assert name == problem.param
    assert sent(Server.VLLM, Operation.CHAT, **{name: False})[name] is False


@pytest.mark.parametrize(
    ("operation", "name", "value"),
    [
        (Operation.CHAT, "n", 2),
        (Operation.CHAT, "logit_bias", {"1": 1}),
        (Operation.COMPLETIONS, "n", 2),
        (Operation.COMPLETIONS, "best_of", 2),
        (Operation.COMPLETIONS, "suffix", "x"),
    ],
)
def test_tritons_frontend_refuses_so_we_do(operation, name, value):
    """Named; where it is null or one nothing is wrong with it."""
    assert name == refused(Server.TRITON_OPENAI, operation, **{name: value}).param

    sent(Server.TRITON_OPENAI, operation, **{name: None})


@pytest.mark.parametrize("server", Server)
def test_the_model_goes_by_the_name_its_server_knows(server):
    request = parse(Operation.CHAT, json.dumps(BODIES[Operation.CHAT]).encode())
    model = examples.model(
        provider=Provider.OPENAI, server=server, backend_model="meta/llama-3.1-8b"
    )

    body, _ = forwarded(request, model)
    assert "meta/llama-3.1-8b" == json.loads(body)["model"]


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        (Operation.CHAT, "max_completion_tokens"),
        (Operation.CHAT, "max_tokens"),
        (Operation.RESPONSES, "max_output_tokens"),
        (Operation.MESSAGES, "max_tokens"),
    ],
)
def test_a_cap_above_the_models_is_refused_by_the_clients_name(operation, name):
    with pytest.raises(Problem) as caught:
        sent(Server.OTHER, operation, **{name: 1025})
    assert name == caught.value.param


@pytest.mark.parametrize("server", Server)
def test_no_server_is_to_keep_a_response(server):
    """No route of ours would lead to it again."""
    assert sent(server, Operation.RESPONSES)["store"] is False

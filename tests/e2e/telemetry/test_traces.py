"""One trace per exchange, from Envoy to the aggregator: its spans, and none too many.

The stack is that of `tollhouse up --telemetry`; what is looked at are its pages.
"""

import pytest

from tests.e2e.running_stack import wait_until
from tests.e2e.secrets.traces import forms
from tests.e2e.telemetry.conftest import TRACE, Asked
from tests.e2e.telemetry.pages import Tree

CHECK = "async envoy.service.auth.v3.Authorization.Check egress"
PROCESS = "async envoy.service.ext_proc.v3.ExternalProcessor.Process egress"
EXCHANGE = "chat tiny-chat"
SHOWN_SECONDS = 40.0


def chat(asked: Asked, trace_id: str) -> Tree:
    """The whole tree of an admitted chat."""
    return asked.pages.trace(
        trace_id,
        *("ingress", "authz.check", "extproc.admit", "redis.reserve"),
        *("frontend.generate", "triton.infer", "InferRequest"),
        *(EXCHANGE, "extproc.settle", "usage.apply"),
    )


def test_an_exchange_is_one_trace(asked):
    """Every part has its place in it; nobody else's trace goes on here."""
    tree = chat(asked, asked.streamed)

    assert tree.services == {
        "tollhouse-edge",
        "tollhouse-authz",
        "tollhouse-extproc",
        "tollhouse-frontend",
        "tollhouse-billing",
        "triton",
    }
    assert tree.roots == ["ingress"]
    assert tree.one("ingress")["parent"] == ""
    router = ["ingress", "router tiny-chat egress"]
    frontend = [*router, "frontend.generate", "triton.infer"]
    for name, way in {
        "authz.check": ["ingress", CHECK],
        "redis.reserve": ["ingress", PROCESS, "extproc.admit"],
        "extproc.settle": ["ingress", EXCHANGE],
        "usage.apply": ["ingress", PROCESS],
        "compute": [*frontend, "InferRequest", "tiny-chat"],
    }.items():
        assert tree.way_to(name) == [*way, name]
    assert not [it["name"] for it in tree.spans if it["has_failed"]]


def test_an_exchange_span_speaks_of_what_was_used(asked):
    """In OpenTelemetry's GenAI names; the tokens are those of the answer."""
    tree = chat(asked, asked.streamed)
    told, generated = tree.told(EXCHANGE), tree.told("frontend.generate")
    counts = {
        "gen_ai.usage.input_tokens": asked.usage["prompt_tokens"],
        "gen_ai.usage.output_tokens": asked.usage["completion_tokens"],
    }
    common = counts | {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "tiny-chat",
        "gen_ai.request.max_tokens": 12,
        "tollhouse.outcome": "completed",
    }

    assert common.items() <= told.items()
    assert common.items() <= generated.items()
    assert told["tollhouse.tenant"] == "traced"
    assert told["tollhouse.key_id"] == asked.key_id
    assert told["tollhouse.exchange"] == generated["tollhouse.exchange"]
    assert generated["gen_ai.response.finish_reasons"] in (["length"], ["stop"])
    seconds = "gen_ai.response.time_to_first_chunk"
    assert 0 < generated[seconds] < told[seconds] + 0.01 < 10
    assert tree.one(EXCHANGE)["kind"] == "client"
    assert tree.one("frontend.generate")["kind"] == "server"


def test_a_record_is_linked_to_its_batch(asked):
    """A batch is of many exchanges, so it has a trace of its own."""
    applied = chat(asked, asked.streamed).one("usage.apply")
    (link,) = applied["links"]
    batch = asked.pages.trace(link["trace_id"], "usage.batch").one("usage.batch")

    assert batch["span_id"] == link["span_id"]
    assert asked.streamed in [it["trace_id"] for it in batch["links"]]
    assert batch["parent"] == ""


def test_who_leaves_is_seen_leaving(asked):
    """By every part that had to stop."""
    tree = chat(asked, asked.left)

    assert tree.told(EXCHANGE)["tollhouse.outcome"] == "left"
    assert tree.told("frontend.generate")["tollhouse.outcome"] == "left"
    assert tree.told("triton.infer")["gen_ai.usage.output_tokens"] < 2000
    assert not tree.one("triton.infer")["has_failed"]


def test_a_client_of_tritons_own_protocol_is_traced_into_triton(asked):
    """Past the frontend: Envoy hands the trace on."""
    tree = asked.pages.trace(
        asked.generated, "ingress", "extproc.admit", "InferRequest", "usage.apply"
    )

    assert tree.roots == ["ingress"]
    (_, router, _) = tree.way_to("InferRequest")
    assert router.startswith("router tiny-chat-http")
    assert "tollhouse-frontend" not in tree.services


@pytest.mark.parametrize(
    ("which", "status", "decider"),
    [
        ("unknown", 401, "authz.check"),
        ("malformed", 400, "extproc.admit"),
        ("limited", 429, "extproc.admit"),
    ],
)
def test_a_refusal_is_traced_to_who_decided(asked, which, status, decider):
    """The client is told the trace; nothing behind the decision has a span in it."""
    answer = getattr(asked, which)
    tree = asked.pages.trace(answer.headers[TRACE], "ingress", decider)
    behind = {"frontend.generate", "InferRequest", "usage.apply", EXCHANGE}

    assert answer.status_code == status
    assert answer.json()["error"]["trace_id"] == tree.trace_id
    assert tree.told("ingress")["http.status_code"] == str(status)
    assert tree.roots == ["ingress"]
    assert not behind & {it["name"] for it in tree.spans}


def test_a_refusal_says_which_limit_it_was(asked):
    tree = asked.pages.trace(asked.limited.headers[TRACE], "extproc.admit")

    assert tree.told("extproc.admit")["tollhouse.decision"] == "refused"
    assert tree.told("extproc.admit")["tollhouse.limit"].startswith("key.")


def test_telemetry_holds_no_secret(asked):
    """No prompt, completion or key in any span or series, however encoded."""
    chat(asked, asked.streamed)
    chat(asked, asked.left)
    everything = asked.pages.everything()
    found = [
        secret
        for secret in (asked.prompt, asked.completion, asked.secret)
        for form in forms(secret)
        if form in everything
    ]

    assert len(asked.completion) > 12
    assert asked.key_id.encode() in everything  # the search sees something
    assert found == []


def test_the_terminal_shows_a_trace(asked):
    """In plain lines, where nobody's terminal reads them; and where to see the rest."""
    stack = asked.stack
    wait_until(lambda: "/traces/<" in stack.said, SHOWN_SECONDS)
    _, _, shown = stack.said.partition("Ctrl-C")

    assert "trace " in shown
    assert "tollhouse-edge: ingress" in shown
    assert "\x1b" not in stack.said
    assert f"{asked.pages.url}/traces/<x-tollhouse-trace" in shown

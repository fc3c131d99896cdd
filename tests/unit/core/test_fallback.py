"""Who serves while the model that was asked for has nobody."""

import json
from dataclasses import replace

import pytest

from tests import examples
from tollhouse.core.admission import Admission
from tollhouse.core.admission_messages import RequestBody, RequestHeaders, Reserve
from tollhouse.core.catalog import (
    Catalog,
    Operation,
    Plan,
    Prices,
    Provider,
    Server,
    Weights,
)
from tollhouse.core.experience import Experience
from tollhouse.core.fallback import serving
from tollhouse.core.forwarding import forwarded
from tollhouse.core.identity import Principal, parse_scopes
from tollhouse.core.ids import exchange_id
from tollhouse.core.infer import infer_request
from tollhouse.core.limits import Allowance
from tollhouse.core.problems import Problem
from tollhouse.core.request import parse

MODELS = {
    it.name: it
    for it in (
        examples.model(name="m", cluster="a", fallback=("small", "wide")),
        examples.model(name="small", cluster="b", max_output_tokens=100),
        examples.model(name="wide", cluster="c", fallback=("last",)),
        examples.model(name="last", cluster="d"),
    )
}
CATALOG = Catalog(models=MODELS, plans={})


def request(**fields: object):
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    return parse(Operation.CHAT, json.dumps(body).encode())


def chosen(*down: str, catalog: Catalog = CATALOG, **fields: object) -> str:
    requested = catalog.models["m"]
    return serving(request(**fields), requested, catalog, frozenset(down)).name


def test_what_triton_itself_serves_does_not_go_to_the_cluster():
    """So nobody serves in its place when that is away."""
    infers = replace(MODELS["m"], operations=frozenset({Operation.INFER}))
    asked = infer_request("m", {"text_input": (b"hi",)}, ())

    assert infers is serving(asked, infers, CATALOG, frozenset("a"))


@pytest.mark.parametrize(
    ("down", "name"),
    [
        ((), "m"),
        (("b", "c"), "m"),  # others' troubles are not its own
        (("a",), "small"),
        (("a", "b"), "wide"),
        (("a", "b", "c"), "m"),  # nobody left: not the fallback of a fallback
    ],
)
def test_the_first_that_has_a_healthy_host(down, name):
    assert name == chosen(*down)


def test_one_that_can_not_take_the_request_is_passed_over():
    """Its largest output is below what this client asks for."""
    assert "wide" == chosen("a", max_tokens=101)
    assert "small" == chosen("a", max_tokens=100)


def test_one_whose_server_refuses_a_field_is_passed_over():
    server = examples.model(
        name="small", cluster="b", provider=Provider.OPENAI, server=Server.TRITON_OPENAI
    )
    catalog = Catalog(models=MODELS | {"small": server}, plans={})

    assert "wide" == chosen("a", catalog=catalog, logit_bias={"1": 1})


def test_what_the_requested_model_refuses_is_refused_whoever_serves():
    """An outage must not change what a client may ask."""
    with pytest.raises(Problem):
        chosen("a", max_tokens=2000)


def test_the_body_names_the_model_that_serves():
    body, _ = forwarded(request(), MODELS["small"])

    assert "small" == json.loads(body)["model"]


def test_all_that_is_decided_is_decided_for_the_model_that_serves():
    """But for the scope: the key has none on it, the operator chose it."""
    other = examples.model(
        name="small", cluster="b", weights=Weights(output=2), prices=Prices(output=3)
    )
    limits = Allowance(requests_per_minute=7)
    small = replace(other, limits=limits, hold_seconds=1.0)
    catalog = Catalog(models=MODELS | {"small": small}, plans={"demo": Plan("demo")})
    principal = Principal("acme", "key", "demo", parse_scopes("chat:write=m"))
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}

    admission = Admission(
        exchange_id(0, bytes(10)), catalog, Experience(), frozenset({"a"})
    )
    admission.receive(RequestHeaders("POST", "/v1/chat/completions", principal, True))
    command = admission.receive(RequestBody(json.dumps(body).encode()))

    assert isinstance(command, Reserve)
    assert 1.0 == command.hold_seconds
    assert {7} == {it.value for it in command.reservation.limits}
    facts = command.reservation.facts
    assert ("m", "small", "b") == (
        facts.requested_model,
        facts.served_model,
        facts.cluster,
    )
    assert ((1, 0, 2), (0, 0, 3)) == (facts.weights, facts.prices)

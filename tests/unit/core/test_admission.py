"""One ext_proc stream, from the request line to the hang-up."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tollhouse.core.admission import Admission, State
from tollhouse.core.admission_messages import (
    Admit,
    Answer,
    CountTokens,
    Identify,
    ModelNamed,
    ReadOn,
    Refuse,
    Release,
    RequestBody,
    RequestHeaders,
    RequestRead,
    ReservationAnswered,
    Reserve,
    StreamEnded,
    TokensCounted,
)
from tollhouse.core.catalog import (
    Catalog,
    Model,
    Operation,
    Plan,
    Policy,
    Prices,
    Provider,
    RedisDown,
    Triton,
    Weights,
)
from tollhouse.core.experience import Cohort, Experience, Learned, Ratio
from tollhouse.core.identity import Principal, parse_scopes
from tollhouse.core.ids import exchange_id
from tollhouse.core.infer import Rewrite, infer_request
from tollhouse.core.inquiry import Pass
from tollhouse.core.limits import Allowance, Debit, Limit, Measure, Scope
from tollhouse.core.problems import Kind, ProtocolError
from tollhouse.core.reservation import Granted, Quota, Refused
from tollhouse.core.surface import GRPC_SERVICE, STREAM_INFER
from tollhouse.core.usage import decode_facts

ID = exchange_id(1_700_000_000_000, b"0123456789")
ALLOWANCE = Allowance(requests_per_minute=60, units_per_minute=1000, concurrent=2)


DEBITS = (Debit(Scope.KEY, Measure.UNITS, 1000),)
GRANTED = Granted(DEBITS, (0,), Quota(60, 9, 1.0), Quota(1000, 100, 6.0))
DENIED = Refused(
    Limit(Scope.KEY, Measure.REQUESTS, 60), 2.5, 0, (0,), Quota(60, 0, 10.0), None
)


def model(name, *operations, **changes):
    return Model(
        name=name,
        cluster=f"{name}-cluster",
        provider=Provider.TRITON,
        operations=frozenset(operations),
        context=4096,
        default_output_tokens=256,
        max_output_tokens=1024,
        weights=Weights(input=1, cached_input=0, output=5),
        bytes_per_token=4.0,
        inject_default=True,
        created=0,
        prices=Prices(input=2, cached_input=1, output=8),
        **changes,
    )


CATALOG = Catalog(
    models={
        "tiny": model("tiny", Operation.CHAT, Operation.COMPLETIONS),
        "large": model("large", Operation.CHAT, hold_seconds=2.0, capacity=5000),
        "exact": model("exact", Operation.CHAT, tokenizer=Path("tokenizer.json")),
    },
    plans={
        "demo": Plan("demo", key=ALLOWANCE, tenant_model=ALLOWANCE),
        "strict": Plan(
            "strict", policy=Policy.STRICT, redis_down=RedisDown.DENY, priority=7
        ),
    },
)


INFER_CATALOG = Catalog(
    models={
        "tiny": model(
            "tiny", Operation.INFER, triton=Triton("tiny-grpc", "http", "repository")
        )
    },
    plans=CATALOG.plans,
)


def headers(
    scopes="chat:write models:read",
    *,
    path="/v1/chat/completions",
    method="POST",
    plan="demo",
    has_body=True,
):
    principal = Principal("acme", "key", plan, parse_scopes(scopes))
    return RequestHeaders(method, path, principal, has_body)


def body(**fields):
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "x" * 40}]}
    return RequestBody(json.dumps(chat | fields).encode())


def admission():
    return Admission(ID, CATALOG, Experience())


def reserve_of(plan="demo", **fields):
    started = admission()
    started.receive(headers(plan=plan))
    reserve = started.receive(body(**fields))
    assert isinstance(reserve, Reserve)
    return started, reserve


def reserving(**fields):
    started, reserve = reserve_of(**fields)
    return started, reserve.reservation


def refused(started, event):
    command = started.receive(event)
    assert isinstance(command, Refuse)
    assert State.REFUSED is started.state
    return command.problem


def test_the_exchange_is_known_before_anything_is_reserved():
    """Whatever is lost later, the ledger can name what to release."""
    started = admission()

    assert Identify(ID, headers().principal) == started.receive(headers())
    assert isinstance(started.receive(body()), Reserve)
    assert isinstance(started.receive(ReservationAnswered(GRANTED)), Admit)
    assert State.ADMITTED is started.state


def infer_headers(path, scopes="infer:write", method="POST", **changes):
    made = headers(scopes, path=path, method=method)
    return replace(made, **changes)


def inferring(path):
    """An admission of the catalog that infers, which has its headers."""
    started = Admission(ID, INFER_CATALOG, Experience())
    started.receive(infer_headers(path))
    return started


class Document:
    """A body in a form that an adapter reads."""

    content_type, head_bytes = "application/x", 7

    def request(self):
        return infer_request("tiny", {"text_input": (b"x" * 40,)}, ())

    def rewritten(self, rewrite):
        return repr(rewrite).encode()


class Naming:
    """A body that names a model."""

    def __init__(self, name="tiny"):
        self._name = name

    def model(self):
        return self._name

    def renamed(self, name):
        return name.encode()


def test_what_an_adapter_read_goes_to_the_models_triton():
    """Judged as any request, and written anew for the backend by who read it."""
    started = inferring(f"{GRPC_SERVICE}ModelInfer")
    reserve = started.receive(RequestRead(Document()))
    admit = started.receive(ReservationAnswered(GRANTED))

    assert isinstance(reserve, Reserve)
    facts = reserve.reservation.facts
    assert ("infer", "tiny-grpc", 10, 0) == (
        facts.operation,
        facts.cluster,
        facts.input_estimate,
        facts.framing,
    )
    assert isinstance(admit, Admit)
    written = Rewrite("repository", 256)
    assert (repr(written).encode(), "tiny-grpc", "application/x", 7, "") == (
        admit.body,
        admit.cluster,
        admit.content_type,
        admit.head_bytes,
        admit.path,
    )


def test_over_http_the_path_names_the_model():
    """Also at the backend, where it may have another name."""
    started = inferring("/v2/models/tiny/versions/3/generate")
    reserve = started.receive(RequestBody(b'{"text_input": "hi"}'))
    admit = started.receive(ReservationAnswered(GRANTED))

    assert isinstance(reserve, Reserve)
    assert isinstance(admit, Admit)
    assert ("http", "/v2/models/repository/versions/3/generate") == (
        admit.cluster,
        admit.path,
    )
    assert 256 == json.loads(admit.body)["max_tokens"]


@pytest.mark.parametrize(
    ("path", "cluster", "to"),
    [
        ("/v2/models/tiny", "http", "/v2/models/repository"),
        (
            "/v2/models/tiny/versions/3/ready",
            "http",
            "/v2/models/repository/versions/3/ready",
        ),
    ],
)
def test_a_models_triton_tells_of_it(path, cluster, to):
    """From the headers alone, and without an exchange."""
    asked = infer_headers(path, method="GET", has_body=False)
    command = Admission(ID, INFER_CATALOG, Experience()).receive(asked)

    assert Pass(cluster, to) == command


def test_a_body_that_nobody_would_judge_is_refused():
    asked = infer_headers("/v2/models/tiny", method="GET")

    assert 400 == refused(Admission(ID, INFER_CATALOG, Experience()), asked).status


def test_over_grpc_the_body_names_the_model():
    """So it is waited for; still there is no exchange."""
    started = Admission(ID, INFER_CATALOG, Experience())

    asked = infer_headers(f"{GRPC_SERVICE}ModelMetadata")
    assert ReadOn() == started.receive(asked)
    told = Pass("tiny-grpc", body=b"repository")
    assert told == started.receive(ModelNamed(Naming()))


@pytest.mark.parametrize(
    ("scopes", "name"),
    [("infer:write", "other"), ("infer:write=x*", "tiny"), ("chat:write", "tiny")],
)
def test_of_an_unknown_and_a_hidden_model_nothing_is_told(scopes, name):
    """Alike, in both protocols."""
    grpc = Admission(ID, INFER_CATALOG, Experience())
    grpc.receive(infer_headers(f"{GRPC_SERVICE}ModelReady", scopes))
    http = Admission(ID, INFER_CATALOG, Experience())
    asked = infer_headers(f"/v2/models/{name}/ready", scopes, "GET", has_body=False)

    for problem in (refused(grpc, ModelNamed(Naming(name))), refused(http, asked)):
        assert Kind.MODEL_NOT_FOUND is problem.kind


def test_a_model_without_triton_is_unknown_to_its_protocols():
    asked = headers(path="/v2/models/tiny", method="GET", has_body=False)

    assert Kind.MODEL_NOT_FOUND is refused(admission(), asked).kind


def test_the_gateway_itself_is_the_server():
    """Over HTTP an answer; over gRPC this service has one."""
    http = admission().receive(headers(path="/v2", method="GET", has_body=False))
    live = admission().receive(
        headers(path="/v2/health/live", method="GET", has_body=False)
    )

    assert isinstance(http, Answer)
    assert "tollhouse" == json.loads(http.body)["name"]
    assert Answer(b"") == live
    for name in ("ServerLive", "ServerReady", "ServerMetadata"):
        command = admission().receive(headers(path=f"{GRPC_SERVICE}{name}"))
        assert Pass("extproc") == command


@pytest.mark.parametrize("name", ["ModelInfer", "ModelReady"])
def test_a_call_without_a_message_is_refused(name):
    asked = infer_headers(f"{GRPC_SERVICE}{name}", has_body=False)
    problem = refused(Admission(ID, INFER_CATALOG, Experience()), asked)

    assert "There is no message." == problem.message


def test_a_stream_is_named_here_and_judged_elsewhere():
    """Its messages have a filter of their own."""
    command = admission().receive(infer_headers(STREAM_INFER))

    assert isinstance(command, Identify)
    assert command.is_all


def test_reserves_prompt_and_output_by_the_models_weights():
    """40 bytes are 10 tokens, 4 for the message; 100 of output at weight 5."""
    _, reservation = reserving(max_tokens=100, n=2)

    facts = reservation.facts
    assert (14, 200, 14 + 200 * 5) == (
        facts.input_estimate,
        facts.output_estimate,
        facts.reserved_units,
    )
    assert (ID, "acme", "key", (1, 0, 5), (2, 1, 8)) == (
        reservation.exchange_id,
        facts.tenant,
        facts.key_id,
        facts.weights,
        facts.prices,
    )


def test_keeps_what_the_estimator_may_learn_from():
    """The answer's length means something only beside its cap and choices."""
    _, named = reserving(max_tokens=100, n=2)
    _, ours = reserving()

    assert (40, 4, 2, 100) == (
        named.facts.text_bytes,
        named.facts.framing,
        named.facts.choices,
        named.facts.output_cap,
    )
    assert 256 == ours.facts.output_cap


def test_a_strict_plan_reserves_all_it_may_produce():
    """It never overshoots, and waits for Redis rather than degrade."""
    _, reserve = reserve_of("strict", max_tokens=1000)

    assert 1000 == reserve.reservation.facts.output_estimate
    assert RedisDown.DENY is reserve.redis_down


def test_a_saturated_model_may_hold():
    """How long is the model's; whose turn it is, the plan's priority decides."""
    _, reserve = reserve_of("strict", model="large")

    assert 2.0 == reserve.hold_seconds
    assert (
        Limit(Scope.MODEL, Measure.CAPACITY, 5000, weight=7)
        in reserve.reservation.limits
    )


def test_counts_exactly_where_there_is_a_tokenizer():
    """The texts leave once, and the count replaces the guess from bytes."""
    started = admission()
    started.receive(headers())

    assert CountTokens("exact", ["x" * 40]) == started.receive(body(model="exact"))
    assert State.COUNTING is started.state
    reserve = started.receive(TokensCounted(23))

    assert isinstance(reserve, Reserve)
    assert 23 + 4 == reserve.reservation.facts.input_estimate


def test_the_facts_say_where_the_exchange_stands():
    """Whoever settles and bills it has nothing else to tell its trace by."""
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    started = Admission(ID, CATALOG, Experience(), trace=trace)
    started.receive(headers())
    reserve = started.receive(body())

    assert isinstance(reserve, Reserve)
    assert trace == decode_facts(reserve.reservation.facts.encode()).trace


def test_the_facts_name_what_was_charged():
    """The settlement corrects these limits and no others."""
    started, reservation = reserving()

    admit = started.receive(ReservationAnswered(GRANTED))

    assert not reservation.facts.debits
    assert isinstance(admit, Admit)
    assert DEBITS == admit.facts.debits


def test_the_margin_is_no_part_of_the_estimate():
    """Units have it already, money gets it from beside the facts."""
    experience = Experience()
    experience.learn({Cohort("", "tiny"): Learned(text=Ratio(50, 1000, 2000))})
    started = Admission(ID, CATALOG, experience)
    started.receive(headers())
    reserve = started.receive(body())
    assert isinstance(reserve, Reserve)
    reservation, facts = reserve.reservation, reserve.reservation.facts

    assert 2 == reservation.margin
    assert facts.reserved_units == facts.input_estimate + 2 + 5 * facts.output_estimate


def test_reserves_the_default_where_the_cap_promises_more():
    """Clients name thousands and get hundreds; the rest is charged as it happens."""
    _, reservation = reserving(max_tokens=1024)

    assert 256 == reservation.facts.output_estimate


def test_admits_what_was_judged():
    """The body that goes on is the one that was read, with usage forced."""
    started, _ = reserving(stream=True)

    admit = started.receive(ReservationAnswered(GRANTED))

    assert isinstance(admit, Admit)
    assert ("tiny-cluster", True, True) == (admit.cluster, admit.strip, admit.injected)
    assert True is json.loads(admit.body)["stream_options"]["include_usage"]


def test_leaves_the_usage_event_to_a_client_that_asked():
    """The meter strips only what the client did not want."""
    started, _ = reserving(stream=True, stream_options={"include_usage": True})

    admit = started.receive(ReservationAnswered(GRANTED))

    assert isinstance(admit, Admit)
    assert not admit.strip


@pytest.mark.parametrize(
    ("scopes", "name"),
    [
        ("chat:write", "nothing"),
        ("chat:write=other-*", "tiny"),
        ("completions:write models:read", "tiny"),
    ],
)
def test_an_unknown_and_a_hidden_model_look_alike(scopes, name):
    """A key must not learn which models exist beyond its scopes."""
    started = admission()
    started.receive(headers(scopes))

    problem = refused(started, body(model=name))

    assert (Kind.MODEL_NOT_FOUND, "model") == (problem.kind, problem.param)
    other = admission()
    other.receive(headers(scopes))
    assert problem.body() == refused(other, body(model="never-was")).body()


def test_lists_only_what_the_key_may_use():
    """GET /v1/models is answered from the headers alone."""
    answer = admission().receive(
        headers("chat:write=lar*", path="/v1/models", method="GET", has_body=False)
    )

    assert isinstance(answer, Answer)
    assert ["large"] == [it["id"] for it in json.loads(answer.body)["data"]]


def test_refuses_a_body_that_does_not_come():
    """Envoy sends no body message for an empty POST: waiting would hang."""
    problem = refused(admission(), headers(has_body=False))

    assert 400 == problem.status


def test_refuses_a_plan_that_is_not_configured():
    """Without limits to hold, nothing is admitted."""
    started = admission()
    started.receive(headers(plan="gone"))

    assert Kind.UNAVAILABLE is refused(started, body()).kind


def test_names_the_limit_that_refused():
    """A client can act only on a limit it knows."""
    started, _ = reserving()

    problem = refused(started, ReservationAnswered(DENIED))

    assert 429 == problem.status
    assert "60 requests per minute of this API key" in problem.message
    assert {
        "retry-after": "3",
        "retry-after-ms": "2500",
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "10s",
    } == problem.headers


def test_says_when_a_retry_is_useless():
    """A request larger than its limit must not be tried again."""
    started, _ = reserving()
    limit = Limit(Scope.TENANT_MODEL, Measure.UNITS, 1000)
    never = Refused(limit, None, 5, (0,), None, None)

    problem = refused(started, ReservationAnswered(never))

    assert {"x-should-retry": "false"} == problem.headers


def test_a_stream_that_ends_while_reserving_gives_back():
    """The reply can no longer arrive, so nothing may stay reserved."""
    started, reservation = reserving()

    assert Release(reservation) == started.receive(StreamEnded())


def test_the_end_says_nothing_after_admission():
    """Only the ledger settles."""
    started, _ = reserving()
    started.receive(ReservationAnswered(GRANTED))

    assert started.receive(StreamEnded()) is None


@pytest.mark.parametrize("path", ["/", "/v1/models/x", "/v1/chat/completions/"])
def test_a_path_it_does_not_know_is_a_fault_of_ours(path):
    """Envoy's routes name every path; a judge without a case must not pass it."""
    with pytest.raises(ProtocolError):
        admission().receive(headers(path=path))


EVENTS = st.sampled_from(
    [
        "headers",
        "empty",
        "models",
        "naming",
        "named",
        "body",
        "exact",
        "counted",
        "garbage",
        "granted",
        "refused",
        "ended",
    ]
)


@given(events=st.lists(EVENTS, max_size=8))
def test_admits_at_most_once_and_only_what_was_reserved(events):
    """Any order of events: never an admission without a granted reservation."""
    made = {
        "headers": headers(),
        "empty": headers(has_body=False),
        "models": headers(path="/v1/models", method="GET"),
        "naming": headers(path=f"{GRPC_SERVICE}ModelReady"),
        "named": ModelNamed(Naming()),
        "body": body(),
        "exact": body(model="exact"),
        "counted": TokensCounted(5),
        "garbage": RequestBody(b"{"),
        "granted": ReservationAnswered(GRANTED),
        "refused": ReservationAnswered(DENIED),
        "ended": StreamEnded(),
    }
    started, done = admission(), []
    for name in events:
        try:
            command = started.receive(made[name])
        except ProtocolError:
            continue
        if command is not None:
            done.append(type(command))
    if CountTokens in done[1:2]:
        del done[1]

    assert done in (
        [],
        [Answer],
        [Refuse],
        [ReadOn],
        [ReadOn, Refuse],  # nobody tells of a model without Triton
        [Identify],
        [Identify, Refuse],
        [Identify, Reserve],
        [Identify, Reserve, Admit],
        [Identify, Reserve, Refuse],
        [Identify, Reserve, Release],
    )

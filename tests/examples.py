"""One of each value that many tests need; what a test is about, it says itself."""

from dataclasses import replace
from typing import Any

from msgspec import structs

from tollhouse.core.catalog import Model, Operation, Provider, Weights
from tollhouse.core.exchange import Settlement
from tollhouse.core.ids import exchange_id
from tollhouse.core.usage import CountSource, Facts, TokenUsage, UsageKind

_MODEL = Model(
    name="m",
    cluster="c",
    provider=Provider.TRITON,
    operations=frozenset(Operation),
    context=4096,
    default_output_tokens=256,
    max_output_tokens=1024,
    weights=Weights(input=1, cached_input=0, output=5),
    bytes_per_token=4.0,
    inject_default=True,
    created=0,
)
_FACTS = Facts(
    tenant="acme",
    key_id="k",
    plan="demo",
    operation="chat",
    requested_model="m",
    served_model="m",
    cluster="c",
    provider="triton",
    weights=(1, 0, 5),
    reserved_units=100,
    input_estimate=50,
    output_estimate=10,
)


def model(**changes: Any) -> Model:
    """Make a model of ours that does everything."""
    return replace(_MODEL, **changes)


def facts(**changes: Any) -> Facts:
    """Make facts of a chat with that model, charged to no limit."""
    return structs.replace(_FACTS, **changes)


def settlement(at_ms: int, **changes: Any) -> Settlement:
    """Settle such a chat that began and ended at a moment, counted by the backend."""
    plain = Settlement(
        exchange_id=exchange_id(at_ms, bytes(10)),
        facts=_FACTS,
        kind=UsageKind.FINAL,
        usage=TokenUsage(),
        input_source=CountSource.BACKEND,
        output_source=CountSource.BACKEND,
        started_ms=at_ms,
        first_ms=0,
        ended_ms=at_ms,
        flags="",
    )
    return replace(plain, **changes)

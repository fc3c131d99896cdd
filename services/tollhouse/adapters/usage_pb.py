"""Usage on the wire: outbox entries, postings and rows as tollhouse.usage.v1."""

import re
from collections.abc import Mapping
from functools import lru_cache

from google.protobuf.timestamp_pb2 import Timestamp

from tollhouse.adapters.conventions import operation_name
from tollhouse.adapters.redis.outbox import Standing
from tollhouse.core.catalog import MODEL_NAME
from tollhouse.core.identity import check_tenant
from tollhouse.core.ids import created_ms
from tollhouse.core.problems import ProtocolError
from tollhouse.core.trace_context import parse_traceparent
from tollhouse.core.usage import ADJUSTMENT_SUFFIX, TokenUsage, UsageKind, decode_facts
from tollhouse.core.windows import (
    MS_PER_HOUR,
    SECONDS_PER_HOUR,
    Posting,
    UsageRow,
)
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb

# A larger count is a bug; sums of smaller ones stay exact in Lua's numbers.
_LARGEST_COUNT = 2**40

# Far longer than any exchange: what is beyond comes from a broken clock.
_LONGEST_HOURS = 7 * 24

_UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_MODEL = re.compile(MODEL_NAME)

_KINDS = {kind.value: kind for kind in UsageKind}


def to_pb_record(fields: Mapping[bytes, bytes]) -> usage_pb.UsageRecord:
    """Read an outbox entry. Raises ProtocolError when it is not a whole record."""
    # The ignored types: enums take numbers, those of a later release too.
    try:
        facts = decode_facts(fields[b"facts"])
        first_ms = int(fields[b"first_ms"] or 0)
        return usage_pb.UsageRecord(
            record_id=fields[b"id"].decode(),
            tenant=facts.tenant,
            key_id=facts.key_id,
            plan=facts.plan,
            operation_name=operation_name(facts.operation),
            requested_model=facts.requested_model,
            served_model=facts.served_model,
            provider_name=facts.provider,
            cluster=facts.cluster,
            kind=int(fields[b"kind"]),  # type: ignore[arg-type]
            corrects_record_id=fields.get(b"corrects", b"").decode(),
            usage=usage_pb.TokenUsage(
                input_tokens=int(fields[b"in"]),
                output_tokens=int(fields[b"out"]),
                cached_input_tokens=int(fields[b"cached"]),
                reasoning_tokens=int(fields[b"reasoning"]),
            ),
            input_count_source=int(fields[b"in_src"]),  # type: ignore[arg-type]
            output_count_source=int(fields[b"out_src"]),  # type: ignore[arg-type]
            reserved_units=facts.reserved_units,
            estimated_input_tokens=facts.input_estimate,
            estimated_output_tokens=facts.output_estimate,
            started_at=_timestamp(int(fields[b"started_ms"])),
            first_token_at=_timestamp(first_ms) if first_ms else None,
            ended_at=_timestamp(int(fields[b"ended_ms"])),
            end_reason=fields[b"flags"].decode(),
            traceparent=facts.trace,
        )
    except KeyError as error:
        raise ProtocolError(f"outbox entry without {error.args[0]!r}") from error
    except ValueError as error:  # of int(), of decode(), of a protobuf field
        raise ProtocolError(f"outbox entry that can't be read: {error}") from error


def from_pb_record(record: usage_pb.UsageRecord) -> Posting:
    """Check a record and take from it what is counted.

    Raises ValueError whose text is the reason to refuse the record for good.
    """
    kind = _KINDS.get(record.kind)
    if kind is None:
        raise ValueError(f"kind {record.kind} is not known")
    tenant, model = _names(record.tenant, record.served_model)
    usage = _usage(record.usage, is_signed=kind is UsageKind.ADJUSTMENT)
    created_hour = _created_hour(record, kind)
    hour = record.ended_at.seconds // SECONDS_PER_HOUR
    if not -1 <= hour - created_hour <= _LONGEST_HOURS:
        raise ValueError("ended_at is missing or far from the time in record_id")
    return Posting(
        record_id=record.record_id,
        created_hour=created_hour,
        kind=kind,
        tenant=tenant,
        model=model,
        hour=hour,
        usage=usage,
        trace=_sampled(record.traceparent),
    )


def to_pb_watermark(standing: Standing) -> usage_pb.Watermark:
    """Tell how far an outbox is read."""
    oldest_at = _timestamp(standing.kept_from_ms)
    return usage_pb.Watermark(outbox_id=standing.outbox_id, oldest_at=oldest_at)


def to_pb_row(row: UsageRow) -> usage_pb.UsageRow:
    """One row of ListUsage."""
    return usage_pb.UsageRow(
        tenant=row.tenant,
        model=row.model,
        start_time=Timestamp(seconds=row.hour * SECONDS_PER_HOUR),
        input_tokens=row.usage.input_tokens,
        cached_input_tokens=row.usage.cached_input_tokens,
        output_tokens=row.usage.output_tokens,
        reasoning_tokens=row.usage.reasoning_tokens,
        final_exchanges=row.final_exchanges,
        partial_exchanges=row.partial_exchanges,
        abandoned_exchanges=row.abandoned_exchanges,
    )


def from_pb_row(row: usage_pb.UsageRow) -> UsageRow:
    """The inverse of `to_pb_row`."""
    return UsageRow(
        tenant=row.tenant,
        model=row.model,
        hour=row.start_time.seconds // SECONDS_PER_HOUR,
        usage=TokenUsage(
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cached_input_tokens=row.cached_input_tokens,
            reasoning_tokens=row.reasoning_tokens,
        ),
        final_exchanges=row.final_exchanges,
        partial_exchanges=row.partial_exchanges,
        abandoned_exchanges=row.abandoned_exchanges,
    )


def _timestamp(unix_ms: int) -> Timestamp:
    return Timestamp(seconds=unix_ms // 1000, nanos=unix_ms % 1000 * 1_000_000)


def _created_hour(record: usage_pb.UsageRecord, kind: UsageKind) -> int:
    exchange_id = record.record_id
    if kind is UsageKind.ADJUSTMENT:
        exchange_id = exchange_id.removesuffix(ADJUSTMENT_SUFFIX)
        if exchange_id != record.corrects_record_id:
            raise ValueError("corrects_record_id is not the record's id")
        if exchange_id == record.record_id:
            raise ValueError(f"an adjustment's id ends with {ADJUSTMENT_SUFFIX}")
    if not _UUID7.fullmatch(exchange_id):
        raise ValueError("record_id is not made of a version 7 UUID")
    return created_ms(exchange_id) // MS_PER_HOUR


def _sampled(traceparent: str) -> str:
    trace = parse_traceparent(traceparent)
    return trace.traceparent if trace is not None and trace.is_sampled else ""


@lru_cache(maxsize=8192)
def _names(tenant: str, model: str) -> tuple[str, str]:
    check_tenant(tenant)
    if not _MODEL.fullmatch(model):
        raise ValueError(f"served_model {model!r} is not a model's name")
    return tenant, model


def _usage(usage: usage_pb.TokenUsage, *, is_signed: bool) -> TokenUsage:
    counts = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.reasoning_tokens,
    )
    least = -_LARGEST_COUNT if is_signed else 0
    if min(counts) < least or max(counts) > _LARGEST_COUNT:
        raise ValueError(f"counts {counts} are out of range")
    # An adjustment differs from a record by any part of it.
    if not is_signed and (
        usage.cached_input_tokens > usage.input_tokens
        or usage.reasoning_tokens > usage.output_tokens
    ):
        raise ValueError(f"counts {counts}: a part is larger than its whole")
    return TokenUsage(*counts)

"""Spans of the aggregator: what became of usage records, and of chunks.

A record's is in the trace of its exchange. A batch and a chunk are of many exchanges:
theirs begin traces of their own, linked to those of exchanges that are kept.
"""

import time
from collections.abc import Container, Mapping

from tollhouse.adapters import conventions as names
from tollhouse.adapters.tracing import Kind, Span, Tracing, Value
from tollhouse.core.chunk import Answer, Attempt, Verdict
from tollhouse.core.trace_context import parse_traceparent
from tollhouse.core.usage import UsageKind
from tollhouse.pb.tollhouse.usage.v1 import usage_pb2 as usage_pb

MOST_LINKS = 32
"""Of a batch: the SDK keeps 128, a reader looks at a few."""
_LONGEST_ID = 64
"""A record that is rejected may have any text for one."""
_KINDS = {kind.value: kind.name.lower() for kind in UsageKind}
_ARRIVED = (Verdict.ACCEPTED, Verdict.DUPLICATE)


def tell_batch(
    tracing: Tracing,
    batch: usage_pb.UsageBatch,
    ack: usage_pb.BatchAck,
    repeated: Container[str],
    started_ns: int,
) -> None:
    """Tell of a batch, and of each of its records that is sampled or was rejected.

    Nothing where there is no such record. `repeated`: ids that were applied before.
    """
    if not tracing.is_on:
        return
    rejected = {it.record_id for it in ack.rejected}
    told = []
    for record in batch.records:
        context = parse_traceparent(record.traceparent)
        if tracing.wants(context, is_notable=record.record_id in rejected):
            told.append((record, context))
    if not told:
        return
    ended_ns = time.time_ns()
    links = [context for _, context in told[:MOST_LINKS] if context is not None]
    counts: Mapping[str, Value | None] = {
        names.RECORDS: len(batch.records),
        names.DUPLICATES: ack.duplicates,
        names.REJECTED: len(rejected),
    }
    name, kind = "usage.batch", Kind.CONSUMER
    whole = tracing.tell(
        None, Span(name, started_ns, ended_ns, kind, counts, links=links)
    )
    for record, context in told:
        outcome = "applied"
        if record.record_id in rejected:
            outcome = "rejected"
        elif record.record_id in repeated:
            outcome = "duplicate"
        attributes: Mapping[str, Value | None] = {
            names.RECORD: record.record_id[:_LONGEST_ID],
            names.USAGE_KIND: _KINDS.get(record.kind),
            names.OUTCOME: outcome,
        }
        span = Span(
            "usage.apply",
            started_ns,
            ended_ns,
            Kind.CONSUMER,
            attributes,
            "rejected" if outcome == "rejected" else "",
            links=() if whole is None else (whole,),
        )
        tracing.tell(context, span)


def tell_attempt(
    tracing: Tracing, provider: str, attempt: Attempt, answer: Answer, started_ns: int
) -> None:
    """Tell of an attempt to ship a chunk, if an exchange in it is kept or it failed."""
    chunk, has_failed = attempt.chunk, answer.verdict not in _ARRIVED
    if not tracing.wants(chunk.trace, is_notable=has_failed):
        return
    attributes: Mapping[str, Value | None] = {
        names.CHUNK: chunk.id,
        names.CHUNK_TOKENS: chunk.value,
        names.CHUNK_ATTEMPT: attempt.number,
        names.BILLING_PROVIDER: provider,
        names.VERDICT: answer.verdict,
    }
    span = Span(
        "chunk.ship",
        started_ns,
        time.time_ns(),
        Kind.CLIENT,
        attributes,
        (answer.code or answer.verdict) if has_failed else "",
        links=() if chunk.trace is None else (chunk.trace,),
    )
    tracing.tell(None, span)

"""What one ledger line means for its exchange.

Envoy writes the ledger (envoy/envoy.yaml, access log): a periodic line every 5 s while
an exchange runs and one line when it ends. An end line settles what was admitted and
releases what was not; nothing else does.
"""

from dataclasses import dataclass

import msgspec

from tollhouse.core.exchange import Beat, Release, Settlement
from tollhouse.core.ids import created_ms
from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import (
    CountSource,
    Facts,
    TokenUsage,
    UsageKind,
    decode_facts,
)

_NO_FLAGS = "-"


class Line(msgspec.Struct, frozen=True):
    """One ledger line as Envoy writes it; a value Envoy has not is null."""

    type: str
    exchange: str
    tenant: str
    started_at: str
    duration_ms: int | None
    code: int
    admitted: bool | None = None
    facts: str | None = None
    meter: str | None = None
    flags: str = _NO_FLAGS
    upstream_host: str | None = None


@dataclass(frozen=True, slots=True)
class Metered:
    """The meter's view of a response; None where it saw no usage.

    `contents` counts the events that carried output. Times are Unix milliseconds, 0
    for never.
    """

    contents: int
    usage: TokenUsage | None
    first_ms: int
    finished: bool


Entry = Release | Beat | Settlement

_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode
_START = b'{"'
_SUCCESS = 2  # xx
_MOST_DIGITS = 8
"""Of a count that is believed. No model gets beyond, and units of more would leave the
integers Redis takes: SETTLE would end between "settled" and its record."""


def parse(raw: bytes) -> Line:
    """Read one line, without its newline. Raises ProtocolError for anything else.

    An Envoy that was killed can leave half a line, and the next Envoy appends to it:
    the whole line after the fragment still counts.
    """
    start = 0
    while True:
        try:
            return _decode(raw[start:] if start else raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            start = raw.find(_START, start + 1)
            if start < 0:
                raise ProtocolError("not a ledger line") from error


def admission_line(exchange_id: str, facts: Facts) -> bytes:
    """What a worker writes of an exchange that it admits by itself.

    A periodic line of its first moment, without counts; no newline.
    """
    return _encode(
        Line(
            type="Admitted",
            exchange=exchange_id,
            tenant=facts.tenant,
            started_at=f"{created_ms(exchange_id) / 1000:.3f}",
            duration_ms=0,
            code=0,
            admitted=True,
            facts=facts.encode().decode(),
        )
    )


def judge(line: Line) -> Entry | None:
    """Say what the line asks for; None for a periodic line before admission.

    Raises ProtocolError when an admitted line lacks what a record needs.
    """
    ended = line.type == "DownstreamEnd"
    if not line.admitted:
        return Release(line.exchange, line.tenant) if ended else None
    try:
        return _admitted(line, ended=ended)
    except ValueError as error:  # an id, a time or counts that are none
        raise ProtocolError("an admitted line that can't be read") from error


def _admitted(line: Line, *, ended: bool) -> Beat | Settlement:
    if line.facts is None:
        raise ProtocolError("an admitted line without facts")
    facts = decode_facts(line.facts)
    metered = read_meter(line.meter)
    first_ms = metered.first_ms if metered else 0
    started_ms = round(float(line.started_at) * 1000)
    at_ms = max(created_ms(line.exchange), started_ms + (line.duration_ms or 0))
    if not ended:
        usage, input_source, output_source = _counted(metered, facts)
        return Beat(
            exchange_id=line.exchange,
            facts=facts,
            usage=usage,
            input_source=input_source,
            output_source=output_source,
            started_ms=started_ms,
            first_ms=first_ms,
            at_ms=at_ms,
        )
    kind, usage, input_source, output_source = _final(line, facts, metered)
    return Settlement(
        exchange_id=line.exchange,
        facts=facts,
        kind=kind,
        usage=usage,
        input_source=input_source,
        output_source=output_source,
        started_ms=started_ms,
        first_ms=first_ms,
        ended_ms=at_ms,
        flags=_flags(line),
    )


def read_meter(text: str | None) -> Metered | None:
    """Read the meter's packed string (envoy/meter.lua, `pack`).

    Raises ValueError for anything else.
    """
    if not text:
        return None
    kind, _, contents, _, input_, output, cached, reasoning, first, _, flags = (
        text.split(",")
    )
    if kind == "enc":
        return Metered(0, None, 0, finished=False)
    usage = None
    told = (input_, output, cached, reasoning)
    if told[:2] != ("-", "-") and max(map(len, told)) <= _MOST_DIGITS:
        # A backend that reports a part larger than its whole is believed up to it.
        usage = TokenUsage(
            input_tokens=_count(input_),
            output_tokens=_count(output),
            cached_input_tokens=min(_count(cached), _count(input_)),
            reasoning_tokens=min(_count(reasoning), _count(output)),
        )
    return Metered(
        contents=sum(_count(choice) for choice in contents.split(":")),
        usage=usage,
        first_ms=int(first),
        finished="F" in flags,
    )


_Counts = tuple[TokenUsage, CountSource, CountSource]
_FinalCounts = tuple[UsageKind, TokenUsage, CountSource, CountSource]


def _final(line: Line, facts: Facts, metered: Metered | None) -> _FinalCounts:
    succeeded = line.code // 100 == _SUCCESS
    backend = CountSource.BACKEND
    if not _reached_a_host(line) or (line.code and not succeeded):
        # Nothing ran, or the backend refused or failed: nobody pays for an error.
        return UsageKind.FINAL, TokenUsage(), backend, backend
    counts = _counted(metered, facts)
    finished = succeeded and metered is not None and metered.finished
    return UsageKind.FINAL if finished else UsageKind.PARTIAL, *counts


def _counted(metered: Metered | None, facts: Facts) -> _Counts:
    """The backend's counts where it gave some, else events and the input estimate."""
    estimate = CountSource.ESTIMATE
    if metered is not None and metered.usage is not None:
        backend = CountSource.BACKEND
        return metered.usage, backend, backend
    contents = metered.contents if metered else 0
    usage = TokenUsage(input_tokens=facts.input_estimate, output_tokens=contents)
    return usage, estimate, CountSource.METER


def _reached_a_host(line: Line) -> bool:
    # UF: the connection failed, so no byte of the request was sent (Envoy's access
    # log documentation, RESPONSE_FLAGS).
    return line.upstream_host is not None and "UF" not in _flags(line).split(",")


def _flags(line: Line) -> str:
    return "" if line.flags == _NO_FLAGS else line.flags


def _count(text: str) -> int:
    return 0 if text in ("-", "") else int(text)

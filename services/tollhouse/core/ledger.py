"""What one ledger line means for its exchange.

Envoy writes the ledger (envoy/envoy.yaml, access log): a periodic line every 5 s while
an exchange runs and one line when it ends. An end line settles what was admitted and
releases what was not; nothing else does.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import msgspec

from tollhouse.core.catalog import Operation
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


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One ledger line as Envoy writes it; a value Envoy has not is null.

    Those from `key_id` on are for people: lines of an older Envoy file lack some.
    """

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
    key_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    grpc_status: int | None = None
    details: str | None = None
    upstream_cluster: str | None = None
    refusal: str | None = None

    @property
    def all_flags(self) -> str:
        """Envoy's response flags, comma-separated; empty for a clean end."""
        return "" if self.flags == _NO_FLAGS else self.flags

    @property
    def first_flag(self) -> str:
        """The first of them."""
        return self.all_flags.partition(",")[0]


@dataclass(frozen=True, slots=True)
class Metered:
    """The meter's view of a response.

    Counts are the backend's, None where it said none that can be. `contents` are the
    events that carried output, `text_bytes` the length of Triton's. `broke`: it said
    that it failed. Times are Unix milliseconds, 0 for never.
    """

    contents: int = 0
    text_bytes: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0
    first_ms: int = 0
    finished: bool = False
    broke: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no output was seen."""
        return not (self.contents or self.text_bytes or self.output_tokens)


Entry = Release | Beat | Settlement

_decode = msgspec.json.Decoder(Line).decode
_encode = msgspec.json.Encoder().encode
_START = b'{"'
_SUCCESS = 2  # xx
_MOST_DIGITS = 8
"""Of a count that is believed. No model gets beyond, and units of more would leave the
integers Redis takes: SETTLE would end between "settled" and its record."""
_MOST_TOKENS: int = 10**_MOST_DIGITS - 1
_USUAL_BYTES_PER_TOKEN = 4
"""Of English (https://platform.openai.com/tokenizer); the prompt's own is better."""
_UNTOLD = "-"


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
            first_ms=metered.first_ms,
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
        first_ms=metered.first_ms,
        ended_ms=at_ms,
        flags=line.all_flags,
    )


@lru_cache(maxsize=32)  # for what a line is billed, and for how it ended
def read_meter(text: str | None) -> Metered:
    """Read the meter's packed string (envoy/meter.lua, `pack`); no text: nothing seen.

    Raises ValueError for anything else.
    """
    if not text:
        return Metered()
    _, _, contents, _, *told, first, _, flags, text_bytes = text.split(",")
    input_, output, cached, reasoning = told
    if max(map(len, told)) > _MOST_DIGITS:
        input_ = output = cached = reasoning = _UNTOLD
    return Metered(
        contents=sum(_count(choice) for choice in contents.split(":")),
        text_bytes=int(text_bytes),
        input_tokens=None if input_ == _UNTOLD else int(input_),
        output_tokens=None if output == _UNTOLD else int(output),
        cached_input_tokens=_count(cached),
        reasoning_tokens=_count(reasoning),
        first_ms=int(first),
        finished="F" in flags,
        broke="B" in flags,
    )


_Counts = tuple[TokenUsage, CountSource, CountSource]
_FinalCounts = tuple[UsageKind, TokenUsage, CountSource, CountSource]


def _final(line: Line, facts: Facts, metered: Metered) -> _FinalCounts:
    succeeded = line.code // 100 == _SUCCESS
    backend = CountSource.BACKEND
    finished = succeeded and metered.finished
    # Of several requests, cut off, one that failed says nothing of the others. Envoy
    # has no flag for a stream that ended with extproc.
    is_cut = not finished and (bool(line.all_flags) or not metered.broke)
    is_cut_stream = is_cut and facts.operation == Operation.INFER and facts.choices > 1
    broke = metered.broke and metered.is_empty and not is_cut_stream
    failed = (line.code and not succeeded) or broke
    if failed or not _reached_a_host(line):
        # Nothing ran, or the backend refused or failed: nobody pays for an error.
        return UsageKind.FINAL, TokenUsage(), backend, backend
    counts = _counted(metered, facts)
    if finished:
        return UsageKind.FINAL, *counts
    if is_cut_stream:
        counts = _with_unanswered(counts, facts)
    if facts.runs_on:
        counts = _with_unseen(counts, facts)
    return UsageKind.PARTIAL, *counts


def _with_unanswered(counts: _Counts, facts: Facts) -> _Counts:
    """Counts with the input of requests that got no answer, which nobody told."""
    usage, source, output_source = counts
    if usage.input_tokens >= facts.input_estimate:
        return usage, source, output_source
    usage = replace(usage, input_tokens=facts.input_estimate)
    return usage, CountSource.ESTIMATE, output_source


def _with_unseen(counts: _Counts, facts: Facts) -> _Counts:
    """Counts with the output that is made all the same, up to its cap."""
    usage, input_source, source = counts
    most = facts.output_estimate
    if facts.output_cap is not None:
        most = facts.output_cap * facts.choices
    most = min(most, _MOST_TOKENS)
    if usage.output_tokens >= most:
        return usage, input_source, source
    return replace(usage, output_tokens=most), input_source, CountSource.ESTIMATE


def _counted(metered: Metered, facts: Facts) -> _Counts:
    """Each count the backend's where it gave it, else what comes closest."""
    input_, input_source = metered.input_tokens, CountSource.BACKEND
    if input_ is None:
        input_, input_source = facts.input_estimate, CountSource.ESTIMATE
    output, output_source = metered.output_tokens, CountSource.BACKEND
    if output is None and metered.text_bytes:
        output, output_source = (
            _tokens_of(metered.text_bytes, facts),
            CountSource.ESTIMATE,
        )
    elif output is None:
        output = metered.contents
        # Only the input has tokens where the backend tells it alone (embeddings).
        if output or input_source is CountSource.ESTIMATE:
            output_source = CountSource.METER
    # A backend that reports a part larger than its whole is believed up to it.
    usage = TokenUsage(
        input_tokens=input_,
        output_tokens=output,
        cached_input_tokens=min(metered.cached_input_tokens, input_),
        reasoning_tokens=min(metered.reasoning_tokens, output),
    )
    return usage, input_source, output_source


def _tokens_of(text_bytes: int, facts: Facts) -> int:
    """Estimate the tokens of a text by what the prompt's estimate took for one."""
    tokens, length = facts.input_estimate - facts.framing, facts.text_bytes
    if tokens <= 0 or length <= 0:
        tokens, length = 1, _USUAL_BYTES_PER_TOKEN
    return min(-(-text_bytes * tokens // length), _MOST_TOKENS)


def _reached_a_host(line: Line) -> bool:
    # UF: the connection failed, so no byte of the request was sent (Envoy's access
    # log documentation, RESPONSE_FLAGS).
    return line.upstream_host is not None and "UF" not in line.all_flags.split(",")


def _count(text: str) -> int:
    return 0 if text == _UNTOLD else int(text)

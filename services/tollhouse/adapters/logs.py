"""Logging: structlog events as JSON lines on stdout, with secrets taken out.

An event is named `noun.verb_past` (`reservation.refused`) and carries facts as keys.
Records of the standard library (grpc, asyncio, warnings) take the same way out, as
`library.logged`. No prompt, completion or secret is ever logged: callers don't pass
them, and `redact` removes what slips through all the same.
"""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

REDACTED = "[redacted]"
_SIMPLE = frozenset((str, int, float, bool))

Level = Literal["debug", "info", "warning", "error"]
"""What a setting for the log level may be."""

# Bounds one value, not one line: enough for a deep traceback, too little for a body.
_LONGEST_VALUE = 16_384
_DEEPEST = 6
_LONGEST_PLAIN = 64
_LONGEST_WORD = 39
"""Of letters and digits alone, which no pattern below matches when it is shorter."""
_LONGEST_REMEMBERED = 24
"""Names of models, hosts and outcomes come again and again; ids are longer."""

_SECRET_NAMES = frozenset(
    {
        "admission_proof",
        "api_key",
        "apikey",
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "key",
        "passphrase",
        "password",
        "pepper",
        "private_key",
        "proof",
        "proxy_authorization",
        "secret",
        "set_cookie",
        "token",
        "x_api_key",
        "x_tollhouse_admitted",
    }
)
_CONTENT_NAMES = frozenset(
    {"body", "completion", "content", "delta", "input", "messages", "prompt", "text"}
)
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"(?i)\b(bearer|basic|digest|negotiate)\s+[^\s,\"'\]}]+"),
        rf"\1 {REDACTED}",
    ),
    (
        re.compile(
            r"(?i)\b((?:proxy-)?authorization|(?:set-)?cookie|x-api-key|password|"
            r"secret|pepper|x-tollhouse-admitted)(['\"]?\s*[:=]\s*['\"]?)[^\s,\"'\]}]+"
        ),
        rf"\1\2{REDACTED}",
    ),
    # Our own keys: the key id is public and helps; the rest goes, however cut.
    (re.compile(r"\b(th_[a-z0-9]{1,12})_[A-Za-z0-9]+"), rf"\1_{REDACTED}"),
    (re.compile(r"://[^/\s:@]*:[^/\s@]+@"), f"://{REDACTED}@"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.?[\w-]*"), REDACTED),
    (re.compile(r"\b(?:sk|rk|pk|whsec)[-_][\w-]{12,}"), REDACTED),
    # Anything that looks drawn at random: 40 or more letters of both cases and digits
    # without a break. Ids (UUIDs), paths and lower-case hex digests stay readable.
    (
        re.compile(
            r"(?<![\w-])(?=[\w-]*[0-9])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]{40,}"
        ),
        REDACTED,
    ),
)

# Nearly all that is logged: ids, words, times, addresses. No pattern above can match
# these, and asking all of them costs ten times as much.
_PLAIN = re.compile(
    r"(?!.*(?:sk|rk|pk|whsec)[-_])[a-z0-9.-]*_?[a-z0-9.-]*"
    r"|[0-9:.TZ-]{,32}"
)


def configure(
    service: str, level: str = "info", *, stream: TextIO | None = None
) -> None:
    """Send every event and every stdlib record of this process to stdout as JSON.

    `level` is a name of the standard library in any case; raises ValueError for
    another. Call once, at start; calling again replaces what was set.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"log level {level!r} is none of debug, info, warning, error")
    out = sys.stdout if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        _Service(service),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.configure(
        processors=[*shared, _render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_from_record, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _render,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries chatter at INFO; ours is structlog's alone.
    root.setLevel(max(number, logging.WARNING))
    logging.captureWarnings(capture=True)


class Together:
    """Events of level info that are written at once, the way a logger's are.

    A logger takes twice as long for each. What is bound to the context is theirs, too.
    """

    def __init__(self) -> None:
        self._is_on = structlog.get_logger().bind().is_enabled_for(logging.INFO)
        self._processors = structlog.get_config()["processors"]
        self._lines: list[str] = []

    def info(self, event: str, facts: Mapping[str, object]) -> None:
        """Take an event; it keeps its own time."""
        if not self._is_on:
            return
        line: Any = {**facts, "event": event}
        try:
            for process in self._processors:
                line = process(None, "info", line)
        except structlog.DropEvent:
            return
        self._lines.append(line)

    def write(self) -> None:
        """Write what was taken, in its order."""
        if self._lines:
            structlog.get_config()["logger_factory"]().msg("\n".join(self._lines))
            self._lines.clear()


def redact(
    _logger: WrappedLogger | None, _method: str, event_dict: EventDict
) -> EventDict:
    """Replace secrets by name and by look, at any depth; bound what one value holds."""
    clean: EventDict = {}
    for key, value in event_dict.items():
        name, kind = str(key), type(value)
        if value is None:
            clean[name] = None
        elif kind not in _SIMPLE or _may_tell(name):
            clean[name] = _clean_named(name, value, 0)
        else:  # nearly all of them
            clean[name] = _redact_word(value) if kind is str else value
    return clean


def redact_text(text: str) -> str:
    """Replace what looks like a secret inside free text."""
    length = len(text)
    if (length <= _LONGEST_WORD and text.isalnum()) or (
        length <= _LONGEST_PLAIN and _PLAIN.fullmatch(text)
    ):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    if len(text) > _LONGEST_VALUE:
        text = text[:_LONGEST_VALUE] + "…"
    return text


def _redact_word(text: str) -> str:
    return _remembered(text) if len(text) <= _LONGEST_REMEMBERED else redact_text(text)


_remembered = lru_cache(maxsize=1024)(redact_text)


def _clean_named(name: str, value: object, depth: int) -> object:
    if _may_tell(name) and value is not None:
        plain = name.lower().replace("-", "_")
        if plain in _SECRET_NAMES or not isinstance(value, int | float):
            return REDACTED
    if name == "_record":  # structlog's own, removed before rendering
        return value
    return _clean(value, depth)


@lru_cache(maxsize=1024)
def _may_tell(name: str) -> bool:
    plain = name.lower().replace("-", "_")
    return plain in _SECRET_NAMES or plain in _CONTENT_NAMES


def _clean(value: object, depth: int) -> object:
    match value:
        case str():
            clean: object = redact_text(value)
        case None | bool() | int() | float():
            clean = value
        case bytes() | bytearray():
            clean = redact_text(bytes(value).decode("utf-8", "backslashreplace"))
        case Mapping() | Sequence() | set() | frozenset() if depth >= _DEEPEST:
            clean = "…"
        case Mapping():
            clean = {
                redact_text(str(name)): _clean_named(str(name), item, depth + 1)
                for name, item in value.items()
            }
        case Sequence() | set() | frozenset():
            clean = [_clean(item, depth + 1) for item in value]
        case _:
            clean = redact_text(str(value))
    return clean


class _Service:
    """Processor that names the part a line comes from."""

    def __init__(self, service: str) -> None:
        self._service = service

    def __call__(
        self, _logger: WrappedLogger, _method: str, event_dict: EventDict
    ) -> EventDict:
        event_dict["service"] = self._service
        return event_dict


def _from_record(
    _logger: WrappedLogger, _method: str, event_dict: EventDict
) -> EventDict:
    """Give a stdlib record an event name; its sentence becomes a fact."""
    record: logging.LogRecord = event_dict["_record"]
    event_dict["message"] = event_dict.pop("event")
    event_dict["event"] = "library.logged"
    event_dict["library"] = record.name
    return event_dict


def _render(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> str:
    event_dict.pop("_record", None)
    event_dict.pop("_from_structlog", None)
    named = {"at": event_dict.pop("at", None), "event": event_dict.pop("event", None)}
    return msgspec.json.encode({**named, **event_dict}).decode()

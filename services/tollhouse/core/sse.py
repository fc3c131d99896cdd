"""Server-sent events: a writer, and a parser that takes bytes as they come.

WHATWG HTML §9.2 (https://html.spec.whatwg.org/multipage/server-sent-events.html),
with two differences that a gateway needs: comments are kept, because the frontend
carries usage in them, and an event without a name has the name "".
"""

from dataclasses import dataclass

DONE = b"data: [DONE]\n\n"
"""What ends an OpenAI stream that ended well."""


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event: its data, its name, and the comments of its block."""

    data: str
    name: str = ""
    comments: tuple[str, ...] = ()


def event(data: bytes, *, comment: bytes = b"") -> bytes:
    """Return one event block. `data` and `comment` hold no line break."""
    if comment:
        return b": " + comment + b"\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"


class Parser:
    """Events out of a byte stream, however it is cut.

    Lines end with LF, CR or CRLF; a block that no empty line ends is never dispatched.
    """

    def __init__(self) -> None:
        self._partial = b""
        self._at_start = True
        self._after_cr = False
        self._data: list[str] = []
        self._name = ""
        self._comments: list[str] = []

    def feed(self, chunk: bytes) -> list[Event]:
        """Return the events that `chunk` completes."""
        events = []
        for line in self._lines(chunk):
            if line:
                self._field(line.decode("utf-8", "replace"))
            elif (dispatched := self._dispatch()) is not None:
                events.append(dispatched)
        return events

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete; keep the rest."""
        if self._after_cr and chunk:
            # The LF of a CRLF whose CR ended the line in the chunk before.
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        text = self._partial + chunk
        if self._at_start:
            if len(text) < len(b"\xef\xbb\xbf") and b"\xef\xbb\xbf".startswith(text):
                self._partial = text
                return []
            text = text.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        if text.endswith(b"\r"):
            self._after_cr = True
        *lines, self._partial = (
            text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        )
        return lines

    def _field(self, line: str) -> None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "":
                self._comments.append(value)
            case "data":
                self._data.append(value)
            case "event":
                self._name = value
            case _:
                pass

    def _dispatch(self) -> Event | None:
        data, name, comments = self._data, self._name, self._comments
        self._data, self._name, self._comments = [], "", []
        if not data:
            return None
        return Event("\n".join(data), name, tuple(comments))

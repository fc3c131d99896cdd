"""An exchange as exchange.lua keeps it."""

from dataclasses import dataclass

from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import Facts, decode_facts


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of an exchange; `facts` None: nothing but that it is over.

    `state`: R open, A abandoned, S settled, X released. `units` and `money`: what its
    limits were charged. `started_ms` and `ended_ms` as in the last beat, or the record
    that was written; 0 where there is none.
    """

    state: str
    units: int = 0
    money: int = 0
    started_ms: int = 0
    ended_ms: int = 0
    facts: Facts | None = None

    @classmethod
    def parse(cls, text: str | bytes) -> "Stored":
        """Read a key's value. Raises ProtocolError for one that can't be read."""
        try:
            whole = text if isinstance(text, str) else text.decode()
            head, _, rest = whole.partition("\n")
            if not rest:
                return cls(head)
            counts, _, facts = rest.partition("\n")
            state, units, money, *_ = head.split()  # the last: requests
            *_, started, _, ended = map(int, counts.split() or (0, 0, 0))
            charged = int(units), int(money)
        except ValueError as error:
            raise ProtocolError("not an exchange") from error
        return cls(state, *charged, started, ended, decode_facts(facts))

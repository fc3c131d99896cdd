"""An exchange as exchange.lua keeps it."""

from dataclasses import dataclass

from tollhouse.core.exchange import Beat
from tollhouse.core.problems import ProtocolError
from tollhouse.core.usage import CountSource, Facts, TokenUsage, decode_facts


@dataclass(frozen=True, slots=True)
class Stored:
    """What is known of an exchange; `facts` None: nothing but that it is over.

    `state`: R open, A abandoned, S settled, X released. `units` and `money`: what its
    limits were charged. `counts`: exchange.lua's nine, of the last beat or of the
    record that was written; empty where there is none.
    """

    state: str
    units: int = 0
    money: int = 0
    counts: tuple[int, ...] = ()
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
            numbers = tuple(map(int, counts.split()))
            charged = int(units), int(money)
            if numbers:
                *_, of_input, of_output, _, _, _ = numbers
                CountSource(of_input), CountSource(of_output)
        except ValueError as error:
            raise ProtocolError("not an exchange") from error
        return cls(state, *charged, numbers, decode_facts(facts))

    @property
    def started_ms(self) -> int:
        """When it began, as its counts say; 0 where there are none."""
        return self.counts[6] if self.counts else 0

    @property
    def ended_ms(self) -> int:
        """When its counts were told; 0 where there are none."""
        return self.counts[8] if self.counts else 0

    def last_beat(self, exchange_id: str) -> Beat | None:
        """The last beat of an open exchange, if there was one."""
        if self.facts is None or not self.counts:
            return None
        input_, output, cached, reasoning, of_input, of_output, *times = self.counts
        started, first, ended = times
        return Beat(
            exchange_id=exchange_id,
            facts=self.facts,
            usage=TokenUsage(input_, output, cached, reasoning),
            input_source=CountSource(of_input),
            output_source=CountSource(of_output),
            started_ms=started,
            first_ms=first,
            at_ms=ended,
        )

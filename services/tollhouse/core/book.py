"""What is kept of one window: how many of its tokens are where.

    total ─┬─ unsealed                in no chunk yet
           └─ sealed ─┬─ accepted     with the provider
                      ├─ under way    in open chunks
                      ├─ parked       waits for an operator
                      └─ discarded    never to be billed

Quantities are tokens, and signed: corrections can make any of them negative.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """The counters of one window.

    `last_seq`: of its last chunk, 0 for none; `open_seq`: the same while that chunk is
    under way, else 0.
    """

    total: int = 0
    sealed: int = 0
    accepted: int = 0
    parked: int = 0
    discarded: int = 0
    last_seq: int = 0
    open_seq: int = 0

    @property
    def unsealed(self) -> int:
        """In no chunk yet."""
        return self.total - self.sealed

    @property
    def under_way(self) -> int:
        """In chunks that are open: what the others leave of the sealed."""
        return self.sealed - self.accepted - self.parked - self.discarded

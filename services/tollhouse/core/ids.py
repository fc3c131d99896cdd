"""Exchange ids: UUID version 7 (RFC 9562 §5.7), made by us, never by a client."""

from functools import lru_cache
from typing import NewType

ExchangeId = NewType("ExchangeId", str)

_LENGTH = 36


def exchange_id(unix_ms: int, entropy: bytes) -> ExchangeId:
    """Build an id from the wall clock and 10 random bytes; sorts by time."""
    number = int.from_bytes(entropy)
    high = unix_ms << 16 | 0x7000 | number >> 62 & 0xFFF
    low = 1 << 63 | number & 0x3FFF_FFFF_FFFF_FFFF
    text = f"{high:016x}{low:016x}"
    return ExchangeId(
        f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    )


@lru_cache(maxsize=256)  # asked of the same id several times in a row
def created_ms(id_: str) -> int:
    """Unix milliseconds an id was made at. Raises ValueError for other text."""
    if len(id_) != _LENGTH or id_[14] != "7":
        raise ValueError(f"not a version 7 UUID: {id_!r}")
    return int(id_[:8] + id_[9:13], 16)

"""Page tokens of ListUsage: the last row of a page, opaque to clients."""

import base64

import msgspec

from tollhouse.core.windows import Position, UsageRow


def write_token(row: UsageRow) -> str:
    """Name the place behind a row."""
    place = (row.tenant, row.hour, row.model)
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def read_token(token: str) -> Position | None:
    """Read what `write_token` wrote; None for the first page.

    Raises ValueError for anything else.
    """
    if not token:
        return None
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True)
        return Position(*msgspec.json.decode(text, type=tuple[str, int, str]))
    except (ValueError, msgspec.DecodeError) as error:
        raise ValueError("page_token is not one of ours") from error

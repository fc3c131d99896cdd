"""A client that leaves before there was any answer."""

import http.client
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from tests.e2e.running_stack import RunningStack, wait_until


def leave_unanswered(
    stack: RunningStack,
    key: str,
    path: str,
    body: dict[str, Any],
    has_arrived: Callable[[], bool],
) -> None:
    """Ask, wait until a backend has the request, and close the connection."""
    address = urlsplit(stack.base_url)
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    connection = http.client.HTTPConnection(address.netloc, timeout=30)
    try:
        connection.request("POST", address.path + path, json.dumps(body), headers)
        wait_until(has_arrived, 30)
        assert has_arrived(), "no backend has it"
    finally:
        connection.close()

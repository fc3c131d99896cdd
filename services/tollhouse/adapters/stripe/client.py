"""The SDK's client, made so that it keeps to itself.

No retries of its own: an attempt is one call, noted before it is made. No telemetry:
with it the SDK writes an id into the home directory. No log lines: at level info it
logs Stripe's texts, at debug whole requests.
"""

import logging
from pathlib import Path
from urllib.parse import urlsplit

import stripe

from tollhouse.adapters.stripe.secret import Secret, read_api_key
from tollhouse.adapters.stripe.transport import Transport

TIMEOUT_SECONDS = 10.0

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Client:
    """A Stripe account, for the adapters of this package."""

    def __init__(
        self,
        key: Secret,
        *,
        url: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`url` stands for all of Stripe's; the time is that of one call, whole.

        Raises ValueError for a URL that would show the key to everybody on the way.
        """
        stripe.enable_telemetry = False
        for name in ("stripe", "httpx", "httpcore"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self.timeout_seconds = timeout_seconds
        self._transport = Transport(timeout_seconds)
        base = None if url is None else _checked(url)
        self.sdk = stripe.StripeClient(
            key.reveal(),
            base_addresses={} if base is None else {"api": base, "meter_events": base},
            http_client=self._transport,
            max_network_retries=0,
        )

    @classmethod
    def open(
        cls,
        key_file: Path,
        *,
        url: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> "Client":
        """Read the key and make the client. Raises SecretError, ValueError."""
        key = read_api_key(key_file)
        return cls(key, url=url, timeout_seconds=timeout_seconds)

    async def close(self) -> None:
        """Drop the connections; calls under way fail."""
        await self._transport.close_async()


def _checked(url: str) -> str:
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https"):
        raise ValueError(f"{url} is no URL of an API: use https://host[:port]")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the URL of the API has only a scheme, a host and a path")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise ValueError(f"{url} would show the API key on the network: use https://")
    return url.rstrip("/")

"""Where somebody listens, in the command line's and Envoy's terms, and asking there."""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Self

ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - compared with, not bound to
_HIGHEST_PORT = 65535
_ANSWER_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody listens: a Unix socket's path, or a host and a port."""

    path: str | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `unix:/path` or `host:port` (IPv6 in brackets). Raises ValueError."""
        if text.startswith("unix:"):
            return cls(path=text.removeprefix("unix:"))
        host, colon, port = text.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        if not colon or not host or not port.isascii() or not port.isdigit():
            raise ValueError(f"`{text}` is not HOST:PORT")
        if int(port) > _HIGHEST_PORT:
            raise ValueError(f"`{text}`: the port is above 65535")
        return cls(host=host, port=int(port))

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return (
            f"[{self.host}]:{self.port}"
            if ":" in self.host
            else f"{self.host}:{self.port}"
        )

    async def connect(
        self, tls: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a stream; TLS is for a host and port. Raises OSError."""
        if self.path is not None:
            return await asyncio.open_unix_connection(self.path)
        return await asyncio.open_connection(self.host, self.port, ssl=tls)

    async def ask(
        self,
        request: bytes,
        until: bytes | None = None,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> bytes:
        """Send a request; return the answer up to a separator or the end.

        Raises OSError, TimeoutError when it is not there within two seconds.
        """
        async with asyncio.timeout(_ANSWER_SECONDS):
            reader, writer = await self.connect(tls)
            try:
                writer.write(request)
                if until is None:
                    return await reader.read(-1)
                return await reader.readuntil(until)
            except asyncio.IncompleteReadError as error:
                raise ConnectionError(f"{self} closed the connection") from error
            finally:
                writer.close()

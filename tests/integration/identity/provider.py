"""An identity provider of a test: it signs tokens and publishes its keys."""

import asyncio
import base64
import contextlib
import functools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tollhouse.adapters.jwts import Jwts
from tollhouse.core.identity import parse_scopes
from tollhouse.core.issuer import Algorithm, Issuer, KeysAt, ScopesFrom, TenantFrom

IDENTIFIER = "https://id.example.com/realms/acme"
AUDIENCE = "tollhouse"
LOOK_SECONDS = 0.02
PATIENCE_SECONDS = 10.0
"""More than a busy machine needs to fetch keys."""


@functools.cache
def private_key(algorithm: str, which: str = "first") -> Any:
    """Make a key pair fit for an algorithm; the same for the same name."""
    assert which
    match algorithm[:2]:
        case "RS" | "PS":
            return rsa.generate_private_key(public_exponent=65537, key_size=2048)
        case "ES":
            curves = {
                "256": ec.SECP256R1(),
                "384": ec.SECP384R1(),
                "512": ec.SECP521R1(),
            }
            return ec.generate_private_key(curves[algorithm[2:]])
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """Write a key as a JWK; private where the key is."""
    kinds = {"RSA": "RS256", "EC": "ES256"}
    name = next((it for kind, it in kinds.items() if kind in type(key).__name__), "")
    found = jwt.get_algorithm_by_name(name or "EdDSA").to_jwk(key, as_dict=True)
    return {k: v for k, v in found.items() if k != "key_ops"} | members


def encode(part: bytes) -> str:
    """Write bytes in base64url."""
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def decode(part: str) -> bytes:
    """Read base64url."""
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def signed(
    header: dict[str, Any] | bytes,
    claims: dict[str, Any] | bytes,
    sign: Callable[[bytes], bytes],
) -> str:
    """Put a token together; bytes are taken as they are."""
    parts = [
        it if isinstance(it, bytes) else json.dumps(it).encode()
        for it in (header, claims)
    ]
    text = ".".join(map(encode, parts))
    return f"{text}.{encode(sign(text.encode()))}"


@dataclass
class Provider:
    """Signs with one key per algorithm, whose `kid` is the algorithm's name."""

    identifier: str = IDENTIFIER
    which: str = "first"
    published: list[dict[str, Any]] | None = None
    now: float = field(default_factory=time.time)

    def key(self, algorithm: str = "RS256") -> Any:
        """Return the private key."""
        return private_key(algorithm, self.which)

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Make good claims; a change to None leaves one out."""
        claims = {
            "iss": self.identifier,
            "aud": AUDIENCE,
            "sub": "user-1",
            "org": "acme",
            "scope": "chat:write models:read",
            "iat": int(self.now) - 10,
            "exp": int(self.now) + 3600,  # a run of all tests takes long
        } | changes
        return {name: it for name, it in claims.items() if it is not None}

    def token(
        self,
        algorithm: str = "RS256",
        *,
        header: dict[str, Any] | None = None,
        key: Any = None,
        signed_as: str = "",
        raw_header: bytes | None = None,
        raw_claims: bytes | None = None,
        **changes: Any,
    ) -> str:
        """Sign a token; a header's member None leaves it out."""
        members = {"alg": algorithm, "kid": algorithm, "typ": "JWT"} | (header or {})
        members = {name: it for name, it in members.items() if it is not None}
        signer = jwt.get_algorithm_by_name(signed_as or algorithm)
        key = key or self.key(signed_as or algorithm)
        return signed(
            members if raw_header is None else raw_header,
            self.claims(**changes) if raw_claims is None else raw_claims,
            lambda text: signer.sign(text, key),
        )

    def jwks(self, *algorithms: str, **members: Any) -> bytes:
        """Write the public keys of these algorithms as a JWK set."""
        keys = [
            jwk(self.key(it).public_key(), kid=it, use="sig", alg=it, **members)
            for it in algorithms or tuple(Algorithm)
        ]
        return json.dumps({"keys": self.published or keys}).encode()

    def issuer(self, keys: KeysAt, name: str = "acme", **changes: Any) -> Issuer:
        """Make the entry that trusts this provider."""
        values: dict[str, Any] = {
            "name": name,
            "identifier": self.identifier,
            "audiences": frozenset({AUDIENCE}),
            "keys": keys,
            "algorithms": frozenset(Algorithm),
            "leeway_seconds": 30.0,
            "tenant": TenantFrom(("org",)),
            "scopes": ScopesFrom(("scope",)),
        }
        return Issuer(**(values | changes))


FIXED_SCOPES = parse_scopes("chat:write")

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class KeyServer:
    """Serves a JWK set over HTTP on loopback, well or badly; counts who asks."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.status = "200 OK"
        self.headers = ""
        self.answer: Answer | None = None
        self.requests: list[bytes] = []
        self.tasks: set[Any] = set()
        self.uri = ""

    async def handle(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Answer one request."""
        self.tasks.add(asyncio.current_task())
        with contextlib.suppress(
            ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answer is not None:
                await self.answer(writer)
            else:
                writer.write(
                    f"HTTP/1.1 {self.status}\r\n{self.headers}connection: close\r\n"
                    f"content-length: {len(self.content)}\r\n\r\n".encode()
                    + self.content
                )
            await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def serving(content: bytes = b"", tls: Any = None) -> AsyncIterator[KeyServer]:
    """Run a key server."""
    server = KeyServer(content)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.uri = f"http{'s' if tls else ''}://127.0.0.1:{port}/jwks"
    try:
        yield server
    finally:
        listener.close()
        for task in server.tasks:
            task.cancel()
        await asyncio.gather(*server.tasks)


@dataclass
class Hands:
    """Two clocks that are set by hand: of the wall, and what times are measured by."""

    wall: float = field(default_factory=time.time)
    steady: float = 1000.0


@contextlib.asynccontextmanager
async def verifying(
    *issuers: Issuer,
    hands: Hands | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> AsyncIterator[Jwts]:
    """Trust issuers, with all that goes on behind the requests."""
    hands = hands or Hands()
    catalog = {it.name: it for it in issuers}
    tokens = Jwts(
        lambda: catalog,
        clock=lambda: hands.wall,
        monotonic=lambda: hands.steady,
        look_seconds=LOOK_SECONDS,
        patience_seconds=patience_seconds,
    )
    task = asyncio.create_task(tokens.run())
    try:
        yield tokens
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def key_file(folder: Path, content: bytes, name: str = "jwks.json") -> KeysAt:
    """Write a JWK set to a file."""
    path = folder / name
    path.write_bytes(content)
    return KeysAt(file=path)


async def until(look: Callable[[], Awaitable[Any]], expected: Any) -> None:
    """Wait until there is to see what is expected."""
    async with asyncio.timeout(30):
        while (seen := await look()) != expected:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert seen == expected


def keys_of(provider: Provider, kid: str, algorithm: str = "ES256") -> bytes:
    """Write a JWK set of one key, under a name."""
    public = provider.key(algorithm).public_key()
    return json.dumps({"keys": [jwk(public, kid=kid, use="sig")]}).encode()


def token_of(provider: Provider, kid: str) -> str:
    """Sign a token with that key."""
    return provider.token("ES256", header={"kid": kid})

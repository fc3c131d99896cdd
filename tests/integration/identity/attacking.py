"""Attacks on tokens as rows of a table, and what judges them."""

from collections.abc import Callable, Iterable
from typing import Any

from tests.integration.identity.provider import Provider, serving, verifying
from tollhouse.core.issuer import KeysAt

Build = Callable[[Provider, str], str]
"""Makes a token, from the provider attacked and the URI of the attacker's own keys."""


class Attacks:
    """Rows by name."""

    def __init__(self) -> None:
        self.rows: dict[str, Build] = {}

    def one(self, build: Build) -> Build:
        """Note a row, named as what makes it."""
        self.rows[build.__name__] = build
        return build

    def each(
        self, name: str, values: Iterable[Any], build: Callable[[Provider, Any], str]
    ) -> None:
        """Note a row per value."""
        for at, value in enumerate(values):
            self.rows[f"{name}[{at}]"] = _bound(build, value)

    async def passing(self) -> list[str]:
        """Try all; the names of those that pass.

        Beside each a good token must pass. Keys are fetched from our place, twice at
        most: at first, and for names of keys that the issuer does not have.
        """
        them, stranger = Provider(), Provider(which="stranger")
        passed = []
        async with serving(them.jwks()) as server, serving(stranger.jwks()) as evil:
            async with verifying(them.issuer(KeysAt(uri=server.uri))) as tokens:
                for name, build in self.rows.items():
                    if await tokens.identify(build(them, evil.uri)) is not None:
                        passed.append(name)
                    assert await tokens.identify(them.token()) is not None, name
            assert evil.requests == []
            assert len(server.requests) <= 2
        return passed


def _bound(build: Callable[[Provider, Any], str], value: Any) -> Build:
    return lambda them, _: build(them, value)

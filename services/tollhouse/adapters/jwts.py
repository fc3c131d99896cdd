"""JWTs of identity providers: is one good, and for whom does it speak.

The `iss` a token claims chooses the issuer, whose entry in tollhouse.yaml decides all
the rest. The token itself chooses nothing but among keys the issuer has published.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from tollhouse.core.assertion import Assertion, assertion_of
from tollhouse.core.issuer import Issuer
from tollhouse.core.jws import is_jwt, take_apart

if TYPE_CHECKING:
    from tollhouse.adapters.jwks import IssuerKeys

LOOK_SECONDS = 1.0
"""How often it is looked whether issuers have changed or their keys are due."""
PATIENCE_SECONDS = 0.4
"""How long a JWT waits for keys; Envoy waits 0.5 s for our answer."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Trusted:
    issuer: Issuer
    keys: "IssuerKeys"


class Jwts:
    """Verifies JWTs of the issuers there are now."""

    def __init__(
        self,
        issuers: Callable[[], Mapping[str, Issuer]],
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        look_seconds: float = LOOK_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`issuers` gives those of now, by name; a change is another mapping.

        `clock` gives Unix seconds, `monotonic` those that times are measured by.
        """
        self._issuers = issuers
        self._clock = clock
        self._monotonic = monotonic
        self._look_seconds = look_seconds
        self._patience_seconds = patience_seconds
        self._seen = issuers()
        self._trusted: dict[str, _Trusted] = {}
        self._take(self._seen)

    @property
    def issuers(self) -> Mapping[str, Issuer]:
        """Those trusted now; the same mapping until they change."""
        return self._seen

    def may_be_jwt(self, bearer: str) -> bool:
        """Whether a bearer credential is worth a look; costs nothing."""
        return bool(self._trusted) and is_jwt(bearer)

    async def identify(self, token: str) -> Assertion | None:
        """Who a token speaks for, None for one that is not good, whatever the reason.

        Raises Unavailable where that can't be told: the issuer is one of ours, and the
        keys can't be had that would decide. Waits for them for `patience_seconds`.
        """
        try:
            return await self._verify(token)
        except ValueError as error:
            _log.debug("jwt.refused", reason=str(error))
            return None

    async def run(self) -> None:
        """Keep keys and issuers fresh until cancelled; never returns."""
        try:
            while True:
                for it in self._trusted.values():
                    it.keys.refresh_if_due()
                await asyncio.sleep(self._look_seconds)
                issuers = self._issuers()
                # Each reading of a configuration makes new ones, mostly the same.
                if issuers != self._seen:
                    if issuers:
                        await asyncio.to_thread(_keys_class)
                    not_needed = self._take(issuers)
                    # Not before they are trusted: what others let pass on the word of
                    # those before them is looked at again from then on.
                    self._seen = issuers
                    for left in not_needed:
                        await left.close()
        finally:
            for it in self._trusted.values():
                await it.keys.close()

    async def _verify(self, token: str) -> Assertion:
        unverified = take_apart(token)
        trusted = self._trusted.get(unverified.issuer)
        if trusted is None:
            raise ValueError("claim iss is none of ours")
        issuer = trusted.issuer
        if unverified.algorithm not in issuer.algorithms:
            raise ValueError(f"alg is not one of issuer {issuer.name}")
        key = await trusted.keys.find(unverified.key_id, unverified.algorithm)
        if key is None:
            raise ValueError(f"no key of issuer {issuer.name} has the kid and fits")
        if not key.has_signed(token):
            raise ValueError(f"the signature is not one of issuer {issuer.name}")
        return assertion_of(issuer, unverified.claims, self._clock())

    def _take(self, issuers: Mapping[str, Issuer]) -> "list[IssuerKeys]":
        """Trust these from now on; keys stay while their place does.

        Returns what is not needed any more.
        """
        before = {it.issuer.name: it.keys for it in self._trusted.values()}
        trusted = {}
        for name, issuer in issuers.items():
            keys = before.get(name)
            if keys is None or keys.place != issuer.keys:
                keys = _keys_class()(
                    name,
                    issuer.keys,
                    patience_seconds=self._patience_seconds,
                    clock=self._monotonic,
                )
            trusted[issuer.identifier] = _Trusted(issuer, keys)
        self._trusted = trusted
        kept = {id(it.keys) for it in trusted.values()}
        return [keys for keys in before.values() if id(keys) not in kept]


def _keys_class() -> "type[IssuerKeys]":
    # Dear to import, 36 MB and 0.3 s, and most gateways have no issuers.
    from tollhouse.adapters.jwks import IssuerKeys  # noqa: PLC0415

    return IssuerKeys

"""Issuers: identity providers whose tokens open the gateway, and how these are read."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from tollhouse.core.identity import Scope

Claim = tuple[str, ...]
"""Where a value is: names from the outermost object inwards."""


class Algorithm(StrEnum):
    """How a token may be signed (RFC 7518 §3.1, RFC 8037): with a key pair, always.

    A secret shared with the issuer would let us make tokens, and `none` everybody.
    """

    RS256 = "RS256"
    RS384 = "RS384"
    RS512 = "RS512"
    PS256 = "PS256"
    PS384 = "PS384"
    PS512 = "PS512"
    ES256 = "ES256"
    ES384 = "ES384"
    ES512 = "ES512"
    EDDSA = "EdDSA"


DEFAULT_ALGORITHMS: Final = (Algorithm.RS256, Algorithm.ES256)
DEFAULT_LEEWAY_SECONDS: Final = 30
LONGEST_LEEWAY_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class KeysAt:
    """Where an issuer's public keys are: a URI or a file, never both.

    `ca_file` has the authorities to trust for the URI, None: the usual ones.
    """

    uri: str | None = None
    file: Path | None = None
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class TenantFrom:
    """The tenant stands in a claim; `names` turns values into tenants, if any."""

    claim: Claim
    names: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class ScopesFrom:
    """The scopes stand in a claim, as space-separated text or a list of texts.

    What does not begin with `prefix` is not meant for us; the prefix is taken off.
    `grants` turns values into scopes; without it they are scopes already.
    """

    claim: Claim
    prefix: str = ""
    grants: Mapping[str, tuple[Scope, ...]] | None = None


@dataclass(frozen=True, slots=True)
class PlanFrom:
    """The plan stands in a claim, which may name one of these."""

    claim: Claim
    allowed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Issuer:
    """An identity provider.

    `identifier` is what its tokens have as `iss`; they must be meant for one of
    `audiences`. A tenant or scopes that are the same for all tokens stand here
    themselves; without `plan` the tenant's counts.
    """

    name: str
    identifier: str
    audiences: frozenset[str]
    keys: KeysAt
    algorithms: frozenset[Algorithm]
    leeway_seconds: float
    tenant: TenantFrom | str
    scopes: ScopesFrom | tuple[Scope, ...]
    plan: PlanFrom | None = None

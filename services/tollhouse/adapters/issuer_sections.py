"""The `issuers` of tollhouse.yaml: whose tokens open the gateway, and as whom."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tollhouse.adapters.sections import Name, Section, found
from tollhouse.core.identity import Scope, check_scopes, check_tenant, parse_scopes
from tollhouse.core.issuer import (
    DEFAULT_ALGORITHMS,
    DEFAULT_LEEWAY_SECONDS,
    LONGEST_LEEWAY_SECONDS,
    Algorithm,
    Claim,
    Issuer,
    KeysAt,
    PlanFrom,
    ScopesFrom,
    TenantFrom,
)


def _listed(value: Any) -> Any:
    """Take one text for a list of one."""
    return [value] if isinstance(value, str) else value


def _algorithm(value: Any) -> Any:
    known = ", ".join(Algorithm)
    if isinstance(value, str) and value not in tuple(Algorithm):
        raise ValueError(f"use {known}; what needs no key pair is never accepted")
    return value


def _scopes(value: list[str]) -> list[str]:
    return check_scopes(value).split()


Text = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[!-~]+$")]
Texts = Annotated[list[Text], BeforeValidator(_listed), Field(min_length=1)]
# A name may have dots and slashes in it: a path is a list.
ClaimPath = Annotated[
    list[Annotated[str, Field(min_length=1)]],
    BeforeValidator(_listed),
    Field(min_length=1, max_length=8),
]
Tenant = Annotated[str, AfterValidator(check_tenant)]
Scopes = Annotated[list[str], BeforeValidator(_listed), AfterValidator(_scopes)]


class TenantSection(Section):
    """Whom a token is billed to: by a claim, or always the same."""

    claim: ClaimPath | None = None
    map: dict[str, Tenant] | None = None
    name: Tenant | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "TenantSection":
        if (self.claim is None) == (self.name is None):
            raise ValueError("set claim, or name for the same tenant always")
        if self.map is not None and self.claim is None:
            raise ValueError("map turns values of a claim into tenants; set claim")
        return self

    def tenant(self) -> TenantFrom | str:
        """As a value."""
        if self.name is not None:
            return self.name
        return TenantFrom(_path(self.claim), self.map)


class ScopesSection(Section):
    """What a token allows: by a claim, or always the same."""

    claim: ClaimPath | None = None
    prefix: str | None = None
    map: dict[str, Scopes] | None = None
    grant: Scopes | None = None

    @model_validator(mode="after")
    def _one_way(self) -> "ScopesSection":
        if (self.claim is None) == (self.grant is None):
            raise ValueError("set claim, or grant for the same scopes always")
        if self.claim is None and (self.map is not None or self.prefix is not None):
            raise ValueError("map and prefix are about values of a claim; set claim")
        return self

    def scopes(self) -> ScopesFrom | tuple[Scope, ...]:
        """As a value."""
        if self.grant is not None:
            return _to_scopes(self.grant)
        grants = None
        if self.map is not None:
            grants = {value: _to_scopes(it) for value, it in self.map.items()}
        return ScopesFrom(_path(self.claim), self.prefix or "", grants)


class TokenPlanSection(Section):
    """The plan of a token where it is not the tenant's."""

    claim: ClaimPath
    allowed: Annotated[list[Name], BeforeValidator(_listed), Field(min_length=1)]

    def plan(self) -> PlanFrom:
        """As a value."""
        return PlanFrom(_path(self.claim), frozenset(self.allowed))


class IssuerSection(Section):
    """One identity provider."""

    issuer: Text
    audiences: Texts
    jwks_uri: str | None = None
    jwks_file: Path | None = None
    jwks_ca_file: Path | None = None
    algorithms: Annotated[
        tuple[Annotated[Algorithm, BeforeValidator(_algorithm)], ...],
        BeforeValidator(_listed),
        Field(min_length=1),
    ] = DEFAULT_ALGORITHMS
    leeway_seconds: Annotated[
        float, Field(ge=0, le=LONGEST_LEEWAY_SECONDS, strict=True)
    ] = DEFAULT_LEEWAY_SECONDS
    tenant: TenantSection
    scopes: ScopesSection
    plan: TokenPlanSection | None = None

    @field_validator("jwks_uri")
    @classmethod
    def _is_safe(cls, uri: str | None) -> str | None:
        if uri is not None and not _is_safe_uri(uri):
            raise ValueError(
                "use https://host/path, without a user; http:// only on this machine "
                "itself: who can change the keys on their way can make tokens"
            )
        return uri

    @field_validator("jwks_file")
    @classmethod
    def _has_keys(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return found(path, info, "the issuer's JWK set")

    @field_validator("jwks_ca_file")
    @classmethod
    def _has_authorities(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return found(path, info, "the authorities of jwks_uri in PEM")

    @model_validator(mode="after")
    def _one_place(self) -> "IssuerSection":
        if (self.jwks_uri is None) == (self.jwks_file is None):
            raise ValueError("set jwks_uri or jwks_file: where the issuer's keys are")
        if self.jwks_ca_file is not None and not (self.jwks_uri or "").startswith(
            "https:"
        ):
            raise ValueError("jwks_ca_file is for a jwks_uri with https://")
        return self

    def issuer_of(self, name: str) -> Issuer:
        """As a value."""
        return Issuer(
            name=name,
            identifier=self.issuer,
            audiences=frozenset(self.audiences),
            keys=KeysAt(self.jwks_uri, self.jwks_file, self.jwks_ca_file),
            algorithms=frozenset(self.algorithms),
            leeway_seconds=self.leeway_seconds,
            tenant=self.tenant.tenant(),
            scopes=self.scopes.scopes(),
            plan=None if self.plan is None else self.plan.plan(),
        )


def _path(claim: list[str] | None) -> Claim:
    return tuple(claim or ())


def _to_scopes(scopes: list[str]) -> tuple[Scope, ...]:
    return parse_scopes(" ".join(scopes))


def _is_safe_uri(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment or not uri.isascii():
        return False
    if any(it <= " " for it in uri):
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_own(host))


def _is_own(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

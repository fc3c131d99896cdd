"""Headers that a request must lose before anything looks at it: others' words.

A backend, or Envoy itself, may take them for those of a proxy in front of us. What a
file removes is tried with names that the attack table sends (docs/security.md), so it
may be worded in any way. A pattern that only RE2 can read counts for nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import (
    v3 as hcm,
)
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import (  # noqa: E501
    v3 as early,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher

_CLAIMS: Final[Mapping[str, Sequence[str]]] = {
    "are orders to Envoy": (
        *("x-envoy-upstream-rq-timeout-ms", "x-envoy-retry-on", "x-envoy-max-retries"),
        *("x-envoy-original-path", "x-envoy-internal", "x-envoy-decorator-operation"),
        *("x-envoy-peer-metadata", "x-envoy-external-address"),
    ),
    "name a user to a backend": (
        *("x-forwarded-user", "x-forwarded-email", "x-forwarded-groups"),
        *("x-forwarded-preferred-username", "x-auth-request-user", "x-remote-user"),
        *("remote-user", "x-webauth-user", "x-authenticated-userid", "x-user-id"),
        *("x-tenant-id", "x-consumer-username", "x-credential-identifier"),
        *("x-goog-authenticated-user-email", "x-amzn-oidc-identity"),
        *("x-ms-client-principal", "cf-access-jwt-assertion", "impersonate-user"),
        *("x-user", "x-username", "x-tenant", "x-authorization", "x-id-token"),
        "ssl-client-cert",
    ),
    "name an address to a backend": (
        *("x-cluster-client-ip", "x-originating-ip", "x-original-forwarded-for"),
        *("x-remote-addr", "fastly-client-ip", "x-forwarded-port"),
        "x-forwarded-client-ip",
    ),
    "name another path, host or method to a backend": (
        *("x-original-url", "x-rewrite-url", "x-forwarded-prefix", "x-forwarded-uri"),
        *("x-host", "x-forwarded-server", "x-http-method-override"),
        "x-method-override",
    ),
    "bring other services' credentials to a backend": (
        *("x-goog-api-key", "x-amz-security-token", "x-litellm-api-key"),
        *("x-auth-token", "x-access-token", "ocp-apim-subscription-key"),
        *("x-forwarded-access-token", "xi-api-key", "xai-api-key"),
    ),
    "name a trace, or whose it is, to later services": (
        *("baggage", "b3", "x-b3-traceid", "x-b3-sampled"),
    ),
}
"""What a client's own headers would do, and names of such headers."""


def findings(path: str, manager: hcm.HttpConnectionManager) -> Iterator[str]:
    """Yield what clients may claim at a connection manager; `path` is its place."""
    mutations = _mutations(manager)
    for what, names in _CLAIMS.items():
        if kept := [name for name in names if not _is_removed(mutations, name)]:
            yield (
                f"{path}.early_header_mutation_extensions: clients' own"
                f" {', '.join(kept)} {what}; remove them, as the repository's"
                " envoy.yaml does"
            )


def is_removed(manager: hcm.HttpConnectionManager, name: str) -> bool:
    """Whether a client's header is gone before routing; `name` is in lower case."""
    return _is_removed(_mutations(manager), name)


def _mutations(manager: hcm.HttpConnectionManager) -> list[HeaderMutation]:
    return [
        mutation
        for extension in manager.early_header_mutation_extensions
        if extension.typed_config
        and isinstance(it := extension.typed_config.unpack(), early.HeaderMutation)
        for mutation in it.mutations
    ]


def _is_removed(mutations: Sequence[HeaderMutation], name: str) -> bool:
    return any(_removes(it, name) for it in mutations)


def _removes(mutation: HeaderMutation, name: str) -> bool:
    if mutation.remove_on_match is None:
        return (mutation.remove or "").lower() == name
    matcher = mutation.remove_on_match.key_matcher
    return matcher is not None and _matches(matcher, name)


def _matches(matcher: StringMatcher, name: str) -> bool:
    """As Envoy does, to which names of headers are in lower case."""

    def said(text: str) -> str:
        return text.lower() if matcher.ignore_case else text

    match matcher:
        case StringMatcher(exact=str(text)):
            return name == said(text)
        case StringMatcher(prefix=str(text)):
            return name.startswith(said(text))
        case StringMatcher(suffix=str(text)):
            return name.endswith(said(text))
        case StringMatcher(contains=str(text)):
            return said(text) in name
    try:
        return matcher.safe_regex is not None and bool(
            re.fullmatch(matcher.safe_regex.regex, name)
        )
    except re.error:
        return False

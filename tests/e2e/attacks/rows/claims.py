"""Headers by which other proxies vouch: a backend might believe them."""

from tests.e2e.attacks import words
from tests.e2e.attacks.http1 import ask
from tests.e2e.attacks.row import PASSES, rows
from tests.e2e.attacks.rows.bodies import is_chat

_CLAIMS = [
    (
        46,
        "identities that other proxies vouch for",
        *("x-forwarded-user", "x-forwarded-email", "x-forwarded-groups"),
        *("x-forwarded-preferred-username", "x-auth-request-user", "x-remote-user"),
        *("remote-user", "x-webauth-user", "x-authenticated-userid", "x-user-id"),
        *("x-tenant-id", "x-consumer-username", "x-credential-identifier"),
        *("x-goog-authenticated-user-email", "x-amzn-oidc-identity"),
        *("x-ms-client-principal", "cf-access-jwt-assertion", "impersonate-user"),
        *("x-user", "x-username", "x-tenant", "x-authorization", "x-id-token"),
        "ssl-client-cert",
    ),
    (
        47,
        "addresses as other proxies say them",
        *("x-cluster-client-ip", "x-originating-ip", "x-original-forwarded-for"),
        *("x-remote-addr", "fastly-client-ip", "x-forwarded-port"),
        "x-forwarded-client-ip",
    ),
    (
        48,
        "another path, host or method for the backend to take",
        *("x-original-url", "x-rewrite-url", "x-forwarded-prefix", "x-forwarded-uri"),
        *("x-host", "x-forwarded-server", "x-http-method-override"),
        "x-method-override",
    ),
    (
        49,
        "credentials of other services",
        *("x-goog-api-key", "x-amz-security-token", "x-litellm-api-key"),
        *("x-auth-token", "x-access-token", "ocp-apim-subscription-key"),
        *("x-forwarded-access-token", "xi-api-key", "xai-api-key"),
    ),
]

ROWS = rows(
    "header",
    [
        (
            at,
            what,
            "early_header_mutation removes what other proxies vouch for",
            ask(words.CHAT, *(f"{name}: evil" for name in names)),
            PASSES,
            is_chat,
        )
        for at, what, *names in _CLAIMS
    ],
)

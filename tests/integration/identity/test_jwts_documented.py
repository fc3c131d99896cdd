"""docs/identity.md: its examples do what they say."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.identity.provider import verifying
from tollhouse.adapters.configuration import load
from tollhouse.cli.__main__ import main
from tollhouse.core.assertion import assertion_of
from tollhouse.core.identity import parse_scopes

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs/identity.md").read_text()
EXAMPLES = [
    it for it in re.findall(r"(?s)```yaml\n(.*?)```", TEXT) if it.startswith("issuers:")
]
(SCRIPT,) = re.findall(r"(?s)```python\n(.*?)```", TEXT)
NOW = 1_800_000_000
TOKENS: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "keycloak": (
        {
            "iss": "https://id.example.com/realms/acme",
            "aud": ["tollhouse", "account"],
            "typ": "Bearer",
            "org": "acme",
            "scope": "openid email profile",
            "realm_access": {"roles": ["offline_access", "chat-user"]},
        },
        ("acme", "chat:write completions:write models:read"),
    ),
    "auth0": (
        {
            "iss": "https://example.eu.auth0.com/",
            "aud": ["https://llm.example.com", "https://example.eu.auth0.com/userinfo"],
            "org_id": "org_9ybsU1dN2dKfDkBi",
            "scope": "openid",
            "permissions": ["read:users", "tollhouse/chat:write"],
        },
        ("acme", "chat:write"),
    ),
    "cluster": (
        {
            "iss": "https://kubernetes.default.svc.cluster.local",
            "aud": ["tollhouse"],
            "sub": "system:serviceaccount:team-a:batch",
            "nbf": NOW - 5,
            "kubernetes.io": {"namespace": "team-a", "pod": {"name": "x"}},
        },
        ("team-a", "chat:write models:read"),
    ),
}


@pytest.fixture
def written(tmp_path):
    """Write tollhouse.yaml with an example; the name of its issuer, and the path."""

    def write(example):
        (tmp_path / "jwks.json").touch()
        whole = yaml.safe_load((ROOT / "tollhouse.yaml").read_text())
        path = tmp_path / "tollhouse.yaml"
        path.write_text(yaml.safe_dump(whole | yaml.safe_load(example)))
        (name,) = yaml.safe_load(example)["issuers"]
        return name, path

    return write


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_right(written, example, capsys):
    """For check-config, and for a token as the provider writes it."""
    name, path = written(example)
    assert main(["check-config", "--config", str(path)]) == 0
    assert "fine" in capsys.readouterr().out
    if name == "me":
        return
    claims, (tenant, scopes) = TOKENS[name]
    issuer = load(path).catalog().issuers[name]
    found = assertion_of(issuer, {"sub": "x", "exp": NOW + 60, **claims}, NOW)
    assert (found.tenant, found.scopes) == (tenant, parse_scopes(scopes))


def test_all_are_there():
    assert len(EXAMPLES) == len(TOKENS) + 1


@pytest.fixture
def printed(tmp_path):
    """Run the script beside tollhouse.yaml; what it prints."""
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ran.stdout.strip()


async def test_to_be_a_provider(printed, tmp_path):
    """The script's token passes under the entry below it."""
    path = tmp_path / "tollhouse.yaml"
    path.write_text((ROOT / "tollhouse.yaml").read_text() + EXAMPLES[-1])
    async with verifying(*load(path).catalog().issuers.values()) as tokens:
        found = await tokens.identify(printed)
    assert found is not None
    assert found.tenant == "demo"
    assert found.scopes == parse_scopes("chat:write models:read")

"""envoy.yaml is read whole, filled in typed, and nothing of it is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tollhouse.adapters.address import Address
from tollhouse.cli.bootstrap import (
    BootstrapError,
    Edge,
    read_bootstrap,
    render_bootstrap,
)
from tollhouse.cli.envoy_tls import Tls
from tollhouse.cli.places import default_envoy
from tollhouse.core.catalog import Telemetry, Traceparent

ENVOY = default_envoy()
FRONTEND = Address(path="/run/frontend.sock")


def edge(**changes) -> Edge:
    values: dict[str, Any] = {
        "listen": Address(host="127.0.0.1", port=12345),
        "admin": Address(host="127.0.0.1", port=12346),
        "clusters": {
            "authz": [Address(path="/run/authz.sock")],
            "extproc": [Address(path=f"/run/extproc-{it}.sock") for it in range(3)],
            "tiny-chat": [FRONTEND],
        },
        "proof": "the-proof",
        "ledger": Path("/state/ledger.jsonl"),
        "meter": Path("/etc/meter.lua"),
    }
    return Edge(**(values | changes))


def rendered(**changes) -> Any:
    return json.loads(render_bootstrap(ENVOY, edge(**changes)))


def manager(bootstrap: Any) -> Any:
    [listener] = bootstrap["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def cluster(bootstrap: Any, name: str) -> Any:
    clusters = bootstrap["static_resources"]["clusters"]
    [found] = [it for it in clusters if it["name"] == name]
    return found


def endpoints(found: Any) -> Any:
    return [
        endpoint["endpoint"]["address"]
        for locality in found["load_assignment"]["endpoints"]
        for endpoint in locality["lb_endpoints"]
    ]


def test_every_placeholder_gets_its_value():
    """No placeholder reaches Envoy: a constant proof would be an open door."""
    text = render_bootstrap(ENVOY, edge())
    bootstrap = json.loads(text)

    assert "ADMISSION_PROOF" not in text
    assert text.count('"the-proof"') == ENVOY.read_text().count(
        "exact: ADMISSION_PROOF"
    )
    assert {"address": "127.0.0.1", "port_value": 12346} == bootstrap["admin"][
        "address"
    ]["socket_address"]
    assert ["/state/ledger.jsonl", "/dev/stdout"] == log_paths(bootstrap)
    assert '"/etc/meter.lua"' in text
    assert '"/etc/answers.lua"' in text
    assert '"/etc/tries.lua"' in text


def log_paths(bootstrap: Any) -> list[str]:
    logs = manager(bootstrap)["access_log"]
    return [it["typed_config"]["path"] for it in logs]


def test_the_log_of_requests_may_be_a_file():
    """In a pod it is what the container says; `up` keeps it beside the others."""
    bootstrap = rendered(request_log=Path("/state/logs/access.log"))

    assert ["/state/ledger.jsonl", "/state/logs/access.log"] == log_paths(bootstrap)


def test_each_extproc_process_is_an_endpoint():
    """Envoy balances over processes, not over sockets shared by them."""
    found = endpoints(cluster(rendered(), "extproc"))

    assert [{"pipe": {"path": f"/run/extproc-{it}.sock"}} for it in range(3)] == found


def test_clusters_that_are_not_ours_keep_their_endpoints():
    """`up` fills in what it starts, and leaves an operator's backends alone."""
    clusters = {
        name: addresses
        for name, addresses in edge().clusters.items()
        if name != "tiny-chat"
    }
    found = endpoints(cluster(rendered(clusters=clusters), "tiny-chat"))

    assert [{"socket_address": {"address": "127.0.0.1", "port_value": 8000}}] == found


def test_rendering_changes_nothing_else():
    """What a typed round trip drops is a default, and `5xx` keeps its name."""
    bootstrap = rendered(telemetry=Telemetry())
    assert bootstrap["static_resources"]["listeners"][0].pop("enable_reuse_port")

    assert [] == sorted(lost(yaml.safe_load(ENVOY.read_text()), bootstrap))


DEFAULTS: tuple[Any, ...] = (
    False,
    0,
    [],
    "AUTO",
    "NONE",
    "EQ",
    "ROUND_ROBIN",
    "SERVICE_UNAVAILABLE",
)


def lost(before, after, path=""):
    """Yield the paths of values that are in one tree and not in the other."""
    match before, after:
        case dict(), dict():
            for key in before.keys() | after.keys():
                place = f"{path}.{key}"
                if key in before and key in after:
                    yield from lost(before[key], after[key], place)
                elif key not in before or before[key] not in DEFAULTS:
                    yield from () if is_filled(place) else (place,)
        case list(), list() if len(before) == len(after):
            for index, pair in enumerate(zip(before, after, strict=True)):
                yield from lost(*pair, f"{path}[{index}]")
        case _:
            same = before == after or str(before) == str(after)
            if not (same or seconds(before) == seconds(after)) and not is_filled(path):
                yield path


def is_filled(path: str) -> bool:
    names = ("address", "path", "filename", "exact", "endpoints")
    return any(f".{name}" in path for name in names)


def seconds(value) -> float | None:
    try:
        return float(str(value).removesuffix("s"))
    except ValueError:
        return None


@pytest.mark.parametrize("policy", Traceparent)
def test_traces_are_kept_as_said(policy):
    """Who may begin them, and how many leave; without a word, none."""
    bootstrap = rendered(telemetry=Telemetry(policy, 0.25))
    [early] = manager(bootstrap)["early_header_mutation_extensions"]
    removed = {it.get("remove") for it in early["typed_config"]["mutations"]}

    assert manager(bootstrap)["tracing"]["random_sampling"] == {"value": 25.0}
    assert ("traceparent" in removed) is (policy is Traceparent.RESTART)
    assert {"b3", "baggage", "x-client-trace-id"} <= removed
    assert manager(rendered())["tracing"]["random_sampling"] == {}


def test_a_backend_behind_tls_is_verified():
    """Envoy trusts any certificate unless told whom to ask."""
    backend = Address(host="llm.example.test", port=443)
    bootstrap = rendered(
        clusters=dict(edge().clusters) | {"tiny-chat": [backend]},
        tls={"tiny-chat": Tls("llm.example.test", Path("/etc/ca.pem"))},
        host="llm.example.test",
    )
    found = cluster(bootstrap, "tiny-chat")
    tls = found["transport_socket"]["typed_config"]

    assert found["type"] == "STRICT_DNS"
    assert tls["sni"] == "llm.example.test"
    assert tls["auto_sni_san_validation"]
    trusted = tls["common_tls_context"]["validation_context"]["trusted_ca"]
    assert {"filename": "/etc/ca.pem"} == trusted
    [host] = manager(bootstrap)["route_config"]["virtual_hosts"]
    rewritten = [
        route["route"].get("host_rewrite_literal")
        for route in host["routes"]
        if "route" in route
    ]
    assert set(rewritten) == {"llm.example.test"}


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1", ["localhost", "127.0.0.1", "[::1]"]),
        ("192.0.2.7", ["localhost", "127.0.0.1", "[::1]", "192.0.2.7"]),
        ("2001:db8::7", ["localhost", "127.0.0.1", "[::1]", "[2001:db8::7]"]),
        ("0.0.0.0", ["*"]),  # noqa: S104
    ],
)
def test_clients_may_use_the_name_we_listen_on(listen, expected):
    """Any other host is answered 404 before a filter runs."""
    bootstrap = rendered(listen=Address(host=listen, port=1))
    [host] = manager(bootstrap)["route_config"]["virtual_hosts"]

    assert expected == host["domains"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("meter.lua", "metre.lua", "has no `meter.lua`"),
        ("answers.lua", "faults.lua", "has no `answers.lua`"),
        ("ADMISSION_PROOF", "constant", "has no `ADMISSION_PROOF`"),
        ("ledger.jsonl", "/dev/stdout", "has no `ledger.jsonl`"),
        ("name: extproc", "name: processor", "has no cluster `extproc`"),
    ],
)
def test_a_value_without_a_place_is_an_error(tmp_path, old, new, fault):
    """Otherwise the stack would run with a value nobody uses."""
    changed = tmp_path / "envoy.yaml"
    changed.write_text(ENVOY.read_text().replace(old, new))

    with pytest.raises(BootstrapError, match=fault):
        render_bootstrap(changed, edge())


def test_every_fault_is_named_with_its_place(tmp_path):
    """An operator edits once, not once for each fault."""
    changed = tmp_path / "envoy.yaml"
    changed.write_text(
        ENVOY.read_text()
        .replace("max_request_bytes:", "max_request_byte:")
        .replace("drain_timeout: 30s", "drain_timeout: 30 s")
        .replace("lb_policy: LEAST_REQUEST", "lb_policy: LEAST_REQUESTS")
        .replace("filters.http.lua.v3.Lua\n", "filters.http.lua.v3.Luna\n")
        .replace("connect_timeout: 1s", "connect_timeout: [1]")
    )

    with pytest.raises(BootstrapError) as failure:
        read_bootstrap(changed)

    at = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config"
    typo = "Buffer has no such field; did you mean `max_request_bytes`?"
    expected = {
        f"{at}.drain_timeout: Invalid duration string",
        f"{at}.http_filters[0].typed_config.max_request_byte: {typo}",
        f"{at}.http_filters[1].typed_config.@type: there is no type",
        "static_resources.clusters[3].lb_policy: Unknown value LEAST_REQUESTS",
        "static_resources.clusters[3].connect_timeout: ",
    }
    lines = str(failure.value).splitlines()
    found = {
        fault for fault in expected for line in lines if f"{changed}: {fault}" in line
    }
    assert expected == found
    assert all(line.startswith(f"{changed}: static_resources.") for line in lines)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [", "envoy.yaml:1: "),
        ("- 1", "is not a mapping"),
        ("admin: 1", "admin: should be a mapping"),
        ("static_resources: {clusters: {}}", "clusters: should be a list"),
        ("node: {id: 7}", "node: id: Input should be a valid string"),
    ],
)
def test_what_is_no_bootstrap_is_refused(tmp_path, text, fault):
    """One line instead of a traceback."""
    path = tmp_path / "envoy.yaml"
    path.write_text(text)

    with pytest.raises(BootstrapError, match=fault):
        read_bootstrap(path)


def test_a_missing_file_is_named(tmp_path):
    """The path is the remedy."""
    with pytest.raises(BootstrapError, match=r"none\.yaml: No such file"):
        read_bootstrap(tmp_path / "none.yaml")

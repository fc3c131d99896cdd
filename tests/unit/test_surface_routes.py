"""Envoy's routes and the table of paths have the same, and nothing goes past either."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.core.problems import Dialect
from tollhouse.core.surface import ENDPOINTS, Endpoint, find

_FILE = Path(__file__).parents[2] / "envoy" / "envoy.yaml"
_PROOF = "x-tollhouse-admitted"
_METHODS = ("GET", "POST", "DELETE")
Route = dict[str, Any]


def _manager() -> dict[str, Any]:
    bootstrap = yaml.safe_load(_FILE.read_text())
    (listener,) = bootstrap["static_resources"]["listeners"]
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


MANAGER = _manager()
ROUTES: list[Route] = MANAGER["route_config"]["virtual_hosts"][0]["routes"]


def _filters(route: Route) -> Route:
    found: Route = route.get("typed_per_filter_config", {})
    return found


def _is_backends(route: Route) -> bool:
    return "route" in route


def _is_admission(route: Route) -> bool:
    """Whether extproc judges what comes here, of clients that authz knows."""
    filters = _filters(route)
    judge = filters.get("envoy.filters.http.ext_proc", {"disabled": True})
    return "disabled" not in judge and "envoy.filters.http.ext_authz" not in filters


def _matches(match: Route, path: str, headers: dict[str, str]) -> bool:
    """As Envoy does. Raises KeyError for a kind of match that the file did not have."""
    kinds = {
        "path": lambda it: path == it,
        "prefix": path.startswith,
        "safe_regex": lambda it: re.fullmatch(it["regex"], path),
        "connect_matcher": lambda _: headers[":method"] == "CONNECT",
        "grpc": lambda _: headers.get("content-type") == "application/grpc",
        "headers": lambda all_: all(_matches_header(it, headers) for it in all_),
    }
    return all(kinds[kind](value) for kind, value in match.items())


def _matches_header(matcher: Route, headers: dict[str, str]) -> bool:
    value = headers.get(matcher["name"])
    if "range_match" in matcher or "present_match" in matcher:
        assert matcher["name"] in ("content-length", "content-encoding")
        return value is not None
    is_equal = value == matcher["string_match"]["exact"]
    return is_equal is not matcher.get("invert_match", False)


def _route(method: str, path: str, dialect: Dialect, *, proof: bool = False) -> Route:
    """The first that takes such a request."""
    headers = {":method": method}
    if proof:
        headers[_PROOF] = "ADMISSION_PROOF"
    if dialect is Dialect.GRPC:
        headers["content-type"] = "application/grpc"
    return next(it for it in ROUTES if _matches(it["match"], path, headers))


def _pattern(match: Route) -> re.Pattern[str]:
    """Of the paths it takes; ASCII, and without a query string."""
    if "safe_regex" in match:
        pattern = match["safe_regex"]["regex"]
    elif "prefix" in match:
        pattern = re.escape(match["prefix"]) + "[a-z0-9./-]{1,9}"
    else:
        pattern = re.escape(match["path"])
    return re.compile(pattern, re.ASCII)


def _path(endpoint: Endpoint) -> str:
    return endpoint.path.format(model="tiny-chat", version="1")


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda it: f"{it.method} {it.path}")
def test_the_edge_has_every_endpoint(endpoint: Endpoint):
    """It is judged first, and reaches a backend with the proof, if it has to."""
    method, path, dialect = endpoint.method, _path(endpoint), endpoint.dialect
    before = _route(method, path, dialect)
    after = _route(method, path, dialect, proof=True)

    assert _is_admission(before)
    assert not _is_backends(before)
    assert _is_backends(after) or endpoint.operation is None


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda it: f"{it.method} {it.path}")
def test_other_methods_ask_nobody(endpoint: Endpoint):
    """Envoy answers a method that a path has not."""
    for method in _METHODS:
        if find(method, _path(endpoint)) is None and endpoint.dialect != Dialect.GRPC:
            route = _route(method, _path(endpoint), endpoint.dialect)
            assert not _is_admission(route)
            assert "direct_response" in route


BACKENDS = [it for it in ROUTES if _is_backends(it)]
SERVING = BACKENDS + [it for it in ROUTES if _is_admission(it)]


@pytest.mark.parametrize("route", SERVING, ids=lambda it: it["name"])
@given(data=st.data())
def test_the_table_has_whatever_a_route_takes(route: Route, data: st.DataObject):
    """Of a pattern, too: all that it lets in."""
    path = data.draw(st.from_regex(_pattern(route["match"]), fullmatch=True))

    assert any(find(method, path) for method in _METHODS)


@pytest.mark.parametrize("route", BACKENDS, ids=lambda it: it["name"])
def test_whoever_reaches_a_backend_was_admitted(route: Route):
    """And is metered; what makes a model work is in the ledger, too."""
    proof = {"name": _PROOF, "string_match": {"exact": "ADMISSION_PROOF"}}
    meter = _filters(route).get("envoy.filters.http.lua", {})

    assert proof in route["match"]["headers"]
    assert route["route"]["cluster_header"] == "x-tollhouse-cluster"
    assert "disabled" not in meter


def test_the_ledger_has_every_exchange():
    """Its one condition is that extproc named it."""
    ledger = MANAGER["access_log"][0]
    matcher = ledger["filter"]["metadata_filter"]["matcher"]

    assert ledger["filter"].keys() == {"metadata_filter"}
    assert (matcher["filter"], matcher["path"]) == ("tollhouse", [{"key": "exchange"}])

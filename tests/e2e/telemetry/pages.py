"""What the stack's own collector shows: traces to ask questions of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from tests.e2e.running_stack import wait_until

COME_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Tree:
    """One trace."""

    trace_id: str
    spans: Sequence[Mapping[str, Any]]

    @property
    def services(self) -> set[str]:
        return {it["service"] for it in self.spans}

    @property
    def roots(self) -> list[str]:
        """Names of spans whose parent is not there."""
        known = {it["span_id"] for it in self.spans}
        return [it["name"] for it in self.spans if it["parent"] not in known]

    def all(self, name: str) -> list[Mapping[str, Any]]:
        return [it for it in self.spans if it["name"] == name]

    def one(self, name: str) -> Mapping[str, Any]:
        (span,) = self.all(name)
        return span

    def told(self, name: str) -> Mapping[str, Any]:
        """Attributes of the span of this name."""
        attributes: Mapping[str, Any] = self.one(name)["attributes"]
        return attributes

    def way_to(self, name: str) -> list[str]:
        """Names from the root to the span of this name."""
        by_id = {it["span_id"]: it for it in self.spans}
        span: Mapping[str, Any] | None = self.one(name)
        names: list[str] = []
        while span is not None:
            names.insert(0, span["name"])
            span = by_id.get(span["parent"])
        return names


@dataclass(frozen=True, slots=True)
class Pages:
    """The collector's pages."""

    url: str

    def trace(self, trace_id: str, *names: str) -> Tree:
        """Return a trace once it has spans of these names."""
        found: dict[str, Any] = {}

        def has_come() -> bool:
            answer = httpx.get(f"{self.url}/traces/{trace_id}")
            found.update(answer.json())
            told = {it["name"] for it in found.get("spans", ())}
            return told >= set(names)

        wait_until(has_come, COME_SECONDS)
        tree = Tree(trace_id, found.get("spans", ()))
        missing = set(names) - {it["name"] for it in tree.spans}
        assert not missing, f"{missing} not in {[it['name'] for it in tree.spans]}"
        return tree

    def traces(self) -> list[Tree]:
        """Return all that is kept."""
        listed = httpx.get(f"{self.url}/traces").json()["traces"]
        return [self.trace(it["trace_id"]) for it in listed]

    def everything(self) -> bytes:
        """Return all there is to read."""
        listed = httpx.get(f"{self.url}/traces").json()["traces"]
        paths = ("/metrics", *(f"/traces/{it['trace_id']}" for it in listed))
        return b"\n".join(httpx.get(self.url + path).content for path in paths)

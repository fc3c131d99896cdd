"""One stack with its own collector, and what clients asked of it."""

import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest

from tests.e2e.running_stack import (
    FAST_ENGINE,
    RunningStack,
    running_stack,
    short_folder,
    write_config,
)
from tests.e2e.telemetry.pages import Pages

# Slow enough that there is something to leave.
ENGINE = FAST_ENGINE | {"itl_ms": 10, "natural_end": False}
TIGHT = {"key": {"requests_per_minute": 6}, "burst_seconds": 10}
OF_A_CLIENT = f"00-{'c' * 32}-{'d' * 16}-01"
TRACE = "x-tollhouse-trace"


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked: the trace of each answer, and what the answer said."""

    stack: RunningStack
    pages: Pages
    secret: str
    """The part of the key that is one."""
    prompt: str
    completion: str
    key_id: str
    usage: dict[str, int]
    """Of the streamed chat."""
    streamed: str
    left: str
    generated: str
    """By a client of Triton's own protocol."""
    unknown: httpx.Response
    malformed: httpx.Response
    limited: httpx.Response


@pytest.fixture(scope="session")
def asked() -> Iterator[Asked]:
    """Ask everything once; the spans come while the tests look at them."""
    with short_folder() as folder:
        config = write_config(
            folder / "traced.yaml",
            engine=ENGINE,
            plans={"demo": {"burst_seconds": 10}, "tight": TIGHT},
        )
        with running_stack(folder, "--telemetry", config=config) as stack:
            yield _ask(stack)


def _ask(stack: RunningStack) -> Asked:
    url = json.loads(stack.ready_file.read_text())["telemetry_url"]
    stack.run("tenants", "create", "traced", "--plan", "demo")
    made, tight = (
        json.loads(
            stack.run("keys", "create", "--tenant", "traced", "--json", *options)
        )
        for options in (
            ("--scope", "chat:write", "--scope", "infer:write"),
            ("--plan", "tight"),
        )
    )
    prompt = f"canary-{secrets.token_hex(8)}"
    body = {
        "model": "tiny-chat",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 12,
    }
    with httpx.Client(base_url=stack.base_url, timeout=60) as client:

        def ask(key: str, body: object) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}", "traceparent": OF_A_CLIENT}
            return client.post("/chat/completions", headers=headers, json=body)

        usage_too = {"stream": True, "stream_options": {"include_usage": True}}
        streamed = ask(made["key"], body | usage_too)
        events = [
            json.loads(line.removeprefix("data: "))
            for line in streamed.text.splitlines()
            if line.startswith("data: {")
        ]
        texts = [
            choice["delta"].get("content") or ""
            for event in events
            for choice in event["choices"]
        ]
        with client.stream(
            "POST",
            "/chat/completions",
            headers={"authorization": f"Bearer {made['key']}"},
            json=body | {"stream": True, "max_tokens": 2000},
        ) as answer:
            assert answer.is_success, answer.read()
            next(answer.iter_lines())
            left = answer.headers[TRACE]
        generated = client.post(
            stack.base_url.removesuffix("/v1") + "/v2/models/tiny-chat/generate_stream",
            headers={"authorization": f"Bearer {made['key']}"},
            json={
                "text_input": prompt,
                "parameters": {"max_tokens": 4, "stream": True},
            },
        )
        assert generated.is_success, generated.text
        unknown = ask(made["key"][:-1] + "~", body)
        malformed = ask(made["key"], body | {"max_tokens": prompt})
        limited = next(
            it for it in (ask(tight["key"], body) for _ in range(20)) if it.is_error
        )
    return Asked(
        stack=stack,
        pages=Pages(url),
        secret=made["key"].rpartition("_")[2],
        prompt=prompt,
        completion="".join(texts),
        key_id=made["key_id"],
        usage=events[-1]["usage"],
        streamed=streamed.headers[TRACE],
        left=left,
        generated=generated.headers[TRACE],
        unknown=unknown,
        malformed=malformed,
        limited=limited,
    )

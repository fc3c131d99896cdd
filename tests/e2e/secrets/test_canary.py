"""A key, a prompt and a completion go every way there is, and leave no trace."""

import contextlib
import json
import os
import secrets
import signal
import socket
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from tests.e2e.edge.backend import Backend, Ending, answer, chunked
from tests.e2e.edge.threads import running_backend
from tests.e2e.running_stack import (
    RunningStack,
    running_stack,
    short_folder,
    wait_until,
    write_config,
)
from tests.e2e.secrets import traces
from tests.e2e.secrets.collector import Collector, running_collector
from tests.integration.identity.provider import AUDIENCE, IDENTIFIER, Provider

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ANY_5XX = 5
NARROW = {"key": {"requests_per_minute": 30}, "burst_seconds": 4}
ISSUER = {
    "issuer": IDENTIFIER,
    "audiences": [AUDIENCE],
    "jwks_file": "jwks.json",
    "tenant": {"name": "canary"},
    "scopes": {"claim": "scope"},
}
TRACED = {"edge", "authz", "extproc", "billing"}
_LETTERS = string.ascii_letters + string.digits


def _canary(name: str) -> str:
    """A word that occurs nowhere else."""
    return f"canary-{name}-" + "".join(secrets.choice(_LETTERS) for _ in range(24))


@dataclass
class Flight:
    """The canaries, and the stack they fly through."""

    stack: RunningStack
    backend: Backend
    told: Collector
    provider: Provider
    prompt: str
    completion: str
    upstream_error: str
    key: str = ""

    @property
    def url(self) -> str:
        return self.stack.base_url.removesuffix("/v1")

    @property
    def secret(self) -> str:
        """The part of the key that is one."""
        return self.key.rpartition("_")[2]

    def secrets(self) -> dict[str, str]:
        return {
            "the key": self.secret,
            "the prompt": self.prompt,
            "the completion": self.completion,
            "the upstream's error": self.upstream_error,
        }

    def post(
        self,
        body: object,
        *,
        key: str | None = None,
        path: str = CHAT,
        script: str = "",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Ask once; a body that is no bytes is sent as JSON."""
        return httpx.post(
            self.url + path,
            content=body if isinstance(body, bytes) else json.dumps(body).encode(),
            headers={
                "authorization": f"Bearer {self.key if key is None else key}",
                "content-type": "application/json",
                "x-test-script": script,
                **(headers or {}),
            },
            timeout=60,
        )

    def chat(self, **changes: object) -> dict[str, object]:
        """A request that holds the prompt wherever a text may stand."""
        return {
            "model": "tiny-chat",
            "messages": [
                {"role": "system", "content": self.prompt},
                {"role": "user", "content": [{"type": "text", "text": self.prompt}]},
            ],
            "user": self.prompt,
            "max_tokens": 16,
            **changes,
        }

    def whole(self) -> str:
        """Script of a whole answer."""
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        message = {"role": "assistant", "content": self.completion}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        body = {"id": "c", "object": "chat.completion", "choices": [choice]}
        return self.backend.script(answer(json.dumps(body | {"usage": usage}).encode()))

    def streamed(self, ending: object = None) -> str:
        """Script of a stream; whole, or left in some way."""
        delta = {"choices": [{"index": 0, "delta": {"content": self.completion}}]}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        events = [
            f"data: {json.dumps(it)}\n\n".encode()
            for it in (delta, delta, {"choices": [], "usage": usage})
        ]
        steps = chunked([*events, b"data: [DONE]\n\n"])
        if ending is None:
            return self.backend.script(steps)
        return self.backend.script([*steps[:3], ending])  # type: ignore[list-item]


@pytest.fixture(scope="module")
def flight() -> Iterator[Flight]:
    """A stack before a scripted backend, exporting all it measures and every trace."""
    with (
        running_backend() as backend,
        running_collector() as told,
        _environment(
            OTEL_EXPORTER_OTLP_ENDPOINT=told.url,
            OTEL_METRIC_EXPORT_INTERVAL="500",
            OTEL_BSP_SCHEDULE_DELAY="500",
        ),
        short_folder() as folder,
    ):
        provider = Provider()
        (folder / "jwks.json").write_bytes(provider.jwks("ES256"))
        config = write_config(
            folder / "tollhouse.yaml",
            plans={"demo": {"burst_seconds": 10}, "narrow": NARROW},
            issuers={"canary": ISSUER},
            telemetry={"sample_ratio": 1},
        )
        options = ("--backend", f"http://127.0.0.1:{backend.port}")
        with running_stack(folder, *options, config=config) as stack:
            canaries = map(_canary, ("prompt", "completion", "upstream"))
            yield Flight(stack, backend, told, provider, *canaries)


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _make_key(flight: Flight, *options: str) -> dict[str, str]:
    made: dict[str, str] = json.loads(
        flight.stack.run("keys", "create", "--json", *options)
    )
    return made


def _refused(flight: Flight, status: int, *args: object, **kwargs: object) -> None:
    """Ask; the answer has this status and repeats nothing."""
    said = flight.post(*args, **kwargs)  # type: ignore[arg-type]
    wanted = range(500, 600) if status == ANY_5XX else (status,)
    assert said.status_code in wanted, f"{said.text} for {str(args)[:300]}"
    for name, secret in flight.secrets().items():
        assert secret not in said.text, f"{name} in a {status}: {said.text}"
        assert secret not in str(said.headers), f"{name} in a {status}'s headers"


def _succeed(flight: Flight) -> None:
    """Whole and streamed answers, and ones that break off on either side."""
    said = flight.post(flight.chat(), script=flight.whole())
    assert flight.completion in said.text
    said = flight.post(flight.chat(stream=True), script=flight.streamed())
    assert said.text.count(flight.completion) == 2
    legacy = {"model": "tiny-chat", "prompt": flight.prompt, "max_tokens": 9}
    assert flight.post(legacy, path=COMPLETIONS, script=flight.whole()).is_success
    for ending in (Ending.CLOSE, Ending.RESET):
        with contextlib.suppress(httpx.TransportError):
            flight.post(flight.chat(stream=True), script=flight.streamed(ending))
    with (
        contextlib.suppress(httpx.TransportError),
        httpx.stream(
            "POST",
            flight.url + CHAT,
            json=flight.chat(stream=True),
            headers={
                "authorization": f"Bearer {flight.key}",
                "x-test-script": flight.streamed(Ending.HANG),
            },
        ) as stream,
    ):
        next(stream.iter_bytes())  # and leaves


def _meet_a_bad_backend(flight: Flight) -> None:
    error = json.dumps({"error": {"message": flight.upstream_error}}).encode()
    told = f"x-secret: {flight.upstream_error}\r\n"
    for status in (400, 401, 429, 500, 503):
        said = flight.post(
            flight.chat(),
            script=flight.backend.script(answer(error, extra=told, status=status)),
        )
        assert said.status_code >= 400
    for steps in ([b"garbage " + error], [Ending.RESET], [Ending.CLOSE]):
        _refused(flight, ANY_5XX, flight.chat(), script=flight.backend.script(steps))


def _be_nobody(flight: Flight) -> None:
    """The key in every place and form that is not a good one."""
    wrong = flight.key[:-1] + ("A" if flight.key[-1] != "A" else "B")
    for key in (
        wrong,
        flight.key + "x",
        f"{flight.key},Bearer {flight.key}",
        flight.key.upper(),
        f"{flight.key} x",
        f"{flight.key}'; DROP TABLE keys; --",
    ):
        _refused(flight, 401, flight.chat(), key=key)
    for headers in (
        {"authorization": f"Basic {flight.key}"},
        {"authorization": flight.key, "x-api-key": flight.key},
        {"authorization": "", "cookie": f"key={flight.key}"},
        {"authorization": "", "x-note": flight.key},
    ):
        _refused(flight, 401, flight.chat(), headers=headers)
    _refused(flight, 401, flight.chat(), key="x", path=f"{CHAT}?api_key={flight.key}")
    _refused(flight, 404, flight.chat(), path=f"/v1/{flight.key}/{flight.prompt}")
    _refused(flight, 404, flight.chat(), headers={"host": f"{flight.key}.example"})


def _be_somebody_elses(flight: Flight) -> str:
    """A JWT that is good, and ones that are not; returns the part that is secret."""
    good = flight.provider.token("ES256")
    assert flight.post(flight.chat(), key=good, script=flight.whole()).is_success
    for bad in (
        good + "A",
        flight.provider.token("ES256", aud=flight.prompt),
        flight.provider.token("ES256", header={"kid": flight.prompt}),
        flight.provider.token("ES256", exp=1),
        good.rpartition(".")[0] + ".",
    ):
        _refused(flight, 401, flight.chat(), key=bad)
    return good.rpartition(".")[2]


def _ask_for_what_is_refused(flight: Flight) -> None:
    """The prompt in every place of a body that a refusal might speak of."""
    prompt = flight.prompt
    for status, body in (
        (404, flight.chat(model=prompt)),
        (400, flight.chat(model=[prompt])),
        (400, flight.chat(messages=prompt)),
        (400, flight.chat(messages=[prompt])),
        (400, flight.chat(messages=[{"role": prompt, "content": prompt}])),
        (400, flight.chat(messages=[{"role": "user", "content": [{"type": prompt}]}])),
        (400, flight.chat(max_tokens=prompt)),
        (400, flight.chat(stream=prompt)),
        (400, flight.chat(stop=[prompt] * 99)),
        (400, flight.chat(n=99, user=prompt)),
        (400, flight.chat(max_tokens=10**9)),
        (400, b'{"model": "' + prompt.encode()),
        (400, prompt.encode()),
        (400, b'{"%s": 1, "%s": 2}' % (prompt.encode(), prompt.encode())),
        (400, b'{"model": "tiny-chat", "x": ' + b"[" * 5000 + prompt.encode()),
        (400, prompt.encode("utf-16")),
        (413, flight.chat(user=prompt * 100_000)),
    ):
        _refused(flight, status, body)
    image = {"type": "image_url", "image_url": {"url": f"http://{prompt}/"}}
    parts = [{"role": "user", "content": [image]}]
    _refused(flight, 400, flight.chat(messages=parts))
    _refused(
        flight, 415, flight.chat(), headers={"content-encoding": f"x-{prompt[-9:]}"}
    )


def _cut_off(flight: Flight) -> None:
    """A request that never ends, and one that is no HTTP."""
    place = urlsplit(flight.url)
    headers = f"host: localhost\r\nauthorization: Bearer {flight.key}\r\n"
    for text in (
        f"POST {CHAT} HTTP/1.1\r\n{headers}content-length: 999\r\n\r\n{flight.prompt}",
        f"POST {CHAT} HTTP/9.9 {flight.key}\r\n{flight.prompt}\0\r\n\r\n",
    ):
        with socket.create_connection((place.hostname, place.port), 5) as wire:
            wire.sendall(text.encode())
            time.sleep(0.1)


def _be_limited(flight: Flight, narrow: str) -> None:
    answers = [
        flight.post(flight.chat(), key=narrow, script=flight.whole()).status_code
        for _ in range(5)
    ]
    assert 429 in answers


def _lose_parts(flight: Flight) -> None:
    """Requests while Redis stands still, and while a service is killed."""
    redis = psutil.Process(flight.stack.pids["redis"])
    redis.suspend()
    try:
        for key in (flight.key, f"th_{'nobody' * 2}_{flight.secret}"):
            with contextlib.suppress(httpx.TransportError):
                flight.post(flight.chat(), key=key, script=flight.whole())
    finally:
        redis.resume()
    for part in ("authz", "extproc-0"):
        pid = flight.stack.pids[part]
        os.kill(pid, signal.SIGABRT)  # what would leave a core file
        for _ in range(5):
            with contextlib.suppress(httpx.TransportError):
                flight.post(flight.chat(), script=flight.whole())
        flight.stack.wait_until_restarted(part, pid)
    wait_until(lambda: flight.post(flight.chat(), script=flight.whole()).is_success, 30)
    assert flight.post(flight.chat(), script=flight.whole()).is_success


def test_no_secret_leaves_a_trace(flight: Flight):
    """Not in a log, the ledger, Redis, telemetry, an environment or a core file."""
    stack = flight.stack
    stack.run("tenants", "create", "canary", "--plan", "demo")
    made = _make_key(flight, "--tenant", "canary")
    flight.key = made["key"]
    narrow = _make_key(flight, "--tenant", "canary", "--plan", "narrow")["key"]
    lame = _make_key(flight, "--tenant", "canary", "--scope", "models:read")["key"]

    _succeed(flight)
    _meet_a_bad_backend(flight)
    _be_nobody(flight)
    signature = _be_somebody_elses(flight)
    _refused(flight, 403, flight.chat(), key=lame)
    _ask_for_what_is_refused(flight)
    _cut_off(flight)
    _be_limited(flight, narrow)
    _lose_parts(flight)
    stack.run("tenants", "suspend", "canary")
    wait_until(lambda: flight.post(flight.chat()).status_code == 403, 30)
    _refused(flight, 403, flight.chat())
    stack.run("tenants", "resume", "canary")
    rotated = json.loads(
        stack.run("keys", "rotate", made["key_id"], "--grace", "0s", "--json")
    )
    wait_until(lambda: flight.post(flight.chat()).status_code == 401, 30)
    _refused(flight, 401, flight.chat())

    keys = {"another key": narrow, "a key without scopes": lame}
    keys["the key after it"] = rotated["key"]
    searched = flight.secrets() | {"the signature of a JWT": signature}
    searched |= {name: key.rpartition("_")[2] for name, key in keys.items()}
    with stack.redis() as client:
        _await_settlement(flight, made["key_id"])
        wait_until(lambda: flight.told.services("spans") >= TRACED, 30)
        found = traces.find(searched, stack, client, flight.told)
        # What is public is there, so the search sees something.
        seen = {
            place.split()[0]
            for place, content in traces.everything(stack, client, flight.told)
            if made["key_id"].encode() in content or b"tollhouse" in content
        }
    assert found == []
    assert {"file", "Redis", "exported", "environ"} <= seen
    assert flight.told.services("spans") >= TRACED
    assert (stack.state_dir / "logs" / "access.log").stat().st_size


def _await_settlement(flight: Flight, key_id: str) -> None:
    """Return when the last exchange is in the ledger."""
    ledger = flight.stack.state_dir / "ledger" / "ledger.jsonl"
    wait_until(lambda: key_id in ledger.read_text(), 30)


def test_no_core_files(flight: Flight):
    """None that was killed left its memory on a disk."""
    state = flight.stack.state_dir
    folders = (state, (state / "run").resolve())

    assert not [it for folder in folders for it in folder.rglob("core*")]

"""TLS for clients: `tollhouse up --tls-cert FILE --tls-key FILE`."""

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from tests.certificates import Authority, Pair, oldest_tls, replace
from tests.e2e.edge.backend import CHUNKED_SSE, Step, answer, chunk
from tests.e2e.edge.threads import running_backend
from tests.e2e.running_stack import (
    RunningStack,
    curl_line,
    running_stack,
    short_folder,
    wait_until,
)
from tests.e2e.tls.conftest import ANSWER
from tests.e2e.tls.envoy import QUESTION

SEEN_SECONDS = 2.0
"""How soon a new connection gets a replaced certificate."""
_PIECES = 40
REFUSED = "sds.edge.key_rotation_failed"


@dataclass
class Edge:
    """A stack that clients reach by TLS, and the files of its certificate."""

    stack: RunningStack
    authority: Authority
    mounted: Path
    """Like a secret that Kubernetes mounted: links through `..data`."""
    streams: dict[str, str]
    """Headers that ask the backend for a stream of some seconds."""

    @property
    def place(self) -> tuple[str, int]:
        url = urlsplit(self.stack.base_url)
        assert url.port is not None
        return "127.0.0.1", url.port

    def client(self, *, http2: bool = False) -> httpx.Client:
        return httpx.Client(
            verify=self.trusting(),
            http1=not http2,
            http2=http2,
            timeout=60,
            headers={"authorization": f"Bearer {self.stack.api_key}"},
        )

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.authority.file)

    def shown(self) -> bytes:
        """Return the certificate that a new connection gets."""
        with self.connected(self.trusting()) as connection:
            return connection.getpeercert(binary_form=True) or b""

    @contextlib.contextmanager
    def connected(self, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
        with (
            socket.create_connection(self.place, 5) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as connection,
        ):
            yield connection

    def stat(self, name: str) -> int:
        url = f"{self.stack.admin_url}/stats"
        text = httpx.get(url, params={"filter": f"^{name}$"}).text
        return int(text.rpartition(":")[2] or 0)

    def mount(self, pair: Pair) -> None:
        """Put other files behind the links in one step, as kubelet does."""
        mount(self.mounted, pair)


def mount(folder: Path, pair: Pair) -> None:
    """Make `..data` a link to a folder that holds the pair."""
    folder.mkdir(exist_ok=True)
    data = folder / f"..{time.monotonic_ns()}"
    data.mkdir()
    for file in (pair.certificate, pair.key):
        (data / file.name).write_bytes(file.read_bytes())
        (data / file.name).chmod(file.stat().st_mode)
        with contextlib.suppress(FileExistsError):
            (folder / file.name).symlink_to(Path("..data", file.name))
    new = folder / "..data_tmp"
    new.symlink_to(data.name)
    new.replace(folder / "..data")


def stream_of(pieces: int) -> Sequence[Step]:
    """An event stream of this many pieces, one each 0.1 s."""
    steps: list[Step] = [CHUNKED_SSE]
    for number in range(pieces):
        delta = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": None}
        event = {"id": "x", "object": "chat.completion.chunk", "choices": [delta]}
        steps += [chunk(f"data: {json.dumps(event)}\n\n".encode()), 0.1]
    return [*steps, chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    with (
        short_folder() as folder,
        running_backend(usual=answer(ANSWER)) as backend,
    ):
        authority = Authority(folder / "pki")
        mounted = folder / "mounted"
        mount(mounted, authority.issue("localhost", "llm.example.test", into="first"))
        streams = {"x-test-script": backend.script(stream_of(_PIECES))}
        with running_stack(
            folder,
            *("--backend", f"http://127.0.0.1:{backend.port}"),
            *("--tls-cert", str(mounted / "tls.crt")),
            *("--tls-key", str(mounted / "tls.key")),
        ) as stack:
            yield Edge(stack, authority, mounted, streams)


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["h2", "http/1.1"], "h2"),
        (["http/1.1"], "http/1.1"),
        (["h2"], "h2"),
        (["ftp"], None),
    ],
)
def test_the_protocol_is_agreed_on_in_the_handshake(edge, offered, chosen):
    context = edge.trusting()
    context.set_alpn_protocols(offered)
    with edge.connected(context) as connection:
        assert connection.selected_alpn_protocol() == chosen


@pytest.mark.parametrize("http2", [False, True])
def test_a_client_with_the_authority_is_served(edge, http2):
    """By the base URL that `up` gives, whose host is in the certificate."""
    assert edge.stack.base_url == f"https://localhost:{edge.place[1]}/v1"
    with edge.client(http2=http2) as client:
        url = f"{edge.stack.base_url}/chat/completions"
        answered = client.post(url, json=QUESTION)
    assert answered.status_code == 200
    assert answered.http_version == ("HTTP/2" if http2 else "HTTP/1.1")


def test_the_names_of_the_certificate_are_hosts(edge):
    """Other hosts stay unknown."""
    with edge.client() as client:
        url = f"{edge.stack.base_url}/models"
        for host, status in (("llm.example.test", 200), ("other.example.test", 404)):
            assert client.get(url, headers={"host": host}).status_code == status


def test_the_openai_sdk_works(edge):
    with (
        openai.DefaultHttpxClient(verify=edge.trusting()) as http,
        openai.OpenAI(
            base_url=edge.stack.base_url, api_key=edge.stack.api_key, http_client=http
        ) as client,
    ):
        answered = client.chat.completions.create(**QUESTION)
        assert answered.choices[0].message.content == "A road."
        events = client.chat.completions.create(
            **QUESTION, stream=True, extra_headers=edge.streams
        )
        assert next(iter(events)).choices[0].delta.content == "0 "


def test_the_line_of_up_works_as_pasted(edge):
    """It names whom to trust."""
    line = curl_line(edge.stack.said) + " --silent --show-error --max-time 10"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=False)
    assert b"A road." in done.stdout, done.stderr


def test_a_client_without_the_authority_is_not_served(edge):
    """Nobody is asked to skip verification."""
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{edge.stack.base_url}/models")


def test_old_tls_weak_ciphers_and_plaintext_are_refused(edge):
    with (
        pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"),
        edge.connected(oldest_tls()),
    ):
        pass
    for ciphers, is_good in (
        ("ECDHE-ECDSA-AES128-GCM-SHA256", True),
        ("ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0", False),
    ):
        context = edge.trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(ciphers)
        refused = pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE")
        with (
            contextlib.nullcontext() if is_good else refused,
            edge.connected(context) as connection,
        ):
            assert connection.version() == "TLSv1.2"

    with socket.create_connection(edge.place, 5) as raw:
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not raw.recv(4096).startswith(b"HTTP/")


@pytest.mark.timed
def test_a_replaced_certificate_is_seen_while_a_stream_runs(edge):
    """New connections get it within two seconds; the old one goes on to its end."""
    first, arrived = edge.shown(), list[str]()
    begun = threading.Event()

    def read() -> None:
        url = f"{edge.stack.base_url}/chat/completions"
        with (
            edge.client() as client,
            client.stream(
                "POST", url, json={**QUESTION, "stream": True}, headers=edge.streams
            ) as answered,
        ):
            for line in answered.iter_lines():
                arrived.append(line)
                begun.set()

    reading = threading.Thread(target=read)
    reading.start()
    assert begun.wait(30)
    edge.mount(edge.authority.issue("localhost", into="second"))
    wait_until(lambda: edge.shown() != first, SEEN_SECONDS)
    second = edge.shown()
    assert second != first
    assert "data: [DONE]" not in arrived
    reading.join(60)
    assert "data: [DONE]" in arrived
    assert len([it for it in arrived if '"content"' in it]) == _PIECES


@pytest.mark.timed
@pytest.mark.parametrize("broken", ["not PEM", "another key", "empty"])
def test_a_broken_certificate_leaves_the_last_good_one(edge, broken):
    """Envoy counts it, serves on, and takes up the next good one."""
    good = edge.shown()
    pair = edge.authority.issue("localhost", into="broken")
    match broken:
        case "not PEM":
            replace(pair.certificate, b"nonsense")
        case "another key":
            other = edge.authority.issue("localhost", into="other")
            replace(pair.key, other.key.read_bytes(), mode=0o600)
        case _:
            replace(pair.certificate, b"")
    refused = edge.stat(REFUSED)
    edge.mount(pair)
    wait_until(lambda: edge.stat(REFUSED) > refused, 30)
    assert edge.stat(REFUSED) > refused
    assert edge.shown() == good
    edge.mount(edge.authority.issue("localhost", into="better"))
    wait_until(lambda: edge.shown() != good, SEEN_SECONDS)
    assert edge.shown() != good

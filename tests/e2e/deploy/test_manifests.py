"""overlays/local, played: a request is answered and billed, a roll cuts nothing."""

import contextlib
import http.client
import json
import ssl
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.check.tree import Tree
from tests.e2e.deploy.played_pod import Changes, PlayedPod, played, status
from tests.e2e.running_stack import ROOT, TOLLHOUSE, wait_until
from tests.redis_process import RedisServer, find_binary, running_redis, secret_file
from tollhouse.cli.redis_users import RedisUsers

QUESTION = {
    "model": "tiny-chat",
    "messages": [{"role": "user", "content": "Tell me about the road."}],
    "stream": True,
}


class Server(ThreadingHTTPServer):
    """Streams two words; the second one when it may."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.may_end = threading.Event()


class Answering(BaseHTTPRequestHandler):
    """One connection to it."""

    server: Server

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self._tell({"choices": [{"index": 0, "delta": {"content": "It"}}]})
        assert self.server.may_end.wait(30)
        self._tell({"choices": [{"index": 0, "delta": {"content": " bends"}}]})
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        self._tell({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _tell(self, event):
        about = {"id": "c", "object": "chat.completion.chunk", "created": 1}
        line = json.dumps(about | {"model": "tiny-chat"} | event)
        self.wfile.write(f"data: {line}\n\n".encode())

    def log_message(self, *_):
        pass


class Deployed:
    """What was applied: the pods, their secrets, the Redis and a model's server."""

    def __init__(self, folder: Path, redis: RedisServer, secrets: Path) -> None:
        self.server = Server()
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        tree = Tree(ROOT, folder, ["overlays/local"])
        tree.__dict__["secrets"] = self.secrets = secrets
        [documents] = tree.rendered.values()
        changes = Changes(
            documents,
            {
                "redis://redis:6379/0": redis.url,
                "address: backend.llm-models, port_value: 8000": (
                    f"address: 127.0.0.1, port_value: {self.server.server_port}"
                ),
                "billing:9004": "localhost:9004",
                "$(POD_NAME)": "pod",
            },
            {
                "TOLLHOUSE_BILLING_SERVER_NAME": "billing",
                "TOLLHOUSE_DRAIN_NOTICE_SECONDS": "0.2",
            },
        )
        self.ports = changes.ports
        self.redis_url = redis.url
        self.gateway, *self.others = (
            PlayedPod(tree, documents, name, changes)
            for name in ("gateway", "billing", "admin")
        )

    def tollhouse(self, *command: str) -> str:
        done = subprocess.run(
            [*TOLLHOUSE, *command],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT / "deploy/overlays/local",
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def make_key(self) -> str:
        """The first tenant and key, as README.md makes them."""
        operator = self.secrets / "operator"
        redis = (
            *("--redis-url", self.redis_url, "--redis-user", "operator"),
            *("--redis-password-file", str(operator / "redis-password")),
        )
        self.tollhouse("tenants", "create", "acme", "--plan", "demo", *redis)
        pepper = ("--pepper-file", str(operator / "pepper"))
        scope = ("--scope", "chat:write")
        create = ("keys", "create", "--tenant", "acme")
        return self.tollhouse(*create, *scope, *pepper, *redis)

    def usage(self) -> list[dict[str, object]]:
        """What billing has, asked over mTLS as the operator."""
        operator = self.secrets / "operator"
        rows: list[dict[str, object]] = json.loads(
            self.tollhouse(
                *("usage", "--json", "--target", f"localhost:{self.ports[9004]}"),
                *("--server-name", "billing", "--ca-file", str(operator / "ca.crt")),
                *("--cert-file", str(operator / "tls.crt")),
                *("--key-file", str(operator / "tls.key")),
            )
        )
        return rows

    @contextlib.contextmanager
    def asked(
        self, key: str, host: str = "localhost"
    ) -> Iterator[http.client.HTTPResponse]:
        trusted = self.secrets / "edge-tls" / "tls.crt"
        tls = ssl.create_default_context(cafile=trusted)
        port = self.ports[8443]
        connection = http.client.HTTPSConnection("localhost", port, context=tls)
        headers = {
            "host": host,
            "authorization": f"Bearer {key}",
            "content-type": "application/json",
        }
        path = "/v1/chat/completions"
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(QUESTION), headers)
            with connection.getresponse() as answer:
                yield answer


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    with contextlib.ExitStack() as stack:
        # Sockets' paths are short.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="th-")))
        secrets = folder / "secrets"
        script = ROOT / "deploy" / "secrets.sh"
        subprocess.run([script, secrets, "localhost", "llm.example.com"], check=True)
        binary = Path(find_binary("redis-server"))
        acl = RedisUsers(secrets / "redis-users").acl(binary)
        users = secret_file(folder, acl, "users.acl")
        redis = stack.enter_context(running_redis(options=("--aclfile", str(users))))
        deployed = Deployed(folder, redis, secrets)
        stack.callback(deployed.server.server_close)
        stack.callback(deployed.server.shutdown)
        stack.enter_context(played([*deployed.others, deployed.gateway]))
        yield deployed


def test_a_pods_envoy_shows_its_numbers_and_nothing_else(deployed):
    ports, run = deployed.ports, deployed.gateway.volumes["run"]
    socket = run / "envoy-admin.sock"

    assert 200 == status(ports[9901], "/stats/prometheus")
    # The rest of the admin interface is behind a socket that is its owner's.
    assert 404 == status(ports[9901], "/quitquitquit", "POST")
    assert 404 == status(ports[9901], "/healthcheck/fail", "POST")
    for file in (socket, run / "proof", run / "envoy.json"):
        assert 0o600 == stat.S_IMODE(file.stat().st_mode)


def test_a_request_is_answered_billed_and_outlives_the_pods_end(deployed):
    """README.md's first key asks; the pod ends while the answer runs."""
    key = deployed.make_key()
    probe = deployed.ports[8081]
    with deployed.asked(key, host="other.example.com") as strange:
        assert 404 == strange.status
    with deployed.asked(key) as answer:
        first = answer.readline()
        end = threading.Thread(target=deployed.gateway.stop)
        end.start()
        wait_until(lambda: status(probe, "/ready") == 503, 30)
        alive = status(probe, "/live")
        deployed.server.may_end.set()
        rest = answer.read()
        end.join()
    wait_until(deployed.usage, 30)
    [row] = deployed.usage()

    assert (200, True, 200) == (answer.status, b'"It"' in first, alive)
    assert rest.endswith(b"data: [DONE]\n\n")
    assert (7, 2) == (row["input_tokens"], row["output_tokens"])
    assert {"final": 1, "partial": 0, "abandoned": 0} == row["exchanges"]
    codes = {it: p.returncode for it, p in deployed.gateway.processes.items()}
    assert {"authz": 0, "extproc": 0, "envoy": 0} == codes

"""A running authz, and what to ask it."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tollhouse.pb.envoy.service.auth.v3 import external_auth_pb2 as ext_authz

CHECK = "/envoy.service.auth.v3.Authorization/Check"
CHAT = "/v1/chat/completions"


@dataclasses.dataclass
class Authz:
    """One authz process and a connection to it."""

    popen: subprocess.Popen[str]
    channel: grpc.Channel

    def raw(
        self,
        authorization: str | None,
        path: str = CHAT,
        method: str = "POST",
        address: str = "127.0.0.1",
        api_key: str | None = None,
    ) -> bytes:
        """Ask; the answer as it came over the wire. `api_key` is in x-api-key."""
        request = ext_authz.CheckRequest()
        http = request.attributes.request.http
        http.method, http.path = method, path
        request.attributes.source.address.socket_address.address = address
        if authorization is not None:
            http.headers["authorization"] = authorization
        if api_key is not None:
            http.headers["x-api-key"] = api_key
        ask: grpc.UnaryUnaryMultiCallable[ext_authz.CheckRequest, bytes]
        ask = self.channel.unary_unary(
            CHECK, request_serializer=ext_authz.CheckRequest.SerializeToString
        )
        return ask(request, timeout=30, wait_for_ready=True)

    def check(
        self, key: str, path: str = CHAT, method: str = "POST"
    ) -> ext_authz.CheckResponse:
        """Ask with a key; the answer parsed."""
        answer = self.raw(f"Bearer {key}", path, method)
        return ext_authz.CheckResponse.FromString(answer)

    def status(
        self,
        key: str,
        path: str = CHAT,
        method: str = "POST",
        address: str = "127.0.0.1",
    ) -> int:
        """The HTTP status a client would get from us; 200 for none."""
        answer = ext_authz.CheckResponse.FromString(
            self.raw(f"Bearer {key}", path, method, address)
        )
        if answer.WhichOneof("http_response") == "ok_response":
            return 200
        return int(answer.denied_response.status.code)

    def end(self) -> tuple[int, str]:
        """Stop it; its exit status and everything it printed."""
        self.channel.close()
        self.popen.terminate()
        out, _ = self.popen.communicate(timeout=60)
        return self.popen.returncode, out


def environment(
    folder: Path, redis_url: str, pepper: Path, config: Path | None = None
) -> dict[str, str]:
    """What authz reads at start."""
    configured = {} if config is None else {"TOLLHOUSE_CONFIG": str(config)}
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TOLLHOUSE_LISTEN": f"unix:{folder}/authz.sock",
        "TOLLHOUSE_REDIS_URL": redis_url,
        "TOLLHOUSE_PEPPER_FILE": str(pepper),
        "TOLLHOUSE_LOG_LEVEL": "debug",
        **configured,
    }


@contextlib.contextmanager
def running_authz(
    folder: Path, redis_url: str, pepper: Path, config: Path | None = None
) -> Iterator[Authz]:
    """Run authz until the block ends."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "tollhouse.authz"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(folder, redis_url, pepper, config),
    )
    with grpc.insecure_channel(f"unix:{folder}/authz.sock") as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True
            )
            yield Authz(popen, channel)
        finally:
            popen.kill()
            popen.communicate()

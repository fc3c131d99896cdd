"""A running admin process, and what to ask it."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tollhouse.pb.tollhouse.admin.v1 import admin_pb2_grpc as admin_grpc

TOKEN = "w" * 40
READER = "r" * 40


@dataclasses.dataclass
class Admin:
    """One admin process and a connection to it."""

    popen: subprocess.Popen[str]
    channel: grpc.Channel

    def __post_init__(self) -> None:
        self.tenants = admin_grpc.TenantServiceStub(self.channel)
        self.keys = admin_grpc.KeyServiceStub(self.channel)
        self.audit = admin_grpc.AuditServiceStub(self.channel)

    def end(self) -> tuple[int, str]:
        """Stop it; its exit status and everything it printed."""
        self.channel.close()
        self.popen.terminate()
        out, _ = self.popen.communicate(timeout=60)
        return self.popen.returncode, out


def bearer(token: str = TOKEN) -> dict:
    """What goes with a call."""
    return {
        "metadata": (("authorization", f"Bearer {token}"),),
        "timeout": 30,
        "wait_for_ready": True,
    }


def refusal(call, request, **options) -> tuple[str, str]:
    """The status a call ends with, and its text."""
    with pytest.raises(grpc.RpcError) as refused:
        call(request, **{**bearer(), **options})
    return refused.value.code().name, refused.value.details() or ""


def violations(call, request) -> dict[str, str]:
    """The fields that INVALID_ARGUMENT names, and what is wrong with each."""
    with pytest.raises(grpc.RpcError) as refused:
        call(request, **bearer())
    error = refused.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    (raw,) = (
        it.value
        for it in error.trailing_metadata() or ()
        if it.key == "grpc-status-details-bin"
    )
    status = status_pb2.Status.FromString(raw)
    assert status.code == 3
    found = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(found)
    return {it.field: it.description for it in found.field_violations}


def environment(folder: Path, redis_url: str, tokens: Path, pepper: Path) -> dict:
    """What the admin process reads at start."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "TOLLHOUSE_LISTEN": f"unix:{folder}/admin.sock",
        "TOLLHOUSE_REDIS_URL": redis_url,
        "TOLLHOUSE_ADMIN_TOKENS_FILE": str(tokens),
        "TOLLHOUSE_PEPPER_FILE": str(pepper),
    }


@contextlib.contextmanager
def running_admin(settings: dict) -> Iterator[Admin]:
    """Run the admin process until the block ends."""
    popen = subprocess.Popen(
        [sys.executable, "-m", "tollhouse.admin"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=settings,
    )
    with grpc.insecure_channel(settings["TOLLHOUSE_LISTEN"]) as channel:
        try:
            health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=60, wait_for_ready=True
            )
            yield Admin(popen, channel)
        finally:
            popen.kill()
            popen.communicate()

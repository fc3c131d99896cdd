"""The parts of the local stack: what each is started with, and when it is ready."""

import contextlib
import dataclasses
import os
import sys
from functools import partial
from pathlib import Path

from tollhouse.adapters.address import ANY_HOST, Address
from tollhouse.adapters.envoy_drain import DrainError, drain_envoy
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.cli import engine
from tollhouse.cli.edge_certificate import EdgeCertificate
from tollhouse.cli.environment import base_environment
from tollhouse.cli.local_engine import LocalEngine
from tollhouse.cli.probes import grpc_serves, http_answers, redis_answers
from tollhouse.cli.receiver import Receiver, exported_to
from tollhouse.cli.redis_users import OPERATOR
from tollhouse.cli.state import StateDirectory, write_secret
from tollhouse.cli.supervisor import Part

_DRAIN_SECONDS = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class StripeAccount:
    """The account usage is billed to; `url` stands for Stripe's API."""

    key_file: Path
    url: str | None = None

    @property
    def settings(self) -> dict[str, str]:
        """Of the billing process."""
        settings = {"STRIPE_KEY_FILE": str(self.key_file.absolute())}
        if self.url is not None:
            settings["STRIPE_URL"] = self.url
        return settings


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What all parts have to agree on."""

    state: StateDirectory
    config: Path
    envoy: Path
    redis: Path
    listen: Address
    admin: Address
    workers: int
    engine: LocalEngine | None
    """None: models are served by a backend that is not ours."""
    certificate: EdgeCertificate | None = None
    """What clients see; None: they come without TLS."""
    stripe: StripeAccount | None = None
    """None: usage goes to the billing ledger in the state directory."""
    receiver: Receiver | None = None
    """None: telemetry goes where the environment says, or nowhere."""

    def socket(self, name: str) -> Address:
        """Where a part listens."""
        return Address(path=str(self.state.run / f"{name}.sock"))

    @property
    def reachable(self) -> Address:
        """Where clients on this machine connect."""
        if self.listen.host in ANY_HOST:
            return dataclasses.replace(self.listen, host="localhost")
        return self.listen

    @property
    def base_url(self) -> str:
        """What an OpenAI client is given."""
        if self.certificate is None:
            return f"http://{self.reachable}/v1"
        host = self.certificate.host(self.reachable.host)
        return f"https://{dataclasses.replace(self.reachable, host=host)}/v1"

    @property
    def collector(self) -> Address | None:
        """Where Envoy exports its spans; None: nowhere."""
        return exported_to() if self.receiver is None else self.receiver.grpc

    @property
    def sample_ratio(self) -> float | None:
        """The share of traces to keep; None: what tollhouse.yaml says."""
        return None if self.receiver is None else 1.0

    @property
    def redis_url(self) -> str:
        """The stack's Redis, for limits and for billing."""
        return f"unix://{self.socket('redis').path}"

    def redis_access(self, user: str = OPERATOR) -> RedisAccess:
        """The way to the stack's Redis, as one of its users."""
        return self.state.redis_users.access(self.redis_url, user)

    @property
    def extprocs(self) -> list[str]:
        """Names of the extproc processes."""
        return [f"extproc-{number}" for number in range(self.workers)]

    @property
    def ledger(self) -> Path:
        """Envoy's ledger."""
        return self.state.ledger / "ledger.jsonl"

    @property
    def bootstrap(self) -> Path:
        """Envoy's rendered configuration; it holds the admission proof."""
        return self.state.run / "envoy.json"

    @property
    def secret(self) -> Path:
        """Where Envoy finds out about the certificate for clients."""
        return self.state.run / "edge-certificate.json"

    @property
    def credential(self) -> Path:
        """Where Envoy finds out about the key for the backend."""
        return self.state.run / "backend-credential.json"

    def parts(self) -> list[Part]:
        """All parts, in an order that reads well in the terminal."""
        local = [] if self.engine is None else self._engine_parts(self.engine)
        services = [self._authz(), *map(self._extproc, self.extprocs), self._admin()]
        parts = [self._redis(), *local, self._billing(), *services, self._envoy()]
        if self.receiver is None:
            return parts
        # They export to it to their end.
        behind = [
            dataclasses.replace(it, after=(*it.after, "collector")) for it in parts
        ]
        return [self._collector(self.receiver), *behind]

    def _collector(self, receiver: Receiver) -> Part:
        return self._service(
            "collector",
            {"LISTEN": str(receiver.grpc), "HTTP_LISTEN": str(receiver.http)},
            probe=lambda: http_answers(receiver.http, "/traces"),
        )

    def _redis(self) -> Part:
        socket = self.socket("redis")
        operator = (OPERATOR, self.state.redis_users.password(OPERATOR))
        acl_file = self.state.run / "users.acl"
        acl = self.state.redis_users.acl(self.redis)

        def prepare() -> None:
            Path(str(socket.path)).unlink(missing_ok=True)
            write_secret(acl_file, acl)

        return self._part(
            "redis",
            str(self.redis),
            *("--port", "0", "--unixsocket", str(socket.path)),
            *("--unixsocketperm", "700", "--dir", str(self.state.redis)),
            # Nothing acknowledged is ever lost, and nothing is ever evicted.
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
            *("--latency-monitor-threshold", "20"),
            *("--acl-pubsub-default", "resetchannels", "--aclfile", str(acl_file)),
            probe=lambda: redis_answers(socket, operator),
            prepare=prepare,
        )

    def _engine_parts(self, local: LocalEngine) -> list[Part]:
        triton = Address(host="127.0.0.1", port=local.ports.http)
        clean_shm = partial(engine.remove_stale_shm, local.shm_prefix)
        frontend = self.socket("frontend")
        return [
            self._part(
                "triton",
                *local.process.command,
                environment=local.process.environment,
                probe=lambda: http_answers(triton, f"/v2/models/{engine.MODEL}/ready"),
                prepare=clean_shm,
                clean=clean_shm,  # a stub that is killed leaves its region
                stop_seconds=6.0,  # it ends within five by its own limit
            ),
            self._service(
                "frontend",
                {
                    "TRITON_TARGET": local.ports.target,
                    "MODELS_FILE": str(local.models_file),
                    "DRAIN_SECONDS": "1",
                },
                after=("triton",),
                probe=lambda: http_answers(frontend, "/healthz"),
            ),
        ]

    def _billing(self) -> Part:
        settings = {**self._redis_settings("billing"), "CONFIG": str(self.config)}
        if self.stripe is None:
            settings["BILLING_LEDGER"] = str(self.state.billing)
        else:
            settings |= {"PROVIDER": "stripe", **self.stripe.settings}
        return self._service("billing", settings, after=("redis",))

    def _authz(self) -> Part:
        settings = {
            **self._redis_settings("authz"),
            "CONFIG": str(self.config),
            "PEPPER_FILE": str(self.state.pepper),
        }
        return self._service("authz", settings, after=("redis",))

    def _admin(self) -> Part:
        settings = {
            **self._redis_settings("admin"),
            "PEPPER_FILE": str(self.state.pepper),
            "ADMIN_TOKENS_FILE": str(self.state.admin_tokens),
        }
        # Behind what requests wait for, so as not to take its cores while all starts.
        return self._service("admin", settings, after=("redis", "billing"))

    def _extproc(self, name: str) -> Part:
        settings = {
            **self._redis_settings("extproc"),
            "CONFIG": str(self.config),
            "ADMISSION_PROOF_FILE": str(self.state.proof),
            "LEDGER": str(self.ledger),
            "ENVOY_ADMIN": str(self.admin),
            "BILLING_TARGET": str(self.socket("billing")),
            "NODE": "local",
            "WORKER": name,
            "MIN_WORKERS": str(self.workers),
        }
        return self._service(name, settings, after=("redis", "billing"))

    def _redis_settings(self, user: str) -> dict[str, str]:
        """Where our Redis is, and who a service is there."""
        access = self.redis_access(user)
        prefix = "BILLING_REDIS" if user == "billing" else "REDIS"
        return {
            f"{prefix}_URL": access.url,
            f"{prefix}_USER": user,
            f"{prefix}_PASSWORD_FILE": str(access.password_file),
        }

    def _envoy(self) -> Part:
        local = () if self.engine is None else ("frontend",)
        return self._part(
            "envoy",
            str(self.envoy),
            *("--config-path", str(self.bootstrap)),
            *("--disable-hot-restart", "--log-level", "warning"),
            *("--file-flush-interval-msec", "100"),
            *("--concurrency", str(max(1, (os.cpu_count() or 1) // 2))),
            *("--drain-time-s", "2", "--drain-strategy", "immediate"),
            after=("authz", *self.extprocs, *local),
            probe=lambda: http_answers(self.admin, "/ready"),
            drain=self._drain_envoy,
        )

    async def _drain_envoy(self) -> None:
        """Let running requests end, for a moment; new ones are sent elsewhere."""
        with contextlib.suppress(DrainError):
            await drain_envoy(
                self.admin,
                notice_seconds=0,
                quiet_seconds=0,
                most_seconds=_DRAIN_SECONDS,
            )

    def _service(self, name: str, settings: dict[str, str], **about: object) -> Part:
        """One of our own processes, listening on a socket of its name."""
        socket = self.socket(name)
        module = name.partition("-")[0]
        own = {"LISTEN": str(socket), **settings}
        base = base_environment()
        if self.receiver is not None:
            base = self.receiver.environment(base)
        environment = base | {f"TOLLHOUSE_{key}": value for key, value in own.items()}
        # -P: the state directory, where we run, is no place to import from.
        command = (sys.executable, "-P", "-m", f"tollhouse.{module}")
        values = {"probe": lambda: grpc_serves(socket), **about}
        return self._part(name, *command, environment=environment, **values)

    def _part(self, name: str, *command: str, **about: object) -> Part:
        """A part with what all have in common; `about` are more of its fields."""
        values = {
            "environment": base_environment(),
            "directory": self.state.path,
            **about,
        }
        return Part(name=name, command=command, **values)  # type: ignore[arg-type]

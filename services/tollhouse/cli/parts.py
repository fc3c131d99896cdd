"""The parts of the local stack: what each is started with, and when it is ready."""

import asyncio
import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import yaml

from tollhouse.adapters.address import ANY_HOST, Address
from tollhouse.adapters.configuration import Configuration
from tollhouse.adapters.http_client import http_request
from tollhouse.adapters.redis.access import RedisAccess
from tollhouse.cli import engine
from tollhouse.cli.edge_certificate import EdgeCertificate
from tollhouse.cli.probes import grpc_serves, http_answers, redis_answers
from tollhouse.cli.redis_users import OPERATOR
from tollhouse.cli.state import StateDirectory, write_secret
from tollhouse.cli.supervisor import Part
from tollhouse.core.catalog import Operation

LOCAL_CLUSTER = engine.MODEL
"""The cluster of envoy.yaml that leads to the local frontend."""
_DRAIN_SECONDS = 2.0
_LAST_LINES_SECONDS = 0.3
"""Several times the reader's poll (50 ms) and the relay's way to billing."""
# What a child needs of our environment; the rest, secrets included, stays here.
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR"),
    *("LD_LIBRARY_PATH", "PYTHONPATH"),
    *("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_METRIC_EXPORT_INTERVAL"),
)
_ACTIVE_REQUESTS = quote("^http\\.edge\\.downstream_rq_active$")


@dataclasses.dataclass(frozen=True, slots=True)
class LocalEngine:
    """Triton with its model and the frontend beside it."""

    ports: engine.EnginePorts
    process: engine.EngineProcess
    shm_prefix: str
    models_file: Path


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
        return [self._redis(), *local, self._billing(), *services, self._envoy()]

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
            *("--acl-pubsub-default", "resetchannels", "--aclfile", str(acl_file)),
            probe=lambda: redis_answers(socket, operator),
            prepare=prepare,
        )

    def _engine_parts(self, local: LocalEngine) -> list[Part]:
        triton = Address(host="127.0.0.1", port=local.ports.http)
        frontend = self.socket("frontend")
        return [
            self._part(
                "triton",
                *local.process.command,
                environment=local.process.environment,
                probe=lambda: http_answers(triton, f"/v2/models/{engine.MODEL}/ready"),
                prepare=lambda: engine.remove_stale_shm(local.shm_prefix),
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
        return self._service(
            name,
            settings,
            after=("redis", "billing"),
            # Envoy is gone by then; its last lines in the ledger are settled now.
            drain=lambda: asyncio.sleep(_LAST_LINES_SECONDS),
        )

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
        await http_request(self.admin, "/healthcheck/fail", method="POST")
        await http_request(
            self.admin, "/drain_listeners?graceful&skip_exit", method="POST"
        )
        clock = asyncio.get_running_loop().time
        deadline = clock() + _DRAIN_SECONDS
        while clock() < deadline:
            _, text = await http_request(
                self.admin, f"/stats?filter={_ACTIVE_REQUESTS}"
            )
            if b"downstream_rq_active: 0" in text:
                return
            await asyncio.sleep(0.05)

    def _service(self, name: str, settings: dict[str, str], **about: object) -> Part:
        """One of our own processes, listening on a socket of its name."""
        socket = self.socket(name)
        module = name.partition("-")[0]
        own = {"LISTEN": str(socket), **settings}
        environment = base_environment() | {
            f"TOLLHOUSE_{key}": value for key, value in own.items()
        }
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


def base_environment() -> dict[str, str]:
    """Return the part of our environment that children get."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {
        "PYTHONUNBUFFERED": "1"
    }


def local_engine(
    state: StateDirectory,
    tools: engine.EngineTools,
    configuration: Configuration,
    free_ports: Sequence[int],
) -> LocalEngine:
    """Write the model repository and the frontend's models file for this start."""
    models = {
        name: model
        for name, model in configuration.models.items()
        if model.cluster == LOCAL_CLUSTER
    }
    parameters = engine.EngineParameters(
        **configuration.engine.model_dump(),
        max_seq_len=max((it.context for it in models.values()), default=4096),
    )
    ports = engine.EnginePorts(*free_ports)
    prefix = engine.shm_prefix(state.path)
    shutil.rmtree(state.run / "models", ignore_errors=True)  # some may be gone
    repository = engine.render_repository(
        state.run / "models", truth_log=state.truth_log, parameters=parameters
    )
    # Of one that serves nothing else no frontend needs the stream of tokens.
    for name, model in models.items():
        if model.triton is not None and model.operations == {Operation.INFER}:
            engine.render_repository(
                repository,
                truth_log=state.truth_log,
                parameters=parameters,
                model=model.triton.model or name,
                decoupled=False,
            )
    process = engine.server_process(
        tools, repository, ports, prefix, environ=base_environment()
    )
    # Every model of the local cluster is the same engine under another name.
    sections = {
        name: {
            "triton_model": engine.MODEL,
            "contract": "ensemble",
            "release_dir": str(engine.release_dir()),
            "context": model.context,
            "tool_parser": "hermes",
        }
        for name, model in models.items()
    }
    models_file = state.run / "models.yaml"
    models_file.write_text(yaml.safe_dump({"models": sections}), "utf-8")
    return LocalEngine(ports, process, prefix, models_file)

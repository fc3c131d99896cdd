"""How `tollhouse up` starts the local engine: a real tritonserver with `tiny-chat`.

Nothing here starts or stops a process: the supervisor does. The functions, in the
order in which it calls them:

    tools = find_tools()                          raises MissingError
    prefix = shm_prefix(state_dir)
    remove_stale_shm(prefix)                      only under the state lock
    repository = render_repository(run_dir / "models", truth_log=truth_log)
    process = server_process(tools, repository, ports, prefix)

`process.environment` is the whole environment of the child, not an addition; the
server is ready 0.3 s to 2 s later. A frontend connects to `ports.target`. SIGTERM
stops the server within five seconds; SIGKILL leaves regions in /dev/shm that the next
start removes.
"""

import dataclasses
import hashlib
import math
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from tollhouse.cli.places import MissingError, repository_root

MODEL = "tiny-chat"
"""Name of the local model, for clients and in Triton alike."""

_RESTRICTED = "model-repository,shared-memory,logging,trace"
_LIBDIR_SCRIPT = (
    "import sys, sysconfig;"
    "print(*sys.version_info[:2], sep='.');"
    "print(sysconfig.get_config_var('LIBDIR') or '')"
)


@dataclasses.dataclass(frozen=True, slots=True)
class EngineTools:
    """What `make setup` installs for the engine."""

    server: Path
    """Folder `tritonserver` of the nvidia-pytriton wheel."""
    venv: Path
    """Virtual environment of the model (numpy < 2, tokenizers)."""
    libpython_dir: str
    """Folder of libpython, or empty where the system's loader finds it."""


@dataclasses.dataclass(frozen=True, slots=True)
class EnginePorts:
    """Ports of one tritonserver on 127.0.0.1."""

    grpc: int
    http: int
    metrics: int

    @property
    def target(self) -> str:
        """The gRPC target a frontend connects to."""
        return f"127.0.0.1:{self.grpc}"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineParameters:
    """The simulation's parameters: chosen numbers, measurements of nothing."""

    ttft_ms: float = 40.0
    """From being scheduled to the first token, without the prompt's share."""
    prefill_ms_per_token: float = 0.05
    """Added to the first token's time for each prompt token."""
    itl_ms: float = 15.0
    """Between two tokens of a sequence."""
    max_num_seqs: int = 32
    """Slots: sequences that generate at the same time; the others wait."""
    max_seq_len: int = 4096
    """Prompt and output together; the catalog's `context` must not exceed it."""
    kv_blocks: int = 2048
    """KV cache blocks, reserved for prompt + max_tokens while a sequence runs."""
    tokens_per_block: int = 64
    """Tokens in one KV cache block."""
    natural_end: bool = True
    """A text may end by itself; else only max_tokens or a stop word ends it."""
    faults: bool = False
    """Heed `sim_fault=KIND:VALUE` in prompts; for tests."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineProcess:
    """What to execute, and the whole environment to do it in."""

    command: tuple[str, ...]
    environment: dict[str, str]


def engine_dir() -> Path:
    """Return the engine's sources, which are no part of the distribution.

    Raises MissingError where the package was installed without its repository.
    """
    folder = repository_root() / "deploy" / "engine"
    if not folder.is_dir():
        raise MissingError("the local engine needs a checkout of the repository")
    return folder


def release_dir() -> Path:
    """Return the release directory of `tiny-chat`: tokenizer, template, defaults."""
    return engine_dir() / "release"


def find_tools(environ: Mapping[str, str] = os.environ) -> EngineTools:
    """Find tritonserver and the model's environment under $TOLLHOUSE_TOOLS.

    Raises MissingError naming the first absent part.
    """
    named = environ.get("TOLLHOUSE_TOOLS")
    tools = Path(named).resolve() if named else repository_root() / ".tools"
    server = tools / "triton" / "pytriton" / "tritonserver"
    venv = tools / "engine-venv"
    stub = server / "backends" / "python" / "triton_python_backend_stub"
    for part, path in (
        ("tritonserver", server / "bin" / "tritonserver"),
        ("the engine's Python environment", venv / "bin" / "python3"),
        ("Triton's Python stub", stub),
    ):
        if not os.access(path, os.X_OK):
            raise MissingError(f"{part} is not installed ({path}): run `make setup`")
    return EngineTools(server, venv, _find_libpython(venv))


def _find_libpython(venv: Path) -> str:
    """Return the folder of the libpython the stub links to; empty = a system one."""
    asked = subprocess.run(
        [str(venv / "bin" / "python3"), "-c", _LIBDIR_SCRIPT],
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode != 0:
        raise MissingError(
            f"the engine's Python environment is broken ({venv}): run `make setup`"
        )
    version, folder = asked.stdout.split("\n")[:2]
    library = f"libpython{version}.so.1.0"
    if folder and (Path(folder) / library).is_file():
        return folder
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    known = subprocess.run(
        [ldconfig, "-p"], capture_output=True, text=True, check=False
    )
    if library in known.stdout:
        return ""
    raise MissingError(f"{library} is not installed: apt install libpython{version}")


def shm_prefix(state_dir: Path) -> str:
    """Return the prefix of the shared memory regions of this state directory."""
    digest = hashlib.blake2b(str(state_dir.resolve()).encode(), digest_size=5)
    return f"tollhouse_{digest.hexdigest()}_"


def remove_stale_shm(prefix: str, folder: Path = Path("/dev/shm")) -> int:  # noqa: S108
    """Remove what a killed server left in shared memory; return how many regions.

    Only while no server with this prefix runs: hold the state directory's lock.
    """
    stale = sorted(folder.glob(f"{prefix}*")) if folder.is_dir() else []
    for region in stale:
        region.unlink(missing_ok=True)
    return len(stale)


def render_repository(
    into: Path,
    *,
    truth_log: Path,
    parameters: EngineParameters | None = None,
    model: str = MODEL,
    contract: str = "ensemble",
    decoupled: bool = True,
) -> Path:
    """Write a Triton model repository with the simulated engine; return its path.

    An existing model of this name is replaced. `truth_log` is appended to by the
    engine, one JSON line for each request that reached it. Without `decoupled` it
    answers each request once, as unary inference needs it.
    """
    engine = engine_dir()
    chosen = parameters or EngineParameters()
    values = dataclasses.asdict(chosen) | {
        # The cache holds at least one sequence of full length.
        "kv_blocks": max(
            chosen.kv_blocks, math.ceil(chosen.max_seq_len / chosen.tokens_per_block)
        ),
        "contract": contract,
        "decoupled": decoupled,
        "release_dir": engine / "release",
        "corpus_file": engine / "corpus.txt",
        "truth_log": truth_log.resolve(),
    }
    folder = into / model
    shutil.rmtree(folder, ignore_errors=True)
    version = folder / "1"
    version.mkdir(parents=True)
    for source in sorted((engine / "model").glob("*.py")):
        shutil.copyfile(source, version / source.name)
    tensors = (engine / "model" / f"{contract}.pbtxt").read_text()
    if not decoupled:
        tensors = tensors.replace("decoupled: true", "decoupled: false")
    rendered = "".join(
        f"parameters {{ key: {_quoted(key)} "
        f"value {{ string_value: {_quoted(value)} }} }}\n"
        for key, value in values.items()
    )
    (folder / "config.pbtxt").write_text(f"name: {_quoted(model)}\n{tensors}{rendered}")
    return into


def _quoted(value: object) -> str:
    """Return a text-format protobuf string."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def server_process(
    tools: EngineTools,
    repository: Path,
    ports: EnginePorts,
    prefix: str,
    environ: Mapping[str, str] = os.environ,
    *,
    traces_url: str = "",
) -> EngineProcess:
    """Return command and environment of a tritonserver on loopback.

    Models are loaded once at start; the control APIs need a key nobody is told,
    because loading a model of one's own through them is remote code execution. Spans
    of every request go to `traces_url`, if there is one, as OTLP/HTTP in JSON.
    """
    key = secrets.token_hex(16)
    server = tools.server
    command = (
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository.resolve()}",
        f"--backend-directory={server / 'backends'}",
        f"--cache-directory={server / 'caches'}",
        "--http-address=127.0.0.1",
        f"--http-port={ports.http}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={ports.grpc}",
        "--metrics-address=127.0.0.1",
        f"--metrics-port={ports.metrics}",
        f"--http-restricted-api={_RESTRICTED}:admin-key={key}",
        f"--grpc-restricted-protocol={_RESTRICTED}:admin-key={key}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        "--strict-readiness=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--pinned-memory-pool-byte-size=0",
        "--allow-gpu-metrics=false",
        *(_tracing(traces_url) if traces_url else ()),
    )
    environment = dict(environ) | {
        # The stub's interpreter finds its site-packages through python3 on PATH.
        "PATH": f"{tools.venv / 'bin'}{os.pathsep}{environ.get('PATH', os.defpath)}",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for unwanted in ("PYTHONPATH", "PYTHONHOME"):
        environment.pop(unwanted, None)
    if tools.libpython_dir:
        paths = (tools.libpython_dir, environ.get("LD_LIBRARY_PATH", ""))
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    return EngineProcess(command, environment)


def _tracing(url: str) -> Iterator[str]:
    for setting in (
        "mode=opentelemetry",
        "rate=1",
        "level=TIMESTAMPS",
        f"opentelemetry,url={url}",
        "opentelemetry,resource=service.name=triton",
        "opentelemetry,bsp_schedule_delay=500",
    ):
        yield f"--trace-config={setting}"

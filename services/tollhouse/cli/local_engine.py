"""The engine of this machine as the stack has it: its files, its process, its ports."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from tollhouse.adapters.configuration import Configuration
from tollhouse.cli import engine
from tollhouse.cli.environment import base_environment
from tollhouse.cli.state import StateDirectory
from tollhouse.core.catalog import Operation

LOCAL_CLUSTER = engine.MODEL
"""The cluster of envoy.yaml that leads to the local frontend."""


@dataclasses.dataclass(frozen=True, slots=True)
class LocalEngine:
    """Triton with its model and the frontend beside it."""

    ports: engine.EnginePorts
    process: engine.EngineProcess
    shm_prefix: str
    models_file: Path


def local_engine(
    state: StateDirectory,
    tools: engine.EngineTools,
    configuration: Configuration,
    free_ports: Sequence[int],
    *,
    traces_url: str = "",
) -> LocalEngine:
    """Write the model repository and the frontend's models file for this start.

    Triton sends its spans to `traces_url`, if there is one.
    """
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
        tools,
        repository,
        ports,
        prefix,
        environ=base_environment(),
        traces_url=traces_url,
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

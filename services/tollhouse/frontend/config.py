"""Settings of the frontend process, and the file that names its models."""

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tollhouse.adapters.logs import Level
from tollhouse.adapters.process import StartError
from tollhouse.frontend.contract import CONTRACTS
from tollhouse.frontend.tool_parser import TOOL_PARSERS

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(BaseSettings):
    """Read once, at start, from the environment."""

    model_config = SettingsConfigDict(env_prefix="TOLLHOUSE_", frozen=True)

    listen: str = Field(description="where Envoy finds us: unix:/path or host:port")
    triton_target: str = Field(description="gRPC address of Triton, host:port")
    models_file: Path = Field(description="YAML: the models served, and how")
    first_token_timeout_seconds: Seconds = Field(
        240.0,
        description="longest queue and prefill; for an answer in one piece, all of it",
    )
    inter_token_timeout_seconds: Seconds = Field(
        30.0, description="longest silence inside a stream"
    )
    drain_seconds: Seconds = Field(
        600.0, description="how long running requests may take to end after SIGTERM"
    )
    log_level: Level = Field("info", description="debug, info, warning or error")


class ModelSection(BaseModel):
    """One model of the models file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    triton_model: Annotated[str, Field(min_length=1)]
    contract: Annotated[str, Field(pattern=f"^({'|'.join(CONTRACTS)})$")]
    release_dir: Path
    context: Annotated[int, Field(ge=2, le=2**31 - 1)]
    tool_parser: (
        Annotated[str, Field(pattern=f"^({'|'.join(TOOL_PARSERS)})$")] | None
    ) = None


class _ModelsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[dict[str, ModelSection], Field(min_length=1)]


def load_models(path: Path) -> dict[str, ModelSection]:
    """Read the models file; a relative `release_dir` starts beside it.

    Raises StartError with one line per fault.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
        sections = _ModelsFile.model_validate(content).models
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StartError(f"{path}: can't be read: {type(error).__name__}") from error
    except ValidationError as error:
        faults = error.errors(include_input=False, include_url=False)
        lines = [
            f"{path}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}"
            for fault in faults
        ]
        raise StartError("\n".join(lines)) from error
    return {
        name: section.model_copy(
            update={"release_dir": path.parent / section.release_dir}
        )
        for name, section in sections.items()
    }

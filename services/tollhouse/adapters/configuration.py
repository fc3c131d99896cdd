"""tollhouse.yaml: read, checked whole, turned into a `Catalog`.

Every fault is reported at once, each with its path in the file and what to do, so
that an operator edits once.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tollhouse.core.catalog import (
    MODEL_NAME,
    Catalog,
    Model,
    Operation,
    Plan,
    Provider,
    Weights,
)
from tollhouse.core.limits import Allowance

Count = Annotated[int, Field(ge=1, le=2**53)]
Name = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]


class ConfigurationError(Exception):
    """The file can't be used; the text has one line per fault, ready to print."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightsSection(_Section):
    """Units per token."""

    input: Annotated[int, Field(ge=0, le=1000)] = 1
    cached_input: Annotated[int, Field(ge=0, le=1000)] = 0
    output: Annotated[int, Field(ge=1, le=1000)] = 5


class ModelSection(_Section):
    """One model."""

    cluster: Name
    provider: Provider = Provider.TRITON
    operations: Annotated[frozenset[Operation], Field(min_length=1)]
    context: Count
    default_output_tokens: Count
    max_output_tokens: Count
    weights: WeightsSection = WeightsSection()
    bytes_per_token: Annotated[float, Field(gt=0, le=100)] = 4.0
    inject_default: bool | None = None
    created: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _sizes(self) -> "ModelSection":
        if self.default_output_tokens > self.max_output_tokens:
            raise ValueError("default_output_tokens is above max_output_tokens")
        if self.max_output_tokens > self.context:
            raise ValueError("max_output_tokens is above context")
        return self


class AllowanceSection(_Section):
    """Limits of one scope; a limit left out does not exist."""

    requests_per_minute: Count | None = None
    units_per_minute: Count | None = None
    concurrent: Count | None = None


class PlanSection(_Section):
    """One plan."""

    key: AllowanceSection = AllowanceSection()
    tenant_model: AllowanceSection = AllowanceSection()
    burst_seconds: Annotated[float, Field(gt=0, le=3600)] = 10.0


class EngineSection(_Section):
    """Parameters of the local simulated engine; only `tollhouse up` reads them."""

    ttft_ms: Annotated[float, Field(ge=0)] = 40
    itl_ms: Annotated[float, Field(gt=0)] = 15
    prefill_ms_per_token: Annotated[float, Field(ge=0)] = 0.05
    max_num_seqs: Count = 8


class Configuration(_Section):
    """The whole file."""

    models: Annotated[dict[Name, ModelSection], Field(min_length=1)]
    plans: Annotated[dict[Name, PlanSection], Field(min_length=1)]
    engine: EngineSection = EngineSection()

    def catalog(self) -> Catalog:
        """The values the services work with."""
        return Catalog(
            models={name: _model(name, it) for name, it in self.models.items()},
            plans={name: _plan(name, it) for name, it in self.plans.items()},
        )


def load(path: Path) -> Configuration:
    """Read and check the file. Raises ConfigurationError with all faults."""
    try:
        text = path.read_text("utf-8")
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        what = getattr(error, "problem", None) or "is not YAML"
        raise ConfigurationError(f"{path}{line}: {what}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: needs a mapping with `models` and `plans`")
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        lines = [f"{path}: {_fault(item)}" for item in error.errors()]
        raise ConfigurationError("\n".join(lines)) from error


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys: the last one must not win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be plain text", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key.value}` is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_SECTIONS: dict[str, type[BaseModel]] = {
    "models": ModelSection,
    "plans": PlanSection,
    "weights": WeightsSection,
    "key": AllowanceSection,
    "tenant_model": AllowanceSection,
    "engine": EngineSection,
}


def _fault(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"] if part != "[key]") or "file"
    if item["type"] != "extra_forbidden":
        return f"{path}: {item['msg'].removeprefix('Value error, ')}"
    *parents, field = (str(part) for part in item["loc"])
    known = Configuration.model_fields
    for parent in parents:
        known = (
            _SECTIONS[parent].model_fields if parent in _SECTIONS else known
        )  # names of models and plans stay in their section
    close = get_close_matches(field, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
    return f"{path}: unknown field; {hint}"


def _model(name: str, section: ModelSection) -> Model:
    inject = section.inject_default
    return Model(
        name=name,
        cluster=section.cluster,
        provider=section.provider,
        operations=section.operations,
        context=section.context,
        default_output_tokens=section.default_output_tokens,
        max_output_tokens=section.max_output_tokens,
        weights=Weights(**section.weights.model_dump()),
        bytes_per_token=section.bytes_per_token,
        # A foreign server keeps its own default unless the operator says otherwise.
        inject_default=(
            section.provider is Provider.TRITON if inject is None else inject
        ),
        created=section.created,
    )


def _plan(name: str, section: PlanSection) -> Plan:
    def allowance(limits: AllowanceSection) -> Allowance:
        return Allowance(**limits.model_dump(), burst_seconds=section.burst_seconds)

    return Plan(name, allowance(section.key), allowance(section.tenant_model))

"""tollhouse.yaml: read, checked whole, turned into a `Catalog`.

Every fault is reported at once, each with its path in the file and what to do, so
that an operator edits once.
"""

import stat
from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError

from tollhouse.adapters.issuer_sections import IssuerSection
from tollhouse.adapters.sections import (
    FOLDER,
    AllowanceSection,
    Currency,
    EngineSection,
    ModelSection,
    Name,
    PlanSection,
    Section,
    TelemetrySection,
)
from tollhouse.core.catalog import Catalog, Model
from tollhouse.core.limits import DEFAULT_BURST_SECONDS, MOST, Allowance

LARGEST_BURST = MOST // 1000
"""Of a limit times its burst seconds: Redis' scripts count in doubles, and 60,000
grains to a unit (core.buckets)."""


MOST_BYTES = 1_000_000
"""Of the file: some thousand models and plans."""
MOST_MERGED = 10_000
"""Entries of one mapping, with those of others that are merged into it."""


class ConfigurationError(Exception):
    """The file can't be used; the text has one line per fault, ready to print."""


class Configuration(Section):
    """The whole file."""

    models: Annotated[dict[Name, ModelSection], Field(min_length=1)]
    plans: Annotated[dict[Name, PlanSection], Field(min_length=1)]
    limits: AllowanceSection = AllowanceSection()
    currency: Currency = "usd"
    engine: EngineSection = EngineSection()
    issuers: dict[Name, IssuerSection] = Field(default_factory=dict)
    telemetry: TelemetrySection = TelemetrySection()

    def catalog(self) -> Catalog:
        """The values the services work with."""
        return Catalog(
            models={name: it.model(name) for name, it in self.models.items()},
            plans={name: it.plan(name) for name, it in self.plans.items()},
            limits=self.limits.allowance(DEFAULT_BURST_SECONDS),
            currency=self.currency,
            issuers={name: it.issuer_of(name) for name, it in self.issuers.items()},
            telemetry=self.telemetry.telemetry(),
        )


def load(path: Path) -> Configuration:
    """Read and check the file. Raises ConfigurationError with all faults."""
    try:
        text = _text(path)
        content = yaml.load(text, Loader=StrictLoader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from error
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f":{where.line + 1}" if where else ""
        what = getattr(error, "problem", None) or "is not YAML"
        raise ConfigurationError(f"{path}{line}: {what}") from error
    except (ValueError, RecursionError) as error:  # a date or number that is none
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: needs a mapping with `models` and `plans`")
    try:
        configuration = Configuration.model_validate(
            content, context={FOLDER: path.parent}
        )
    except ValidationError as error:
        raise _refusal(path, map(_fault, error.errors())) from error
    if conflicts := list(_conflicts(configuration)):
        raise _refusal(path, conflicts)
    return configuration


def places(catalog: Catalog) -> Iterator[tuple[str, Allowance, Collection[Model]]]:
    """Yield each place with limits: path in the file, values, models it counts."""
    models = catalog.models.values()
    for name, plan in catalog.plans.items():
        yield f"plans.{name}.key", plan.key, models
        yield f"plans.{name}.tenant", plan.tenant, models
        yield f"plans.{name}.tenant_model", plan.tenant_model, models
    for model in models:
        yield f"models.{model.name}.limits", model.limits, [model]
    yield "limits", catalog.limits, models


def _text(path: Path) -> str:
    """Read the file; one that never ends must not be begun."""
    found = path.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise ConfigurationError(f"{path}: is no file but a pipe, socket or device")
    if found.st_size > MOST_BYTES:
        raise ConfigurationError(f"{path}: is larger than {MOST_BYTES:_} bytes")
    return path.read_text("utf-8")


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys: the last one must not win silently.

    And merges (`<<`) of merges that grow out of all proportion.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge, within bounds. Raises ConstructorError."""
        super().flatten_mapping(node)
        if len(node.value) > MOST_MERGED:
            raise yaml.constructor.ConstructorError(
                None, None, "too much is merged into one mapping", node.start_mark
            )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:  # noqa: FBT001, FBT002
        """Make the mapping, each key once. Raises ConstructorError."""
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


def _refusal(path: Path, faults: Iterable[str]) -> ConfigurationError:
    return ConfigurationError("\n".join(f"{path}: {fault}" for fault in faults))


def _fault(item: Any) -> str:
    path = ".".join(str(part) for part in item["loc"] if part != "[key]") or "file"
    if item["type"] != "extra_forbidden":
        return f"{path}: {item['msg'].removeprefix('Value error, ')}"
    *parents, field = (str(part) for part in item["loc"])
    known = _section(parents).model_fields
    close = get_close_matches(field, known, n=1)
    hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
    return f"{path}: unknown field; {hint}"


def _section(path: list[str]) -> type[BaseModel]:
    """Find the class of a section by its path."""
    found: type[BaseModel] = Configuration
    names = iter(path)
    for name in names:
        kind: Any = found.model_fields[name].annotation
        if get_origin(kind) is dict:
            next(names)
            kind = get_args(kind)[1]
        elif get_args(kind):  # a section that may be left out
            kind = get_args(kind)[0]
        found = kind
    return found


def _conflicts(configuration: Configuration) -> Iterator[str]:
    """Say what each section allows and all together don't."""
    catalog = configuration.catalog()
    unpriced = {
        it for it, section in configuration.models.items() if not section.prices
    }
    for path, allowance, models in places(catalog):
        missing = sorted(unpriced & {model.name for model in models})
        for name in ("money_per_day", "money_per_month"):
            if missing and getattr(allowance, name) is not None:
                remedy = " and ".join(f"models.{it}.prices" for it in missing)
                yield f"{path}.{name}: money is counted by prices; set {remedy}"
        largest = int(LARGEST_BURST / allowance.burst_seconds)
        for name in ("requests_per_minute", "units_per_minute"):
            if (getattr(allowance, name) or 0) > largest:
                yield (
                    f"{path}.{name}: can't be counted exactly with burst_seconds "
                    f"{allowance.burst_seconds:g}; use {largest:_} or less"
                )
    yield from _fallback_conflicts(catalog)
    yield from _issuer_conflicts(catalog)


def _fallback_conflicts(catalog: Catalog) -> Iterator[str]:
    for name, model in catalog.models.items():
        path = f"models.{name}.fallback"
        for other in model.fallback:
            if other not in catalog.models:
                known = ", ".join(catalog.models)
                yield f"{path}: there is no model {other}; known: {known}"
            elif catalog.models[other].cluster == model.cluster:
                yield f"{path}: {other} is on the same cluster, so down with it"


def _issuer_conflicts(catalog: Catalog) -> Iterator[str]:
    by_identifier: dict[str, str] = {}
    for name, issuer in catalog.issuers.items():
        path = f"issuers.{name}"
        first = by_identifier.setdefault(issuer.identifier, name)
        if first != name:
            yield f"{path}.issuer: is that of issuers.{first} too; a token has one"
        plans = frozenset() if issuer.plan is None else issuer.plan.allowed
        for plan in sorted(plans - catalog.plans.keys()):
            yield (
                f"{path}.plan.allowed: there is no plan {plan}; "
                f"known: {', '.join(catalog.plans)}"
            )

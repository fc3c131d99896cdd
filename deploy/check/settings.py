"""What containers are set to is what the services read: names, values, certificates."""

import importlib
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from pydantic import ValidationError
from pydantic_settings import BaseSettings

from deploy.check.tree import Tree, containers, environment
from tollhouse.adapters.address import Address

_PREFIX = "TOLLHOUSE_"
_OTHERS = {
    *("POD_NAME", "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_METRIC_EXPORT_INTERVAL"),
    "OTEL_RESOURCE_ATTRIBUTES",
}


def check(tree: Tree) -> Iterator[str]:
    """Yield what a service would refuse, or never look at."""
    for where, documents, document in tree.pods():
        for container in containers(document):
            service = service_of(container.get("command", []))
            if service is None:
                continue
            values = environment(container, documents)
            for fault in (*faults(service, values), *_name_faults(tree, values)):
                yield f"{where}: {container['name']}: {fault}"


def service_of(command: list[str]) -> str | None:
    """Return which of our processes a command starts, `extproc` say."""
    match command:
        case ["python", "-m", module] if module.startswith("tollhouse."):
            return module.removeprefix("tollhouse.")
    return None


def faults(service: str, values: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the environment of one of our processes."""
    module = importlib.import_module(f"tollhouse.{service}.config")
    kind: type[BaseSettings] = module.Settings
    own = {
        name.removeprefix(_PREFIX).lower(): value
        for name, value in values.items()
        if name.startswith(_PREFIX)
    }
    for name in own.keys() - kind.model_fields:
        yield f"{_PREFIX}{name.upper()} is no setting of {service}"
    for name in values.keys() - _OTHERS:
        if not name.startswith(_PREFIX):
            yield f"{name} is read by nobody"
    try:
        settings = kind.model_validate(own)
        getattr(settings, "redis_access", None)
    except ValidationError as error:
        for it in error.errors(include_url=False, include_input=False):
            yield f"{_PREFIX}{'.'.join(map(str, it['loc'])).upper()}: {it['msg']}"
        return
    except ValueError as error:
        yield str(error)
        return
    # What `server_tls` would say at start.
    tls = [name for name in kind.model_fields if name.startswith("tls_")]
    on_tcp = not own["listen"].startswith("unix:")
    for name in tls:
        if on_tcp != (name in own):
            what = "is needed" if on_tcp else "has no use"
            yield f"{_PREFIX}{name.upper()}: {what} at {own['listen']}"


def _name_faults(tree: Tree, values: dict[str, str]) -> Iterator[str]:
    """Yield names that the certificates of deploy/secrets.sh do not have."""
    clients = values.get("TOLLHOUSE_TLS_CLIENT_NAMES", "")
    known = {it for of in ("extproc", "operator") for it in _names(tree.secrets / of)}
    for name in filter(None, clients.split(",")):
        if name not in known:
            yield f"TOLLHOUSE_TLS_CLIENT_NAMES: no certificate has the name {name}"
    target = Address.parse(values.get("TOLLHOUSE_BILLING_TARGET", "unix:/none"))
    if target.path is None and target.host not in _names(tree.secrets / "billing"):
        yield f"TOLLHOUSE_BILLING_TARGET: its certificate is not for {target.host}"


def _names(folder: Path) -> list[str]:
    certificate = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return names.value.get_values_for_type(x509.DNSName)

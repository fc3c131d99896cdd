"""A server that already speaks OpenAI's API, in the place of the local engine."""

import asyncio
import contextlib
import dataclasses
import ssl
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import yaml

from tollhouse.adapters.address import Address
from tollhouse.adapters.configuration import (
    Configuration,
    ConfigurationError,
    load,
)
from tollhouse.adapters.file_stamp import Stamp, stamp_of
from tollhouse.adapters.live import INTERVAL_SECONDS
from tollhouse.cli.local_engine import LOCAL_CLUSTER
from tollhouse.cli.state import write_whole
from tollhouse.cli.unusable import UnusableError
from tollhouse.core.catalog import Operation, Provider


@dataclasses.dataclass(frozen=True, slots=True)
class Backend:
    """Where it is, and whether Envoy talks TLS to it."""

    url: str
    address: Address
    trusted_ca: Path | None
    """Certificates that vouch for it; None: plain HTTP."""
    key_file: Path | None = None
    """Holds the key it asks for; None: it asks for none."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Read `http[s]://host[:port][/v1]`. Raises ValueError, worded for a person."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"`{url}` is not http://HOST:PORT")
        if parts.path.rstrip("/") not in ("", "/v1"):
            raise ValueError(
                f"`{url}`: only a server whose API is under /v1 can be used;"
                " leave the path out"
            )
        if parts.username or parts.query or parts.fragment:
            raise ValueError(f"`{url}`: only scheme, host and port are of use here")
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        trusted = ssl.get_default_verify_paths().cafile if is_tls else None
        if is_tls and trusted is None:
            raise ValueError(f"`{url}`: no system certificates to verify it with")
        return cls(
            url,
            Address(host=parts.hostname, port=port),
            None if trusted is None else Path(trusted),
        )

    def trusting(self, authorities: Path) -> Self:
        """Believe these authorities, not the system's. Raises UnusableError."""
        # Dear to import, and of use here only.
        from tollhouse.adapters.certificates import (  # noqa: PLC0415
            CertificateError,
            read_authorities,
        )

        try:
            read_authorities(authorities)
        except CertificateError as error:
            raise UnusableError(f"--backend-ca: {error}") from error
        return dataclasses.replace(self, trusted_ca=authorities.absolute())

    def with_key(self, file: Path) -> Self:
        """Show it the key in this file. Raises UnusableError."""
        # Dear to import, as all of Envoy's types.
        from tollhouse.cli.envoy_credential import check_key_file  # noqa: PLC0415

        try:
            check_key_file(file)
        except UnusableError as error:
            raise UnusableError(f"--backend-key-file: {error}") from error
        return dataclasses.replace(self, key_file=file.absolute())

    @property
    def host(self) -> str:
        """The Host header it expects."""
        return urlsplit(self.url).netloc


def for_backend(configuration: Configuration) -> Configuration:
    """Return the configuration with all models served by the one backend.

    Whose server it is, and how it calls them, is theirs to say. There is nobody to
    fall back to.
    """
    models = {
        name: model.model_copy(
            update={
                "cluster": LOCAL_CLUSTER,
                "provider": Provider.OPENAI,
                "operations": served,
                "fallback": (),
                "triton": None,
            }
        )
        for name, model in configuration.models.items()
        if (served := model.operations - {Operation.INFER})
    }
    return configuration.model_copy(update={"models": models})


def to_yaml(configuration: Configuration) -> str:
    """Return the text of a tollhouse.yaml that says the same."""
    return yaml.safe_dump(configuration.model_dump(mode="json"), sort_keys=False)


async def follow(
    source: Path, copy: Path, *, interval_seconds: float = INTERVAL_SECONDS
) -> None:
    """Keep `copy` what the tollhouse.yaml at `source` says for a backend.

    Never returns. What can't be read or written is tried again.
    """
    last: Stamp = ()
    taken: Stamp = ()
    while True:
        now = stamp_of(source)
        if now == last and now != taken:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                _renew(source, copy)
                taken = now
        last = now
        await asyncio.sleep(interval_seconds)


def _renew(source: Path, copy: Path) -> None:
    try:
        text = to_yaml(for_backend(load(source)))
    except ConfigurationError:
        # Who follows the copy says what is wrong, and goes on with what was right.
        text = source.read_text("utf-8")
    write_whole(copy, text)

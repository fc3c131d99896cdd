"""A gRPC server of ours as its clients see it: over a Unix socket, or with TLS."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from tollhouse.adapters.process import StartError
from tollhouse.adapters.tls_files import (
    FollowedFiles,
    NamedFile,
    TlsFiles,
    TlsFilesError,
)

Options = Sequence[tuple[str, str | int]]

# A proxy that http_proxy names would get on loopback what is not meant to leave it.
_DIRECTLY = (("grpc.enable_http_proxy", 0),)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """Of a client: whom it trusts and who it is, each named by its setting."""

    authorities: NamedFile
    chain: NamedFile
    key: NamedFile
    server_name: str | None = None
    """A DNS name the server's certificate must have; None: the target's host."""


class Remote:
    """Where a server is and how to reach it."""

    def __init__(self, target: str, tls: ClientTls | None = None) -> None:
        """Take gRPC's target; its files are read here. Raises TlsFilesError."""
        self.target = target
        self._files: FollowedFiles | None = None
        self._named: Options = ()
        if tls is not None:
            self._files = FollowedFiles(TlsFiles(tls.chain, tls.key, tls.authorities))
            if tls.server_name is not None:
                self._named = (("grpc.ssl_target_name_override", tls.server_name),)

    def has_changed(self) -> bool:
        """Tell whether there are new certificates since: they need a new channel."""
        return self._files is not None and self._files.have_changed()

    def channel(self, options: Options = ()) -> grpc.aio.Channel:
        """Open a channel for the event loop."""
        if (credentials := self._credentials()) is None:
            return grpc.aio.insecure_channel(
                self.target, options=(*_DIRECTLY, *options)
            )
        return grpc.aio.secure_channel(
            self.target, credentials, options=(*self._named, *options)
        )

    def blocking_channel(self) -> grpc.Channel:
        """Open a channel for a command that waits for its answers."""
        if (credentials := self._credentials()) is None:
            return grpc.insecure_channel(self.target, options=_DIRECTLY)
        return grpc.secure_channel(self.target, credentials, options=self._named)

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if self._files is None:
            return None
        material = self._files.material
        return grpc.ssl_channel_credentials(
            material.authorities, material.key, material.chain
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """What settings or options say about a server, and their names for messages."""

    target: tuple[str, str]
    ca_file: tuple[str, Path | None]
    cert_file: tuple[str, Path | None]
    key_file: tuple[str, Path | None]
    server_name: tuple[str, str | None]


def open_remote(settings: RemoteSettings) -> Remote:
    """Return the server. Raises StartError with all that is wrong.

    Over TCP it takes TLS with a certificate of ours, which our servers ask for. Without
    TLS a target is a Unix socket or on loopback, where a proxy may add it.
    """
    setting, target = settings.target
    named = (settings.ca_file, settings.cert_file, settings.key_file)
    given = [name for name, value in (*named, settings.server_name) if value]
    faults: list[str] = []
    if target.startswith(("unix:", "unix-abstract:")):
        if given:
            faults.append(
                f"{', '.join(given)}: there is no TLS on the Unix socket {target}"
            )
    elif given:
        faults += [
            f"{name}: is not set; {target} is reached with TLS, where both sides have a"
            " certificate"
            for name, value in named
            if value is None
        ]
    elif not is_loopback(target):
        faults.append(
            f"{setting}: {target} is on another machine, and without TLS everybody"
            f" between could read and change what is sent; set {settings.ca_file[0]},"
            f" {settings.cert_file[0]} and {settings.key_file[0]}"
        )
    if faults:
        raise StartError("\n".join(faults))
    files = [NamedFile(name, path) for name, path in named if path is not None]
    if not files:
        return Remote(target)
    authorities, chain, key = files
    tls = ClientTls(
        authorities=authorities,
        chain=chain,
        key=key,
        server_name=settings.server_name[1] or None,
    )
    try:
        return Remote(target, tls)
    except TlsFilesError as error:
        raise StartError(str(error)) from error


def is_loopback(target: str) -> bool:
    """Tell whether all of a gRPC target's addresses are this machine's own."""
    for scheme in ("dns:///", "dns:", "ipv4:", "ipv6:", "passthrough:///"):
        if target.startswith(scheme):
            target = target.removeprefix(scheme)
            break
    return all(map(_is_own, target.split(",")))


def _is_own(address: str) -> bool:
    host = address.rpartition(":")[0] or address
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

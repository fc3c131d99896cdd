"""mTLS of our gRPC servers on TCP: who may connect, by which names.

A client's certificate leads to our authority, which gRPC checks in the handshake, and
one of its names is one we expect, to the letter: that is checked here, before any code
of a servicer runs. The files may be replaced without a restart (`tls_files`).
"""

import contextlib
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc.aio
import structlog
from pydantic import Field
from pydantic_settings import BaseSettings

from tollhouse.adapters.listening import socket_path
from tollhouse.adapters.process import StartError
from tollhouse.adapters.tls_files import (
    FollowedFiles,
    NamedFile,
    TlsFiles,
    TlsFilesError,
)

# How gRPC calls the names in a verified certificate. Its e-mail and IP addresses count
# for nothing, nor does its subject: an authority vouches for those less strictly.
_NAMES_OF_PEER = ("peer_dns", "peer_uri")
_NAME = re.compile(
    r"[a-z][a-z0-9+.-]*://[!-~]+|[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?"
)
# The authority signs few names; should it not, the log stays bounded.
_MOST_TOLD = 100

_SETTINGS = ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE", "TLS_CLIENT_NAMES")

_log = structlog.get_logger()

if TYPE_CHECKING:  # generic for type checkers only
    _Method = grpc.RpcMethodHandler[Any, Any]
    _Context = grpc.aio.ServicerContext[Any, Any]
else:
    _Method, _Context = grpc.RpcMethodHandler, grpc.aio.ServicerContext


class TlsSettings(BaseSettings):
    """Settings of a process whose gRPC server may listen on TCP."""

    tls_cert_file: Path | None = Field(
        None, description="PEM: this server's certificate, then those that lead to it"
    )
    tls_key_file: Path | None = Field(None, description="PEM: its private key")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM: the authorities that sign its clients' certificates"
    )
    tls_client_names: str | None = Field(
        None,
        description="DNS names or spiffe:// URIs, comma-separated: a client's "
        "certificate must have one of them",
    )


class ServerTls:
    """The TLS of one gRPC server."""

    def __init__(self, files: TlsFiles, client_names: Iterable[str]) -> None:
        """Read the files. Raises TlsFilesError."""
        self._followed = FollowedFiles(files)
        self._followed.tell()
        self.known_clients = KnownClients(client_names)
        """Has to stand before all servicers of the server."""

    def credentials(self) -> grpc.ServerCredentials:
        """Return what a secure port is opened with; the files are followed."""
        return grpc.dynamic_ssl_server_credentials(
            self._configuration(),
            self._changed,  # type: ignore[arg-type]  # may be None
            require_client_authentication=True,
        )

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        material = self._followed.material
        return grpc.ssl_server_certificate_configuration(
            [(material.key, material.chain)], root_certificates=material.authorities
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        # Called by gRPC's threads before each handshake; None: as before.
        return self._configuration() if self._followed.have_changed() else None


def server_tls(listen: str, settings: TlsSettings) -> ServerTls | None:
    """Return the TLS of a server that listens there; None for a Unix socket's.

    Raises StartError with everything that is wrong: settings missing, of no effect, or
    of files that can't be used.
    """
    values = {
        f"TOLLHOUSE_{name}": getattr(settings, name.lower()) for name in _SETTINGS
    }
    if socket_path(listen) is not None:
        if useless := [name for name, value in values.items() if value is not None]:
            raise StartError(
                f"{', '.join(useless)}: there is no TLS on a Unix socket; unset"
                f" {'it' if len(useless) == 1 else 'them'}, or set TOLLHOUSE_LISTEN to"
                " host:port"
            )
        return None
    faults = [
        f"{name}: is not set; on TCP ({listen}) we serve over mTLS only. Set it, or"
        " TOLLHOUSE_LISTEN to unix:/path"
        for name, value in values.items()
        if value is None
    ]
    names = [it.strip() for it in (settings.tls_client_names or "").split(",")]
    if settings.tls_client_names is not None:
        faults += [
            f"TOLLHOUSE_TLS_CLIENT_NAMES: {it!r} is neither a DNS name nor a URI; names"
            " match to the letter, without wildcards"
            for it in names
            if not _NAME.fullmatch(it)
        ]
    files = {name: value for name, value in values.items() if name.endswith("_FILE")}
    if None not in files.values():
        try:
            tls = ServerTls(
                TlsFiles(*(NamedFile(name, path) for name, path in files.items())),
                names,
            )
        except TlsFilesError as error:
            faults += str(error).splitlines()
        else:
            if not faults:
                return tls
    raise StartError("\n".join(faults))


class KnownClients(grpc.aio.ServerInterceptor):
    """Refuses whoever has a good certificate in another name: PERMISSION_DENIED."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.encode() for name in names)
        self._told = set[tuple[bytes, ...]]()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Method | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Method | None:
        """Put the check before the method, if there is one of that name."""
        method = await continuation(handler_call_details)
        return None if method is None else self._guarded(method)

    def _guarded(self, method: _Method) -> _Method:
        coders = (method.request_deserializer, method.response_serializer)
        match method.request_streaming, method.response_streaming:
            case False, False:
                answer = self._one(method.unary_unary)
                return grpc.unary_unary_rpc_method_handler(answer, *coders)
            case True, False:
                answer = self._one(method.stream_unary)
                return grpc.stream_unary_rpc_method_handler(answer, *coders)
            case False, True:
                answers = self._many(method.unary_stream)
                return grpc.unary_stream_rpc_method_handler(answers, *coders)
            case _:
                answers = self._many(method.stream_stream)
                return grpc.stream_stream_rpc_method_handler(answers, *coders)

    def _one(self, method: Any) -> Any:
        async def guarded(request: Any, context: _Context) -> Any:
            await self._check(context)
            return await method(request, context)

        return guarded

    def _many(self, method: Any) -> Any:
        async def guarded(request: Any, context: _Context) -> None:
            await self._check(context)
            if not inspect.isasyncgenfunction(method):  # it writes for itself
                await method(request, context)
                return
            async with contextlib.aclosing(method(request, context)) as responses:
                async for response in responses:
                    await context.write(response)

        return guarded

    async def _check(self, context: _Context) -> None:
        identity = context.auth_context()
        names = tuple(name for of in _NAMES_OF_PEER for name in identity.get(of, ()))
        if self._names.isdisjoint(names):
            self._tell(names)
            await context.abort(
                grpc.StatusCode.PERMISSION_DENIED,
                "this server does not expect a client of that name",
            )

    def _tell(self, names: tuple[bytes, ...]) -> None:
        if names in self._told or len(self._told) >= _MOST_TOLD:
            return
        self._told.add(names)
        _log.warning(
            "client.refused",
            names=[name.decode("utf-8", "replace") for name in names],
            expected=sorted(name.decode() for name in self._names),
        )

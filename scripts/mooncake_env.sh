#!/usr/bin/env bash
# mooncake_env.sh: makes what tests need to run Mooncake without a GPU, and prints where: a folder of
# packages of tests/support/mooncake.lock for $PYTHON. It stays under ${XDG_CACHE_HOME:-~/.cache}/kvcore,
# is made when missing, and is named after what it is made of. Any number of these may run at once.
# Says in one line why it cannot.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
lock=$root/tests/support/mooncake.lock
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvcore
python=${PYTHON:-python3}

fail() {
  printf 'mooncake_env: %s\n' "$*" >&2
  exit 1
}

# The library of RDMA's verbs, which the wheel is linked to; installed where that needs no password.
try_to_install_verbs() {
  ldconfig -p | grep 'libibverbs\.so\.1 ' >/dev/null && return
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y libibverbs1; } >&2 || true
}

make_packages() {
  local packages=$1 making
  making=$(mktemp -d "$cache/making-XXXXXX")
  # shellcheck disable=SC2064  # this directory, now
  trap "rm -rf '$making'" EXIT
  "$python" -m pip --disable-pip-version-check install -q --no-deps --only-binary :all: \
    --retries 2 --timeout 15 --target "$making/packages" -r "$lock" >"$making/log" 2>&1 ||
    fail "cannot install $lock: $(grep -m 1 ERROR "$making/log" || tail -n 1 "$making/log")"
  try_to_install_verbs
  PYTHONPATH=$making/packages "$python" -c 'import mooncake.store' >"$making/log" 2>&1 ||
    fail "mooncake does not run here: $(tail -n 1 "$making/log")"
  chmod 755 "$making/packages"
  rm -rf "$packages"
  mv -T "$making/packages" "$packages"
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "there are wheels of mooncake for Linux on x86-64 alone"
"$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip"
tag=$("$python" -c 'import sys, sysconfig; print(sys.implementation.cache_tag + "-" + sysconfig.get_platform())')
packages=$cache/mooncake-$(sha256sum "$lock" | cut -c 1-12)-$tag
mkdir -p "$cache"

# Whoever comes second waits, and finds them made.
exec 9>"$cache/mooncake.lock"
flock 9
[ -x "$packages/mooncake/mooncake_master" ] || make_packages "$packages"
try_to_install_verbs
printf '%s\n' "$packages"

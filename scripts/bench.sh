#!/usr/bin/env bash
# bench.sh [NAME [JSON]]: runs a benchmark of .venv's kvcore (hash, table, cache, evict, copy, disk or
# store; all but store where none is named) beside its peers. These are installed once a version of benchmarks/peers.txt
# and of Python, under ${XDG_CACHE_HOME:-~/.cache}/kvcore.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
name=${1:-}
json=${2:-}
python=$root/.venv/bin/python
requirements=$root/benchmarks/peers.txt

case $name in
  "" | hash | table | cache | evict | copy | disk | store) ;;
  *)
    echo "bench: there is no benchmark '$name'; there are: hash, table, cache, evict, copy, disk, store" >&2
    exit 2
    ;;
esac
if ! "$python" -c 'import kvcore' 2>/dev/null; then
  echo "bench: kvcore is not built in $root/.venv; build it with: make -C $root bench" >&2
  exit 1
fi

tag=$("$python" -c 'import sys, sysconfig; print(sys.implementation.cache_tag + sys.abiflags + "-" + sysconfig.get_platform())')
cache=${XDG_CACHE_HOME:-$HOME/.cache}/kvcore
peers=$cache/bench-$(sha256sum "$requirements" | cut -c 1-12)-$tag
if [ ! -d "$peers" ]; then
  mkdir -p "$cache"
  making=$(mktemp -d "$cache/making-XXXXXX")
  trap 'rm -rf "$making"' EXIT
  echo "bench: installing the peers into $peers" >&2
  "$python" -m pip --disable-pip-version-check install -q --no-warn-conflicts --target "$making" -r "$requirements"
  chmod 755 "$making"
  # Where another run was faster, its result stands.
  mv -T "$making" "$peers" 2>/dev/null || [ -d "$peers" ]
fi

options=()
if [ "$name" = store ]; then
  # The tests' server: it needs no RDMA card, and keeps to loopback.
  { read -r infinistore && read -r preloads; } < <("$root/scripts/infinistore_env.sh")
  wrappers=$(mktemp -d)
  trap 'rm -rf "$wrappers"' EXIT
  for command in infinistore python; do
    preload=
    [ $command = python ] || preload="LD_PRELOAD=$preloads/hostfix.so:$preloads/fence.so"
    printf '#!/bin/sh\nexport LD_LIBRARY_PATH=%s %s\nexec %s "$@"\n' \
      "$preloads" "$preload" "$infinistore/bin/$command" >"$wrappers/$command"
    chmod 755 "$wrappers/$command"
  done
  options=(--command "$wrappers/infinistore" --compare official --python "$wrappers/python")
fi

if [[ $name =~ ^(copy)?$ ]] && ! "$python" -c 'import torch' 2>/dev/null; then
  # The build for CPUs alone; that with CUDA takes gigabytes.
  "$python" -m pip --disable-pip-version-check install -q --only-binary torch "torch==2.13.0+cpu" ||
    echo "bench: no CPU build of torch for this machine; it is left out" >&2
fi

PYTHONPATH=$peers${PYTHONPATH:+:$PYTHONPATH} "$root/.venv/bin/kvcore" bench \
  ${name:+"$name"} "${options[@]}" ${json:+--json "$json"}

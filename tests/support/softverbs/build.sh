#!/bin/sh
# build.sh OUT_DIR: compiles the preloads; needs gcc and the C library's headers only.
#   libibverbs.so.1  a software RDMA device, under the name that the wheel links to
#   hostfix.so       what else the server needs on a machine that is not a cluster's
#   fence.so         keeps a server on loopback and ends it with its parent
# The server runs under LD_LIBRARY_PATH=OUT_DIR LD_PRELOAD=OUT_DIR/hostfix.so:OUT_DIR/fence.so, a
# client over RDMA under LD_LIBRARY_PATH=OUT_DIR; a client over TCP needs neither.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
set -- -std=gnu11 -O2 -Wall -Wextra -shared -fPIC -pthread
cc=${CC:-gcc}
$cc "$@" -o hostfix.so "$here/hostfix.c" -ldl
$cc "$@" -o fence.so "$here/fence.c" -ldl
$cc "$@" -Wl,-soname,libibverbs.so.1 -Wl,--version-script="$here/libibverbs.map" \
  -o libibverbs.so.1 "$here/device.c" "$here/completions.c" "$here/queue_pair.c" "$here/carrier.c"

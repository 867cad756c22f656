#!/usr/bin/env bash
# fuzz.sh [SECONDS] [TARGET...]: builds the fuzz targets (connection, envelope) with Clang's
# libFuzzer and the sanitizers for addresses and undefined behaviour, and runs each for so long (60
# seconds; 0 replays what is kept). What is found new is kept in build/fuzz/corpus, what fails in
# build/fuzz/found. MERGE=1 then makes tests/fuzz/corpus of all of it: as little as covers the same.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
seconds=${1:-60}
shift || true
[ $# -gt 0 ] || set -- connection envelope

fail() {
  printf 'fuzz: %s\n' "$*" >&2
  exit 1
}

find_clang() {
  local clang
  for clang in "${CXX:-clang++}" clang++ clang++-{20,19,18,17,16,15,14}; do
    if echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, long) { return 0; }' |
      "$clang" -x c++ -fsanitize=fuzzer,address,undefined -o /dev/null - 2>/dev/null; then
      command -v "$clang"
      return
    fi
  done
  return 1
}

if ! clang=$(find_clang); then
  # Where that needs no password.
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y clang >&2 || true
  fi
  clang=$(find_clang) ||
    fail "there is no Clang with libFuzzer; install it with: sudo apt-get install -y clang"
fi

cmake --preset fuzz -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_C_COMPILER="${clang/clang++/clang}" \
  -Wno-dev >/dev/null
for target in "$@"; do
  [ -f "tests/fuzz/${target}_target.cpp" ] || fail "TARGET must be connection or envelope, got $target"
  cmake --build --preset fuzz --target "fuzz_$target"
done
for target in "$@"; do
  kept=tests/fuzz/corpus/$target new=build/fuzz/corpus/$target found=build/fuzz/found
  mkdir -p "$kept" "$new" "$found"
  # So long without an end is a hang; what allocates so much is wrong.
  options=(-timeout=10 -rss_limit_mb=2048 -max_len=1024 -len_control=20 "-artifact_prefix=$found/$target-")
  if [ "$seconds" = 0 ]; then
    "build/fuzz/fuzz_$target" "${options[@]}" -runs=0 "$kept"
  else
    "build/fuzz/fuzz_$target" "${options[@]}" -use_value_profile=1 -print_final_stats=1 \
      "-max_total_time=$seconds" "$new" "$kept"
  fi
  if [ "${MERGE:-}" = 1 ]; then
    rm -rf "$new.merged" && mkdir "$new.merged"
    "build/fuzz/fuzz_$target" "${options[@]}" -set_cover_merge=1 "$new.merged" "$kept" "$new"
    rm -rf "$kept" && mv "$new.merged" "$kept"
  fi
done

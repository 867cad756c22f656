#!/usr/bin/env bash
# test_cpp.sh PRESET: builds and runs the C++ tests of a CMake preset; with ThreadSanitizer those of
# threads alone, since it takes 20 times as long and finds nothing in the others.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
preset=$1
cmake --preset "$preset" -Wno-dev >/dev/null
cmake --build --preset "$preset"
run=("build/$preset/kvcore_tests")
[ "$preset" != tsan ] || run+=("--test-case=threads *")
# ThreadSanitizer cannot map its shadow where addresses are randomised with many bits.
if [ "$preset" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
  run=(setarch "$(uname -m)" -R "${run[@]}")
fi
ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1 "${run[@]}"

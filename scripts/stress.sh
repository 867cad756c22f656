#!/usr/bin/env bash
# stress.sh [SECONDS] [PRESET...]: builds tests/stress with the sanitizers of CMake presets
# (asan-ubsan, tsan), and runs each for so long (300 seconds) against servers that are injured.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH="$PWD/.venv/bin:$PATH"
seconds=${1:-300}
shift || true
[ $# -gt 0 ] || set -- asan-ubsan tsan
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
for preset in "$@"; do
  cmake --preset "$preset" -Wno-dev >/dev/null
  cmake --build --preset "$preset" --target kvcore_stress
  run=()
  # ThreadSanitizer cannot map its shadow where addresses are randomised with many bits.
  if [ "$preset" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
    run=(setarch "$(uname -m)" -R)
  fi
  echo "$preset, $seconds s"
  "${run[@]}" python tests/stress/stress.py "build/$preset/kvcore_stress" "$seconds"
done

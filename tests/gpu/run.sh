#!/usr/bin/env bash
# run.sh OUT_DIR [SECONDS] [--dry-run]: builds kvcore with CUDA and runs all that needs a GPU: checks
# to the last byte, compute-sanitizer, benchmarks/gpu/copy.py for SECONDS (240) at most. Takes about
# ten minutes and no network. Leaves in OUT_DIR: log.txt, doctor.json, checks.txt, sanitizer.txt,
# copy.json, copy.txt; its status is 0 when all of it went well.
# A dry run needs no GPU: it builds, and runs the same lines over a loop of memmove.
# PYTHON chooses the Python, which has to have torch, triton, cupy, pytest, hypothesis, cython.
set -uo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
[ $# -ge 1 ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
seconds=240
dry=()
for word in "${@:2}"; do
  case $word in
    --dry-run) dry=(--dry-run) ;;
    *[!0-9]*|'') echo "run.sh: SECONDS must be a number, got '$word'" >&2; exit 2 ;;
    *) seconds=$word ;;
  esac
done
python=${PYTHON:-python3}
build=${KVCORE_GPU_BUILD:-$root/build/gpu}
site=$build/site
failures=0
exec > >(tee "$out/log.txt") 2>&1

# run NAME COMMAND...: says how long it took, and counts it when it fails.
run() {
  local start=$SECONDS name=$1
  shift
  echo "== $name"
  "$@"
  local status=$?
  echo "== $name: status $status, $((SECONDS - start)) s"
  [ "$status" = 0 ] || failures=$((failures + 1))
  return "$status"
}

has_module() { "$python" -P -c "import $1" 2>/dev/null; }

# What a build misses here is put in from shims/: CMake's modules that come from Python packages, and
# the few names of OpenSSL that are used where there is libcrypto without its headers.
build_kvcore() {
  local shims=$root/tests/gpu/shims options=(-DKVCORE_CUDA=on) module_path=()
  if has_module cython_cmake; then
    module_path+=("$("$python" -P -c 'import cython_cmake as c; print(c.__path__[0] + "/cmake")')")
  else
    module_path+=("$shims/cython")
  fi
  if has_module pybind11; then
    options+=("-Dpybind11_DIR=$("$python" -P -m pybind11 --cmakedir)")
  else
    options+=("-Dpybind11_DIR=$shims/pybind11")
  fi
  if ! echo '#include <openssl/sha.h>' | c++ -E -x c++ - >/dev/null 2>&1; then
    local crypto
    crypto=$(ldconfig -p | sed -n 's/.*libcrypto\.so\.3 .*=> //p' | head -n 1)
    options+=("-DOPENSSL_INCLUDE_DIR=$shims" "-DOPENSSL_CRYPTO_LIBRARY=$crypto")
  fi
  if command -v ninja >/dev/null; then options+=(-G Ninja); fi
  cmake -S "$root" -B "$build/cmake" -DCMAKE_BUILD_TYPE=Release -Wno-dev \
    "-DPython_EXECUTABLE=$(command -v "$python")" "-DCMAKE_MODULE_PATH=${module_path[*]}" \
    "${options[@]}" &&
    cmake --build "$build/cmake" --parallel "$(nproc)" &&
    rm -rf "$site" && cmake --install "$build/cmake" --prefix "$site" --strip >/dev/null &&
    cp -r "$root/kvcore/." "$site/kvcore/"
}

# Python finds what was built before the source, and nothing in the working directory.
path=$site:$root:$root/tests${PYTHONPATH:+:$PYTHONPATH}
in_python() { PYTHONPATH=$path PYTHONUNBUFFERED=1 "$python" -P "$@"; }

# Warnings of other packages are no failures here.
checks() {
  in_python -m pytest -q -p no:cacheprovider -o filterwarnings=default "$@" tests/gpu/test_gpu_copy.py
}

sanitizer() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "there is no compute-sanitizer" | tee "$out/sanitizer.txt"
    return 0
  fi
  local tool status=0
  : >"$out/sanitizer.txt"
  for tool in memcheck racecheck; do
    echo "--- $tool" >>"$out/sanitizer.txt"
    PYTHONPATH=$path timeout 100 compute-sanitizer --tool "$tool" \
      --error-exitcode 9 "$(command -v "$python")" -P -m pytest -q -x -p no:cacheprovider \
      -o filterwarnings=default tests/gpu/test_gpu_copy.py -k "thread_blocks or graph or order" \
      >>"$out/sanitizer.txt" 2>&1 || status=$?
  done
  tail -n 5 "$out/sanitizer.txt"
  return "$status"
}

doctor() { in_python -c 'from kvcore.cli import main; main()' doctor --json >"$out/doctor.json"; }

run build build_kvcore || exit 1
run doctor doctor
command -v nvidia-smi >/dev/null && nvidia-smi
run checks checks > >(tee "$out/checks.txt")
run sanitizer sanitizer
run benchmark in_python -m benchmarks.gpu.copy "$out" --seconds "$seconds" "${dry[@]}"
echo "== $failures failures in $SECONDS s"
[ "$failures" = 0 ]

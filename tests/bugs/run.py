"""Plants bugs in a copy of the source, one at a time, and expects the tests to turn red.

    make test-bugs                      all of them, twenty minutes
    tests/bugs/run.py NAME ...          these
    tests/bugs/run.py --some            four that the C++ tests notice, a minute from nothing
    tests/bugs/run.py --list

Each bug (`planted/`) names the tests that must notice it, mostly a few seconds of the suite; to
take more than a minute is to notice. Before anything is built, all bugs are checked to apply: who
changes the code that one stands in updates it. At the end the same tests must be green without a
bug. Exit status 1 if a bug was not noticed, or anything else is not as it should be.

The copy, with a build of its own, is kept in ``build/bugs``; the working tree is only read. Run it
with the Python of the environment that the tests use. Tests that want the traces beside the
repository do not find them there, so no bug counts on those.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter

from planted import BUGS, Bug

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "build" / "bugs"
BUILD = COPY / "out"
COPIED = (
    "CMakeLists.txt",
    "pyproject.toml",
    "cmake",
    "csrc",
    "kvcore",
    "scripts",
    "tests",
    "third_party",
)
SITE_PACKAGES = sysconfig.get_path("purelib")
MAX_SECONDS = 60  # of one bug's tests, which take a few
SOME = (
    "table-split-keeps-the-ids-of-the-head",
    "ghosts-drop-the-newest",
    "hazard-leaf-has-no-heir",
    "cache-evicted-ids-leak",
)


class RunError(Exception):
    """What is not as it should be, but for a bug that was not noticed."""


def synchronise() -> None:
    """Makes the copy equal to the working tree; what is equal already keeps its time."""
    wanted = {}
    for name in COPIED:
        files = (ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name]
        for file in files:
            if file.is_file() and file.suffix not in (".so", ".pyc"):
                wanted[file.relative_to(ROOT)] = file
    for name in COPIED[2:]:
        for file in (COPY / name).rglob("*"):
            if file.is_file() and file.suffix != ".so" and file.relative_to(COPY) not in wanted:
                file.unlink()
    for path, file in wanted.items():
        write(path, file.read_bytes())


def write(path: Path, content: bytes) -> None:
    file = COPY / path
    if not file.exists() or file.read_bytes() != content:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    file.chmod((ROOT / path).stat().st_mode)


def call(
    command: Sequence[str | Path], timeout_s: int | None = None, **environment: str
) -> tuple[int, str]:
    """Exit status and output."""
    done = subprocess.run(
        command,
        cwd=COPY / "tests",
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout_s,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else name


def configure() -> None:
    """As checks of invariants in debug builds notice more, this one has none of them."""
    settings = {
        "CMAKE_BUILD_TYPE": "Bugs",
        "CMAKE_CXX_FLAGS": "-O1 -DNDEBUG",
        "CMAKE_INTERPROCEDURAL_OPTIMIZATION": "OFF",
        "CMAKE_LIBRARY_OUTPUT_DIRECTORY": str(COPY / "kvcore"),
        "CMAKE_MODULE_PATH": f"{SITE_PACKAGES}/cython_cmake/cmake",
        "KVCORE_CUDA": "off",
        "KVCORE_TESTS": "ON",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": f"{SITE_PACKAGES}/pybind11/share/cmake/pybind11",
    }
    options = [f"-D{name}={value}" for name, value in settings.items()]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    status, output = call(
        [tool("cmake"), "-S", COPY, "-B", BUILD, "-GNinja", "-Wno-dev", *options], PATH=path
    )
    if status != 0:
        raise RunError(output)


def build(tests: Iterable[str]) -> None:
    targets = {"kvcore_tests" if is_cpp(test) else "_core" for test in tests}
    targets |= {"_tokens"} & {"_tokens" for target in targets if target == "_core"}
    status, output = call([tool("ninja"), "-C", BUILD, *sorted(targets)])
    if status != 0:
        raise RunError(f"it does not compile:\n{output}")


def is_cpp(tests: str) -> bool:
    return tests.split()[0] == "cpp"


def notice(tests: str) -> str | None:
    """Runs tests; answers which one failed, or None."""
    words = shlex.split(tests)
    command: list[str | Path]
    if is_cpp(tests):
        failed = r"TEST CASE:  (.*)"
        command = [BUILD / "kvcore_tests", "--abort-after=1", f"-tc={','.join(words[1:])}"]
    else:
        failed = r"(?m)^(?:FAILED|ERROR) (\S*)"
        # Without site, so that no editable install of kvcore comes before the copy.
        command = [sys.executable, "-S", "-m", "pytest", "-xq", "-p", "no:cacheprovider", *words]
    try:
        status, output = call(
            command,
            MAX_SECONDS,
            PYTHONPATH=f"{COPY}{os.pathsep}{SITE_PACKAGES}",
            PYTHONDONTWRITEBYTECODE="1",
            HYPOTHESIS_PROFILE="bugs",
        )
    except subprocess.TimeoutExpired:
        return f"{tests} (takes more than {MAX_SECONDS} s)"
    if re.search(r"test cases: *0 ", output):
        raise RunError(f"no test case is called {tests}")
    if status == 0:
        return None
    if found := re.search(failed, output):
        return found[1]
    if status < 0:  # a signal: the process has stopped itself, or lost its way
        return f"{tests} (signal {-status})"
    raise RunError(f"{tests} ended with status {status}:\n{output}")


def tests_without_a_bug(bugs: Iterable[Bug]) -> list[str]:
    return sorted({bug.tests for bug in bugs})


def run(bugs: Sequence[Bug]) -> list[str]:
    """Answers what is not as it should be."""
    wrong: list[str] = []
    synchronise()
    configure()
    start = perf_counter()
    build(tests_without_a_bug(bugs))
    print(f"built in {perf_counter() - start:.0f} s", flush=True)
    for bug in sorted(bugs, key=lambda bug: bug.planted(ROOT)[0]):
        path, text = bug.planted(ROOT)
        start, known = perf_counter(), len(wrong)
        seen: str | None = "?"
        try:
            write(path, text.encode())
            if path.suffix in (".cpp", ".h", ".pyx"):
                build([bug.tests])
            built = perf_counter()
            seen = notice(bug.tests)
        except RunError as failure:
            built = perf_counter()
            wrong.append(f"{bug.name}: {failure}")
        else:
            if seen is None:
                wrong.append(f"{bug.name}: nobody noticed; {bug.why}")
        write(path, (ROOT / path).read_bytes())
        if wrong[known:]:
            print(*wrong[known:], sep="\n", file=sys.stderr, flush=True)
        took = f"{built - start:4.0f} + {perf_counter() - built:.0f} s"
        print(f"{bug.name:44} {took:>12}  {seen or 'NOT NOTICED'}", flush=True)

    build(tests_without_a_bug(bugs))
    for tests in tests_without_a_bug(bugs):
        try:
            if seen := notice(tests):
                wrong.append(f"without a bug: {seen} fails")
        except RunError as failure:
            wrong.append(f"without a bug: {failure}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--some", action="store_true", help=f"plant {', '.join(SOME)}")
    parser.add_argument("--list", action="store_true", help="list them and plant none")
    options = parser.parse_args()
    by_name = {bug.name: bug for bug in BUGS}
    if unknown := set(options.names) - by_name.keys():
        parser.error(f"no bug is called {', '.join(sorted(unknown))}; see --list")
    if options.list:
        for bug in BUGS:
            print(f"{bug.name:44} {bug.why}")
        return 0
    try:
        for bug in BUGS:
            bug.planted(ROOT)
        names = SOME if options.some else options.names
        bugs = [by_name[name] for name in names] or BUGS
        wrong = run(bugs)
    except (RunError, ValueError) as failure:
        wrong = [str(failure)]
    else:
        print(f"{len(bugs)} bugs, {len(wrong)} times not as it should be")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""What `import kvcore` promises."""

import subprocess
import sys

import kvcore


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_touches_numpy_alone() -> None:
    others = run(
        "import sys, numpy; before = set(sys.modules); import kvcore;"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    ).split()
    allowed = {"kvcore", "numpy", "cython_runtime"}
    strangers = {
        name
        for name in others
        if name not in sys.stdlib_module_names | allowed and not name.startswith("_cython_")
    }
    assert not strangers


def test_public_names_are_there_and_documented() -> None:
    for name in kvcore.__all__:
        member = getattr(kvcore, name)
        assert name == "POLICIES" or member.__doc__, name
    for name, member in vars(kvcore.PrefixCache).items():
        if not name.startswith("_"):
            assert name in {"num_blocks", "policy"} or member.__doc__, name


def test_native_modules_are_declared_for_free_threaded_python() -> None:
    # On a free-threaded build, importing a module that is not declared so would take the GIL back.
    enabled = run("import sys, kvcore; print(getattr(sys, '_is_gil_enabled', lambda: True)())")
    built_with_gil = run("import sysconfig; print(not sysconfig.get_config_var('Py_GIL_DISABLED'))")
    assert enabled == built_with_gil

"""`kvcore doctor`, and who copies on a device."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from kvcore import cuda, device_copy
from kvcore.cli import main


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["doctor", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_json_has_what_was_compiled_found_and_used() -> None:
    diagnosis = json.loads(run("--json"))
    assert list(diagnosis) == ["compiled", "found", "used"]
    compiled, found, used = diagnosis.values()
    assert compiled["cuda"] == cuda.is_built()
    assert compiled["cuda_architectures"] == list(cuda.architectures())
    assert found["cores"] >= 1
    assert found["shared_memory"] is None or found["shared_memory"]["bytes"] > 0
    assert (used["why_not_cuda"] is None) == (len(found["gpus"]) > 0)
    assert used["device_copies"] in {None, "cuda", "triton"}
    assert used["cpu_copies"] in {"avx512", "avx2", "neon", "portable"}
    assert compiled["io_uring"] >= (used["disk_reads"] == "io_uring")


def test_table_has_the_same_facts() -> None:
    text = run()
    for name, facts in json.loads(run("--json")).items():
        assert name in text
        for fact in facts:
            assert fact.replace("_", " ") in text


def test_a_build_without_cuda_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_module", lambda: None)
    diagnosis = json.loads(run("--json"))
    assert diagnosis["compiled"]["cuda"] is False
    assert diagnosis["compiled"]["cuda_architectures"] == []
    assert diagnosis["compiled"]["cuda_runtime"] is None
    assert "built without CUDA" in diagnosis["used"]["why_not_cuda"]
    assert "cuda architectures  none" in run()


@pytest.mark.parametrize(
    ("why_not_cuda", "accelerator", "backend"),
    [(None, "cuda", "cuda"), (None, "", "cuda"), ("no GPU", "xpu", "triton"), ("no GPU", "", "")],
)
def test_cuda_is_preferred_to_triton(
    monkeypatch: pytest.MonkeyPatch, why_not_cuda: str | None, accelerator: str, backend: str
) -> None:
    monkeypatch.setattr(cuda, "why_unavailable", lambda: why_not_cuda)
    monkeypatch.setattr(device_copy, "accelerator", lambda: accelerator)
    monkeypatch.setattr(device_copy.util, "find_spec", lambda name: name)
    assert device_copy.backend() == backend


@pytest.mark.parametrize("torch", [OSError("libcudart.so.12: cannot open"), AttributeError("old")])
def test_a_torch_that_does_not_work_is_none(
    monkeypatch: pytest.MonkeyPatch, torch: Exception
) -> None:
    def fail(name: str) -> None:
        raise torch

    monkeypatch.setattr(device_copy, "import_module", fail)
    monkeypatch.setattr(device_copy.util, "find_spec", lambda name: name)
    assert device_copy.accelerator() == ""


def test_without_any_device_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "why_unavailable", lambda: "there is no driver")
    monkeypatch.setattr(device_copy, "accelerator", lambda: "")
    anything: Any = None
    with pytest.raises(RuntimeError, match="no device can copy: there is no driver; and torch"):
        device_copy.device_transfer(anything, anything, [], [], device="cuda:0")

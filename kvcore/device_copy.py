"""Who copies on a device: the CUDA module where it has a GPU, else Triton where torch has one."""

from __future__ import annotations

from importlib import import_module, util
from typing import TYPE_CHECKING, Any

from kvcore import cuda
from kvcore.planes import IntArray, PagedPlanes

if TYPE_CHECKING:
    from kvcore.triton_copy import TritonTransfer


def backend() -> str:
    """``"cuda"``, ``"triton"``, or ``""`` where no device can copy. May have to import torch."""
    if cuda.available():
        return "cuda"
    return "triton" if accelerator() and util.find_spec("triton") else ""


def accelerator() -> str:
    """The kind of device that torch sees (``"cuda"``, AMD's too; ``"xpu"``); ``""`` for none."""
    if util.find_spec("torch") is None:
        return ""
    try:
        torch = import_module("torch")
        if not torch.accelerator.is_available():
            return ""
        found = torch.accelerator.current_accelerator()
    except (ImportError, OSError, AttributeError):  # a broken torch, or one before 2.6
        return ""
    return found.type if found is not None else ""


def device_transfer(
    layers: PagedPlanes,
    slab: object,
    block_ids: IntArray,
    slab_blocks: IntArray,
    *,
    device: Any,
    max_thread_blocks: int = 0,
) -> cuda.CudaTransfer | TritonTransfer:
    """Copies between a paged cache on a device and a slab, by who can make them there.

    Parameters
    ----------
    layers, slab, block_ids, slab_blocks, max_thread_blocks
        As `kvcore.cuda.CudaTransfer` takes them.
    device : torch.device or str
        Whose memory the paged cache is in: ``"cuda:0"``, ``"xpu:1"``.

    Raises
    ------
    RuntimeError
        If nobody can; says why.
    """
    kind, _, index = str(device).partition(":")
    who = backend()
    if who == "cuda" and kind == "cuda":
        return cuda.CudaTransfer(
            layers,
            slab,
            block_ids,
            slab_blocks,
            device=int(index or 0),
            max_thread_blocks=max_thread_blocks,
        )
    if who == "":
        raise RuntimeError(
            f"no device can copy: {cuda.why_unavailable()}; and torch with triton sees no other"
        )
    triton_copy = import_module("kvcore.triton_copy")
    transfer: TritonTransfer = triton_copy.TritonTransfer(
        layers, slab, block_ids, slab_blocks, device=device, max_programs=max_thread_blocks
    )
    return transfer

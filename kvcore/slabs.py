"""Slabs: memory cut into equal blocks, on the host or on a device."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from kvcore._core import HostMemory
from kvcore.planes import Described, SlabMemory, described

if TYPE_CHECKING:
    import torch


class HostSlab:
    """Host memory for blocks, all of it there from the start.

    One mapping; each block begins on a border of 64 bytes, so blocks of other sizes have gaps
    between them. Arrays and tensors over it share the memory and keep it, also when the slab itself
    is gone.

    Parameters
    ----------
    num_blocks : int
        From 1 to 2**30.
    block_bytes : int
        Bytes of a block, of all layers.
    huge_pages : str
        "try": where the kernel has them to spare (2 MiB each); "require": from its reserve
        (``vm.nr_hugepages``) or not at all; "off".
    numa_node : int, optional
        The memory's NUMA node; without it, that of the threads that fault it in.
    threads : int
        Threads that fault it in, 1 to 256.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.
    OSError
        The kernel has no such memory.

    Examples
    --------
    >>> slab = HostSlab(num_blocks=1024, block_bytes=1 << 20)
    >>> slab.view(np.float16, (2, 16, 16384)).shape
    (1024, 2, 16, 16384)
    """

    def __init__(
        self,
        num_blocks: int,
        block_bytes: int,
        *,
        huge_pages: str = "try",
        numa_node: int | None = None,
        threads: int = 1,
    ) -> None:
        self._memory = HostMemory(
            num_blocks, block_bytes, huge_pages=huge_pages, numa_node=numa_node, threads=threads
        )

    @property
    def num_blocks(self) -> int:
        return self._memory.num_blocks

    @property
    def block_bytes(self) -> int:
        """Bytes of a block that are used."""
        return self._memory.block_bytes

    @property
    def stride_bytes(self) -> int:
        """Bytes from one block to the next: `block_bytes` up to a multiple of 64."""
        return self._memory.stride_bytes

    @property
    def nbytes(self) -> int:
        """Bytes of memory, whole huge pages."""
        return self._memory.bytes

    def numpy(self) -> npt.NDArray[np.uint8]:
        """uint8[num_blocks, block_bytes] over the same memory."""
        return self._memory.numpy()

    def view(self, dtype: npt.DTypeLike, shape: Sequence[int]) -> npt.NDArray[Any]:
        """The blocks as arrays of a type and shape, over the same memory.

        Raises
        ------
        ValueError
            A block has other bytes than such an array.
        """
        wanted = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if wanted != self.block_bytes:
            raise ValueError(
                f"dtype and shape must make {self.block_bytes} bytes, as a block has, "
                f"got {np.dtype(dtype)}{list(shape)} of {wanted}"
            )
        return self.numpy().view(dtype).reshape(self.num_blocks, *shape)

    def torch(self) -> torch.Tensor:
        """uint8[num_blocks, block_bytes] as a tensor over the same memory; needs torch."""
        import torch

        return torch.from_numpy(self.numpy())

    @cached_property
    def slab_memory(self) -> SlabMemory:
        """Where the blocks are, for many calls with the same slab."""
        array = self.numpy()
        return SlabMemory(
            array.ctypes.data, self.block_bytes, self.stride_bytes, self.num_blocks, array
        )

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.numpy().__array_interface__

    def __dlpack__(self, **options: Any) -> Any:
        return self.numpy().__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.numpy().__dlpack_device__()

    @property
    def is_pinned(self) -> bool:
        """Whether devices reach the memory."""
        return self._memory.is_pinned

    def pin(self) -> None:
        """Register the memory with CUDA, so that devices reach it; once is enough.

        Raises
        ------
        RuntimeError
            There is no CUDA device, or it will not.
        """
        from kvcore import cuda

        self._memory.pin(cuda.pinning())

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(num_blocks={self.num_blocks}, block_bytes={self.block_bytes})"
        )


class DeviceSlab:
    """Memory of a device for blocks: lent by whoever has it, or our own.

    Parameters
    ----------
    memory : tensor or array
        Dense, of any type and shape; it is kept.
    block_bytes : int
        Divides the memory.

    Attributes
    ----------
    num_blocks, block_bytes : int
    device : str
        ``"cuda:0"``, ...
    slab_memory : SlabMemory
        As copies take it.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.
    """

    def __init__(self, memory: object, block_bytes: int) -> None:
        lent = described("memory", memory)
        num_bytes = _dense_bytes(lent)
        if isinstance(block_bytes, bool) or not isinstance(block_bytes, SupportsIndex):
            raise TypeError(f"block_bytes must be an int, got {type(block_bytes).__name__}")
        block_bytes = operator.index(block_bytes)
        if block_bytes < 1 or num_bytes % block_bytes != 0:
            raise ValueError(
                f"block_bytes must divide the {num_bytes} bytes of memory, got {block_bytes}"
            )
        self._set(lent.address, num_bytes // block_bytes, block_bytes, lent.device, memory)

    @classmethod
    def allocate(cls, num_blocks: int, block_bytes: int, device: int = 0) -> DeviceSlab:
        """A slab in memory of its own, of a CUDA device.

        Raises
        ------
        TypeError, ValueError
            An argument is wrong.
        RuntimeError
            CUDA is not available, or has not so much.
        """
        from kvcore import cuda

        memory = cuda.allocate(HostMemory.bytes_of(num_blocks, block_bytes), device)
        slab = cls.__new__(cls)
        slab._set(memory.address, num_blocks, block_bytes, f"cuda:{device}", memory)
        return slab

    def _set(
        self, address: int, num_blocks: int, block_bytes: int, device: str, owner: object
    ) -> None:
        self.num_blocks, self.block_bytes, self.device = num_blocks, block_bytes, device
        self.slab_memory = SlabMemory(address, block_bytes, block_bytes, num_blocks, owner, device)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """uint8[num_blocks, block_bytes] over the same memory, for torch, cupy and others."""
        if not self.device.startswith("cuda"):
            raise AttributeError(f"memory is on {self.device!r}, not on a CUDA device")
        return {
            "data": (self.slab_memory.address, False),
            "shape": (self.num_blocks, self.block_bytes),
            "typestr": "|u1",
            "strides": None,
            "version": 3,
        }

    def __repr__(self) -> str:
        return (
            f"DeviceSlab(num_blocks={self.num_blocks}, block_bytes={self.block_bytes}, "
            f"device={self.device!r})"
        )


def _dense_bytes(lent: Described) -> int:
    """Bytes of memory without gaps."""
    num_bytes = lent.itemsize
    for size, stride in reversed(list(zip(lent.shape, lent.strides, strict=True))):
        if size > 1 and stride != num_bytes:
            raise ValueError(f"memory must be dense, got strides of {list(lent.strides)} bytes")
        num_bytes *= size
    return num_bytes

"""Slabs: memory cut into equal blocks, on the host or on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kvcore._core import HostMemory

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

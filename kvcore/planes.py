"""A copy in numbers, as the native modules take it: a paged cache as planes, a slab, block ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, SupportsIndex, TypedDict

import numpy as np
import numpy.typing as npt

IntArray = npt.ArrayLike
_MAX_ID = 2**32 - 1


class PagedPlanes(Protocol):
    """A paged cache, all its layers: block `b` of plane `p` is `run_bytes` bytes, which start at
    ``plane_bases[p] + b * block_stride``. Planes come layer after layer.
    """

    @property
    def plane_bases(self) -> npt.NDArray[np.uint64]:
        """Addresses, uint64[num_planes]."""

    @property
    def num_layers(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def block_stride(self) -> int: ...
    @property
    def run_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class SlabMemory:
    """Where the blocks of a slab are: `block_bytes` each, `stride_bytes` apart, from `address` on.

    Parameters
    ----------
    owner : what keeps the memory
    device : str
        "cpu", or as torch names it
    """

    address: int
    block_bytes: int
    stride_bytes: int
    num_blocks: int
    owner: object
    device: str = "cpu"

    @property
    def host(self) -> SlabMemory:
        """The same. ValueError: it is a device's, and the CPU can not read it."""
        if self.device != "cpu":
            raise ValueError(f"slab must be in the host's memory, got one on {self.device!r}")
        return self

    @staticmethod
    def of(slab: object) -> SlabMemory:
        """The memory of a uint8[num_blocks, block_bytes] tensor or array.

        Raises
        ------
        TypeError
            If it is none, or tells no address (numpy, torch, cupy and others do).
        ValueError
            If it has not that shape and dtype, or the bytes of a block do not lie together.
        """
        if isinstance(slab, SlabMemory):
            return slab
        memory = getattr(slab, "slab_memory", None)
        if isinstance(memory, SlabMemory):
            return memory
        address, shape, strides, dtype, _, device = described("slab", slab)
        if dtype != "uint8" or len(shape) != 2 or 0 in shape:
            raise ValueError(
                f"slab must be uint8[num_blocks, block_bytes], got {dtype}{list(shape)}"
            )
        if (shape[1] > 1 and strides[1] != 1) or (shape[0] > 1 and strides[0] < shape[1]):
            raise ValueError(
                "slab must have the bytes of a block together and blocks apart, "
                f"got strides of {strides}"
            )
        # A view may be of parts of a wider slab; the last block of it is all that need be there.
        stride = strides[0] if shape[0] > 1 else shape[1]
        return SlabMemory(address, shape[1], stride, shape[0], slab, device)


class PlanNumbers(TypedDict):
    plane_bases: npt.NDArray[np.uint64]
    num_layers: int
    num_paged_blocks: int
    paged_stride: int
    run_bytes: int
    slab: int
    slab_block_bytes: int
    num_slab_blocks: int
    block_ids: npt.NDArray[np.uint32]
    slab_blocks: npt.NDArray[np.uint32]


def plan_numbers(
    layers: PagedPlanes,
    slab: SlabMemory,
    block_ids: IntArray,
    slab_blocks: IntArray,
    *,
    slab_run_bytes: int | None = None,
) -> PlanNumbers:
    """What the native modules check and copy by; runs are as long in the slab unless it is said.

    Raises
    ------
    TypeError, ValueError
        If ids are no integers from 0 to 2**32 - 1, or the slab's blocks too small.
    """
    run_bytes = layers.run_bytes if slab_run_bytes is None else slab_run_bytes
    block_bytes = len(layers.plane_bases) * run_bytes
    if block_bytes > slab.block_bytes:
        raise ValueError(
            f"slab must have blocks of {block_bytes} bytes at least, got {slab.block_bytes}"
        )
    return {
        "plane_bases": np.ascontiguousarray(layers.plane_bases, np.uint64),
        "num_layers": layers.num_layers,
        "num_paged_blocks": layers.num_blocks,
        "paged_stride": layers.block_stride,
        "run_bytes": layers.run_bytes,
        "slab": slab.address,
        "slab_block_bytes": slab.stride_bytes,
        "num_slab_blocks": slab.num_blocks,
        "block_ids": integers("block_ids", block_ids),
        "slab_blocks": integers("slab_blocks", slab_blocks),
    }


def stream_number(stream: SupportsIndex | object) -> int:
    """The handle of a stream: an int, or what torch, cupy and cuda.core call one; 0 for None."""
    if stream is None:
        return 0
    if isinstance(stream, SupportsIndex):
        return stream.__index__()
    protocol = getattr(stream, "__cuda_stream__", None)
    if callable(protocol):
        return int(protocol()[1])
    handle = getattr(stream, "cuda_stream", getattr(stream, "ptr", None))
    if not isinstance(handle, int):
        raise TypeError(f"stream must be an int or a CUDA stream, got {type(stream).__name__}")
    return handle


def integers(name: str, ids: IntArray) -> npt.NDArray[np.uint32]:
    """Integers in one dimension, as numpy, torch and lists have them.

    Raises
    ------
    TypeError, ValueError
        If they are none, or not from 0 to 2**32 - 1; as `name`.
    """
    array = np.asarray(ids)
    if array.dtype == np.uint32 and array.ndim == 1:
        return np.ascontiguousarray(array)
    if array.size == 0:
        array = array.astype(np.uint32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers in one dimension, got {array.dtype}{array.shape}")
    if array.size and not (array.min() >= 0 and array.max() <= _MAX_ID):
        wrong = array.min() if array.min() < 0 else array.max()
        raise ValueError(f"{name} must be from 0 to {_MAX_ID}, got {wrong}")
    return np.ascontiguousarray(array, np.uint32)


class Described(NamedTuple):
    """Where an array or tensor has its elements; strides are in bytes."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    itemsize: int
    device: str


def described(name: str, array: Any) -> Described:
    """The memory of an array or tensor that may be written to.

    Raises
    ------
    TypeError, ValueError
        If it tells no address (numpy, torch, cupy and others do), or is read-only; as `name`.
    """
    if hasattr(array, "data_ptr"):
        size = array.element_size()
        return Described(
            array.data_ptr(),
            tuple(array.shape),
            tuple(size * step for step in array.stride()),
            str(array.dtype).rpartition(".")[2],
            size,
            str(array.device),
        )
    on = getattr(array, "device", None)
    cuda = on if isinstance(on, str) else f"cuda:{getattr(on, 'id', 0)}"
    for protocol, device in (("__cuda_array_interface__", cuda), ("__array_interface__", "cpu")):
        interface = getattr(array, protocol, None)
        if interface is None:
            continue
        address, is_read_only = interface["data"]
        if is_read_only:
            raise ValueError(f"{name} must be writable, got a read-only array")
        shape, dtype = tuple(interface["shape"]), np.dtype(interface["typestr"])
        if dtype.hasobject:
            raise ValueError(f"{name} must have numbers, got Python objects")
        strides = interface.get("strides")
        if strides is None:
            strides = tuple(
                dtype.itemsize * int(np.prod(shape[i + 1 :])) for i in range(len(shape))
            )
        return Described(address, shape, tuple(strides), dtype.name, dtype.itemsize, device)
    raise TypeError(f"{name} must be a tensor or array, got {type(array).__name__}")

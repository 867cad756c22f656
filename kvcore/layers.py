"""PagedLayers: an engine's paged KV cache, reduced to planes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcore.planes import Described, described


class PagedLayers:
    """The paged KV cache of an engine, all its layers, as copies take it.

    Of each block a layer holds runs: bytes that lie together. How many, and how long, follows from
    shape and strides, whatever the order of heads, tokens, keys and values: ``[2, blocks, tokens,
    heads, dim]`` has two runs a block, ``[blocks, 2, tokens, heads, dim]`` one. In a slab the runs
    of a block follow each other, layer after layer, within a layer in the order of the axes.

    Parameters
    ----------
    tensors : sequence of arrays or tensors, or one with a `layer_axis`
        One a layer, alike in shape, strides and device: numpy arrays, torch tensors, or what else
        has ``__array_interface__`` or ``__cuda_array_interface__``. They are kept.
    block_axis : int
        The axis that counts blocks.
    layer_axis : int, optional
        The axis that counts layers, where one tensor has all of them.

    Attributes
    ----------
    device : str
        Where the memory is: ``"cpu"``, ``"cuda:0"``, ...

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.

    Examples
    --------
    >>> pages = [np.zeros((2, 100, 16, 8, 128), np.float16) for _ in range(32)]
    >>> PagedLayers(pages, block_axis=1).block_bytes
    2097152
    """

    def __init__(
        self, tensors: Sequence[Any] | Any, *, block_axis: int, layer_axis: int | None = None
    ) -> None:
        self._tensors = [tensors] if layer_axis is not None else list(tensors)
        if not self._tensors:
            raise ValueError("tensors must be one or more, got none")
        layers = [described("tensors", tensor) for tensor in self._tensors]
        if layer_axis is not None:
            layers, block_axis = _take_apart(layers[0], layer_axis, block_axis)
        first = layers[0]
        for i, layer in enumerate(layers):
            if _shape_of_memory(layer) != _shape_of_memory(first):
                raise ValueError(
                    "tensors must be alike, got "
                    f"{_shape_of_memory(first)} and, as number {i}, {_shape_of_memory(layer)}"
                )
        block_axis = _axis("block_axis", block_axis, len(first.shape))
        offsets, self._run_bytes = _runs(first, block_axis)
        self._num_blocks = first.shape[block_axis]
        self._block_stride = first.strides[block_axis]
        self._num_layers = len(layers)
        addresses = np.array([layer.address for layer in layers], np.uint64)
        self._plane_bases = (addresses[:, None] + offsets[None, :]).ravel()
        self.device = first.device

    @property
    def plane_bases(self) -> npt.NDArray[np.uint64]:
        """uint64[planes]: where each run of block 0 begins, layer after layer."""
        return self._plane_bases

    @property
    def num_layers(self) -> int:
        return self._num_layers

    @property
    def num_blocks(self) -> int:
        return self._num_blocks

    @property
    def block_stride(self) -> int:
        """Bytes from one block to the next."""
        return self._block_stride

    @property
    def run_bytes(self) -> int:
        """Bytes of a block that lie together."""
        return self._run_bytes

    @property
    def block_bytes(self) -> int:
        """Bytes of a block, of all layers."""
        return len(self._plane_bases) * self._run_bytes

    def __repr__(self) -> str:
        return (
            f"PagedLayers(num_layers={self.num_layers}, num_blocks={self.num_blocks}, "
            f"block_bytes={self.block_bytes}, device={self.device!r})"
        )


def _shape_of_memory(layer: Described) -> tuple[object, ...]:
    return layer.dtype, layer.shape, layer.strides, layer.device


def _take_apart(tensor: Described, layer_axis: int, block_axis: int) -> tuple[list[Described], int]:
    """The layers of a tensor, and their block axis."""
    axes = len(tensor.shape)
    layer_axis = _axis("layer_axis", layer_axis, axes)
    block_axis = _axis("block_axis", block_axis, axes)
    if layer_axis == block_axis:
        raise ValueError(f"layer_axis must be another axis than block_axis, got {layer_axis} twice")

    def without(values: tuple[int, ...]) -> tuple[int, ...]:
        return values[:layer_axis] + values[layer_axis + 1 :]

    if tensor.shape[layer_axis] == 0:
        raise ValueError(f"tensors must have elements, got shape {list(tensor.shape)}")
    step = tensor.strides[layer_axis]
    layers = [
        tensor._replace(
            address=tensor.address + i * step,
            shape=without(tensor.shape),
            strides=without(tensor.strides),
        )
        for i in range(tensor.shape[layer_axis])
    ]
    return layers, block_axis - (block_axis > layer_axis)


def _axis(name: str, axis: int, count: int) -> int:
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(f"{name} must be an int, got {type(axis).__name__}")
    if not -count <= axis < count:
        raise ValueError(f"{name} must be from {-count} to {count - 1}, got {axis}")
    return axis % count


def _runs(layer: Described, block_axis: int) -> tuple[npt.NDArray[np.uint64], int]:
    """Where the runs of a block begin in a layer, and their bytes."""
    if 0 in layer.shape:
        raise ValueError(f"tensors must have elements, got shape {list(layer.shape)}")
    axes = [
        (size, stride)
        for i, (size, stride) in enumerate(zip(layer.shape, layer.strides, strict=True))
        if i != block_axis and size > 1
    ]
    if any(stride <= 0 for _, stride in [*axes, (0, layer.strides[block_axis])]):
        raise ValueError(f"tensors must have strides above 0, got {list(layer.strides)} bytes")
    run_bytes, dense = layer.itemsize, set()
    for i, (size, stride) in sorted(enumerate(axes), key=lambda axis: axis[1][1]):
        # What lies beyond the next block is another run, also where there is one block.
        if stride != run_bytes or stride >= layer.strides[block_axis]:
            break
        dense.add(i)
        run_bytes *= size
    steps = [
        range(0, size * stride, stride) for i, (size, stride) in enumerate(axes) if i not in dense
    ]
    return np.array([sum(at) for at in product(*steps)], np.uint64), run_bytes

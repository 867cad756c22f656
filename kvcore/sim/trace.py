"""A trace: which blocks each request asks for, and when."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Int64Array: TypeAlias = npt.NDArray[np.int64]

MAX_TRACE_BLOCKS = 1 << 28
MAX_KINDS = 1 << 16

_PER_REQUEST = {
    "arrival_us": np.int64,
    "input_tokens": np.int64,
    "output_tokens": np.int64,
    "session": np.int64,
    "kind": np.uint16,
}
_DTYPES = {"block_ids": np.uint32, "offsets": np.int64, **_PER_REQUEST}


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Requests in order of arrival, in arrays that several processes can share.

    A block id names a whole prefix: two requests share an id exactly where they share the block
    and all blocks before it. Ids are dense: 0 to `num_unique_blocks` - 1. Threads may share a
    trace, since nothing writes to its arrays.

    Attributes
    ----------
    name : str
        What the trace is called in results.
    block_tokens : int
        Tokens of a block.
    block_ids : uint32[num_blocks]
        The blocks of all requests, one request after the other, each from its root.
    offsets : int64[num_requests + 1]
        Request `i` has `block_ids[offsets[i]:offsets[i + 1]]`.
    arrival_us : int64[num_requests]
        Time of arrival, never falling.
    input_tokens, output_tokens : int64[num_requests]
        Tokens of the prompt, with those of the partial last block, and of the answer.
    session : int64[num_requests]
        Number of the conversation, -1 where the trace tells none.
    kind : uint16[num_requests]
        Index into `kinds`.
    kinds : tuple[str, ...]
        Names of the request types, "" for none.
    """

    name: str
    block_tokens: int
    block_ids: npt.NDArray[np.uint32]
    offsets: Int64Array
    arrival_us: Int64Array
    input_tokens: Int64Array
    output_tokens: Int64Array
    session: Int64Array
    kind: npt.NDArray[np.uint16]
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.block_tokens < 1:
            raise ValueError(f"block_tokens is {self.block_tokens}; it must be at least 1")
        for name, dtype in _DTYPES.items():
            values = getattr(self, name)
            if values.dtype != dtype or values.ndim != 1:
                raise ValueError(
                    f"{name} is {values.dtype}{list(values.shape)}; "
                    f"it must be {np.dtype(dtype)} in one dimension"
                )
        num_requests = self.num_requests
        for name in _PER_REQUEST:
            if len(getattr(self, name)) != num_requests:
                raise ValueError(
                    f"{name} has {len(getattr(self, name))} entries; allowed are {num_requests}"
                )
        if len(self.offsets) != num_requests + 1:
            raise ValueError(
                f"offsets has {len(self.offsets)} entries; allowed are {num_requests + 1}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.block_ids):
            raise ValueError(
                f"offsets run from {self.offsets[0]} to {self.offsets[-1]}; "
                f"they must run from 0 to {len(self.block_ids)}"
            )

    @property
    def num_requests(self) -> int:
        return len(self.arrival_us)

    @property
    def num_blocks(self) -> int:
        """Block references: a block counts once for each request that asks for it."""
        return len(self.block_ids)

    @property
    def num_unique_blocks(self) -> int:
        return int(self.block_ids.max()) + 1 if self.num_blocks else 0

    def save(self, directory: Path) -> None:
        """Write one `.npy` file an array into an existing directory, for `load`."""
        for name in _DTYPES:
            np.save(directory / f"{name}.npy", getattr(self, name))
        names = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _DTYPES}
        (directory / "trace.json").write_text(json.dumps(names))

    @classmethod
    def load(cls, directory: Path) -> Trace:
        """Map a saved trace into memory; processes that load it share its pages."""
        values: dict[str, Any] = json.loads((directory / "trace.json").read_text())
        values["kinds"] = tuple(values["kinds"])
        for name in _DTYPES:
            # A plain array over the map: slicing np.memmap itself costs microseconds.
            values[name] = np.asarray(np.load(directory / f"{name}.npy", mmap_mode="r"))
        return cls(**values)


class TraceBuilder:
    """Collects requests one by one and gives a `Trace`. Not thread safe."""

    def __init__(self, name: str, block_tokens: int) -> None:
        self._name = name
        self.block_tokens = block_tokens
        self._block_ids = array("I")
        self._offsets = array("q", [0])
        self._arrival_us = array("q")
        self._input_tokens = array("q")
        self._output_tokens = array("q")
        self._session = array("q")
        self._kind = array("H")
        self._kinds: dict[str, int] = {}

    @property
    def num_requests(self) -> int:
        return len(self._offsets) - 1

    def blocks(self, request: int, count: int) -> array[int]:
        """The first `count` block ids of an earlier request."""
        begin = self._offsets[request]
        return self._block_ids[begin : begin + count]

    def num_blocks(self, request: int) -> int:
        return self._offsets[request + 1] - self._offsets[request]

    def room_blocks(self) -> int:
        """Block references that may still be added."""
        return MAX_TRACE_BLOCKS - len(self._block_ids)

    def add(
        self,
        block_ids: array[int],
        *,
        arrival_us: int,
        input_tokens: int,
        output_tokens: int,
        session: int = -1,
        kind: str = "",
    ) -> None:
        """Append a request.

        Raises
        ------
        ValueError
            If the trace would exceed `MAX_TRACE_BLOCKS` or `MAX_KINDS`.
        """
        if len(block_ids) > self.room_blocks():
            raise ValueError(f"the trace has more than {MAX_TRACE_BLOCKS} blocks")
        if kind not in self._kinds and len(self._kinds) == MAX_KINDS:
            raise ValueError(f"the trace has more than {MAX_KINDS} types")
        self._block_ids.extend(block_ids)
        self._offsets.append(len(self._block_ids))
        self._arrival_us.append(arrival_us)
        self._input_tokens.append(input_tokens)
        self._output_tokens.append(output_tokens)
        self._session.append(session)
        self._kind.append(self._kinds.setdefault(kind, len(self._kinds)))

    def build(self) -> Trace:
        """The requests in order of arrival; those that arrive together keep their order."""
        trace = Trace(
            name=self._name,
            block_tokens=self.block_tokens,
            block_ids=np.array(self._block_ids, np.uint32),
            offsets=np.array(self._offsets, np.int64),
            arrival_us=np.array(self._arrival_us, np.int64),
            input_tokens=np.array(self._input_tokens, np.int64),
            output_tokens=np.array(self._output_tokens, np.int64),
            session=np.array(self._session, np.int64),
            kind=np.array(self._kind, np.uint16),
            kinds=tuple(self._kinds),
        )
        return trace if np.all(np.diff(trace.arrival_us) >= 0) else _in_order_of_arrival(trace)


def _in_order_of_arrival(trace: Trace) -> Trace:
    order = np.argsort(trace.arrival_us, kind="stable")
    chains = [trace.block_ids[trace.offsets[i] : trace.offsets[i + 1]] for i in order]
    return replace(
        trace,
        block_ids=np.concatenate(chains),
        offsets=np.concatenate([[0], np.cumsum(np.diff(trace.offsets)[order])]),
        **{name: getattr(trace, name)[order] for name in _PER_REQUEST},
    )

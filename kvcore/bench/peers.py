"""Peers that keep blocks: plain Python, Dynamo's radix tree, libCacheSim.

Each takes blocks in the form that suits it best, made while the clock stands.
"""

from __future__ import annotations

import json
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcore import PrefixCache, RequestInfo
from kvcore.bench.harness import check, find_peer

Hashes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]

# libCacheSim's oracleGeneral trace; the next access is not known.
_REQUEST = np.dtype([("time", "<u4"), ("id", "<u8"), ("size", "<u4"), ("next_access", "<i8")])
_UNKNOWN = -2
# Our policies by the name of libCacheSim's; what reads the paper otherwise is told with it. Its
# LRUK never forgets: at 10 M blocks it takes 1 KB a block and does not give it back.
_SIMULATED = {
    "arc": "ARC",
    "fifo": "FIFO",
    "lfu": "LFUDA",  # with dynamic ageing
    "lru": "LRU",
    "mq": "MQ",  # a fixed life of 10,000 requests
    "s3fifo": "S3FIFO",
    "sieve": "Sieve",
    "slru": "SLRU",  # four segments
    "wtinylfu": "WTinyLFU",  # a fixed window
}


def random_chains(seed: int, num_chains: int, num_blocks: int) -> Hashes:
    """uint8[num_chains, num_blocks, 16]: hashes of chains that have nothing in common."""
    shape = (num_chains, num_blocks, 16)
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def keys_of(hashes: Hashes) -> list[bytes]:
    """New bytes objects, as a request brings them: Python has not yet hashed them."""
    data = hashes.tobytes()
    return [data[start : start + 16] for start in range(0, len(data), 16)]


def numbers_of(hashes: Hashes) -> Numbers:
    """The first 63 bits of each hash, for peers that name blocks by numbers."""
    return hashes.reshape(-1, 16).view(np.int64)[:, 0] & (2**63 - 1)


def arrivals() -> Iterator[RequestInfo]:
    """Requests without end, one a millisecond."""
    return (RequestInfo(arrival_us=now_us) for now_us in count(0, 1_000))


def grown_cache(
    chains: Hashes,
    span_blocks: int,
    policy: str = "lru",
    requests: Iterator[RequestInfo] | None = None,
) -> PrefixCache:
    """A cache full of these chains, which have grown turn by turn, one span at a time."""
    num_chains, chain_blocks = chains.shape[:2]
    cache = PrefixCache(num_chains * chain_blocks, policy)
    requests = requests or arrivals()
    for end in range(span_blocks, chain_blocks + 1, span_blocks):
        for chain in chains:
            cache.reserve(chain[:end], next(requests)).commit()
    stats = cache.stats()
    check("free blocks of a full cache", stats.free_blocks, 0)
    check("spans of a full cache", stats.num_spans, num_chains * chain_blocks // span_blocks)
    return cache


class OrderedBlocks:
    """An LRU of blocks in an `OrderedDict`, the oldest first, as vLLM's offloading keeps it.

    Deeper blocks of a chain are older, so that a chain leaves from its end.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, int] = OrderedDict()

    def fill(self, keys: list[bytes]) -> None:
        for key in reversed(keys):
            self._ids[key] = len(self._ids)

    def match(self, keys: list[bytes]) -> int:
        ids = self._ids
        matched = 0
        for key in keys:
            if key not in ids:
                break
            matched += 1
        return matched

    def acquire(self, keys: list[bytes]) -> list[int]:
        """Ids of the blocks that are there, touched deepest first."""
        ids = self._ids
        found = []
        for key in keys:
            block_id = ids.get(key)
            if block_id is None:
                break
            found.append(block_id)
        self.touch(keys[: len(found)])
        return found

    def touch(self, keys: list[bytes]) -> None:
        move_to_end = self._ids.move_to_end
        for key in reversed(keys):
            move_to_end(key)

    def replace(self, keys: list[bytes]) -> list[tuple[bytes, int]]:
        """Put in what is new; what left for it, and its ids."""
        ids = self._ids
        new = [key for key in reversed(keys) if key not in ids]
        evicted = [ids.popitem(last=False) for _ in new]
        for key, (_, block_id) in zip(new, evicted, strict=True):
            ids[key] = block_id
        return evicted


class DynamoTree:
    """Dynamo's `RadixTree`, filled by the events that a worker sends when it has stored blocks."""

    def __init__(self, radix_tree: Callable[[], Any]) -> None:
        self._tree = radix_tree()

    @classmethod
    def find(cls) -> DynamoTree | None:
        dynamo = find_peer("dynamo.llm", "ai-dynamo-runtime")
        return None if dynamo is None else cls(dynamo.RadixTree)

    def fill(self, hashes: Hashes) -> None:
        blocks = [{"block_hash": name, "tokens_hash": name} for name in numbers_of(hashes).tolist()]
        stored = {"parent_hash": None, "blocks": blocks}
        event = {"event_id": 0, "data": {"stored": stored}}
        self._tree.apply_event(0, json.dumps(event).encode())

    def match(self, names: list[int]) -> Any:
        return self._tree.find_matches(names)

    @staticmethod
    def matched(scores: Any) -> int:
        return max(scores.scores.values(), default=0)


class CacheSimulator:
    """libCacheSim, driven by its fastest way: requests in a mapped file, looped over in C.

    It finds, evicts and inserts objects one at a time and knows no chains; nothing tells who left.
    Its table has the default size, with which it was fastest, or that of what is resident.
    """

    def __init__(
        self,
        library: Any,
        policy: str,
        resident: Numbers,
        others: Numbers | None = None,
        *,
        table_fits: bool = False,
    ) -> None:
        numbers = resident if others is None else np.concatenate([resident, others])
        requests = np.zeros(len(numbers), _REQUEST)
        requests["time"] = np.arange(len(numbers))
        requests["id"] = numbers
        requests["size"] = 1
        requests["next_access"] = _UNKNOWN
        kind = library.TraceType.ORACLE_GENERAL_TRACE
        with tempfile.TemporaryDirectory(prefix="kvcore-bench-") as directory:
            path = Path(directory, "requests.bin")
            requests.tofile(path)
            self._reader = library.TraceReader(str(path), kind)  # maps it
        size = {"hashpower": ceil(log2(len(resident)))} if table_fits else {}
        self._cache = getattr(library, _SIMULATED[policy])(cache_size=len(resident), **size)
        self.run(0, len(resident))

    @staticmethod
    def has(policy: str) -> bool:
        """Whether it is installed and has the policy."""
        return find_peer("libcachesim", "libcachesim") is not None and policy in _SIMULATED

    @classmethod
    def find(
        cls,
        policy: str,
        resident: Numbers,
        others: Numbers | None = None,
        *,
        table_fits: bool = False,
    ) -> CacheSimulator | None:
        """One that is full of `resident`, and may be asked for `others` after them.

        None where it is not installed or does not have the policy.
        """
        if not cls.has(policy):
            return None
        library = find_peer("libcachesim", "libcachesim")
        return cls(library, policy, resident, others, table_fits=table_fits)

    @staticmethod
    def name(policy: str) -> str:
        """What results call it: with the name that the policy has there, if that is another."""
        theirs = _SIMULATED[policy]
        return "libCacheSim" if theirs.lower() == policy else f"libCacheSim {theirs}"

    def run(self, start: int, num_requests: int) -> tuple[float, float]:
        """Ask for so many numbers; the share that missed, of objects and of bytes."""
        ratios: tuple[float, float] = self._cache.process_trace(self._reader, start, num_requests)
        return ratios

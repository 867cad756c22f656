"""Replays a trace through a `KVCache` with real bytes, and checks every byte that it hands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcore.cache import KVCache
from kvcore.hashing import HashArray
from kvcore.layers import PagedLayers
from kvcore.sim import Trace
from kvcore.sim.requests import requests_of

# The engine that is played: layers whose pages of K and of V are apart.
NUM_LAYERS = 2
_PLANES = 2 * NUM_LAYERS
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FETCH_TIMEOUT_S = 30.0
_COPY_TIMEOUT_S = 30.0


class WrongBytesError(Exception):
    """A block was handed out with other bytes than were stored: the one unforgivable failure."""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """What a replay with bytes found.

    Attributes
    ----------
    requests, blocks : int
        That were asked for.
    host_blocks, store_blocks : int
        That were found in the slab, and brought from the store.
    checked_bytes : int
        Of blocks that were handed out, all as they were stored.
    """

    requests: int
    blocks: int
    host_blocks: int
    store_blocks: int
    checked_bytes: int


def payload(hashes: HashArray, block_bytes: int) -> npt.NDArray[np.uint8]:
    """What the block of a hash contains in a replay: bytes that follow from the hash alone.

    Parameters
    ----------
    hashes : uint8[n, 16]
    block_bytes : int
        A multiple of 8.

    Returns
    -------
    uint8[n, block_bytes]
        SplitMix64 of both halves of the hash and the place.
    """
    halves = hashes.view(np.uint64).reshape(len(hashes), 2)
    with np.errstate(over="ignore"):
        words = np.arange(1, block_bytes // 8 + 1, dtype=np.uint64) * _GOLDEN
        words = words[None, :] + halves[:, :1]
        words ^= words >> np.uint64(30)
        words *= np.uint64(0xBF58476D1CE4E5B9)
        words ^= words >> np.uint64(27)
        words += halves[:, 1:]
        words *= np.uint64(0x94D049BB133111EB)
        words ^= words >> np.uint64(31)
    blocks: npt.NDArray[np.uint8] = words.view(np.uint8)
    return blocks


class Engine:
    """Stands in for an engine: paged memory of some layers, block ids in no order."""

    def __init__(self, num_blocks: int, block_bytes: int) -> None:
        self._page = block_bytes // _PLANES
        pages = (2, num_blocks, self._page)
        self._pages = [np.zeros(pages, np.uint8) for _ in range(NUM_LAYERS)]
        self.layers = PagedLayers(self._pages, block_axis=1)
        self.block_ids = np.random.default_rng(0).permutation(num_blocks).astype(np.uint32)

    def write(self, block_ids: npt.NDArray[np.uint32], blocks: npt.NDArray[np.uint8]) -> None:
        """Put blocks, uint8[n, block_bytes], where the engine would have computed them."""
        planes = blocks.reshape(len(blocks), NUM_LAYERS, 2, self._page)
        for layer, pages in enumerate(self._pages):
            pages[:, block_ids] = planes[:, layer].swapaxes(0, 1)

    def read(self, block_ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
        """uint8[n, block_bytes]"""
        planes = [pages[:, block_ids].swapaxes(0, 1) for pages in self._pages]
        return np.stack(planes, axis=1).reshape(len(block_ids), _PLANES * self._page)


def verify(trace: Trace, cache: KVCache) -> VerifyResult:
    """Drive a `KVCache` as an engine would, with the requests of a trace one after the other.

    Raises
    ------
    WrongBytesError
        A byte was handed out that was not stored for that block.
    """
    longest = int(np.diff(trace.offsets).max(initial=1))
    engine = Engine(longest, cache.block_bytes)
    blocks = host_blocks = store_blocks = checked = 0
    for number, (hashes, request, output_tokens) in enumerate(requests_of(trace)):
        found = cache.lookup(hashes)
        if (probe := cache.probe(found, timeout_s=_FETCH_TIMEOUT_S)) is not None:
            found = probe.wait()
        if (fetch := cache.prefetch(found, request, timeout_s=_FETCH_TIMEOUT_S)) is not None:
            fetch.wait()
        lease = cache.acquire(hashes, request)
        ids = engine.block_ids[: len(hashes)]
        hits = lease.num_blocks
        expected = payload(hashes, cache.block_bytes)
        if hits > 0:
            engine.write(ids[:hits], ~expected[:hits])
            if not cache.load(lease, engine.layers, ids[:hits]).wait(_COPY_TIMEOUT_S):
                raise TimeoutError("a copy out of the slab did not end")
            if not np.array_equal(engine.read(ids[:hits]), expected[:hits]):
                raise WrongBytesError(f"request {number}: a block came back with other bytes")
        lease.release()
        engine.write(ids[hits:], expected[hits:])
        if not cache.store(hashes, engine.layers, ids, request).wait(_COPY_TIMEOUT_S):
            raise TimeoutError("a copy into the slab did not end")
        cache.finish(request, output_tokens)
        blocks += len(hashes)
        host_blocks += min(hits, found.host_blocks)
        store_blocks += max(0, hits - found.host_blocks)
        checked += hits * cache.block_bytes
    return VerifyResult(len(trace.offsets) - 1, blocks, host_blocks, store_blocks, checked)

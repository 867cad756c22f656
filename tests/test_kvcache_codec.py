"""A KVCache with a codec: what is kept is converted, and comes back as near as the codec says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models.chains import hashes_of

from kvcore import HostSlab, KVCache, Namespace
from kvcore.codecs import Codec, Fp8, Int8, Transpose, slab_block_bytes
from kvcore.layers import PagedLayers
from kvcore.stores import DiskStore, MemoryStore

WAIT_S = 30.0
BLOCKS, TOKENS, HEADS, DIM = 8, 4, 2, 16
CODECS = [
    Fp8("float32", DIM),
    Int8("float32", TOKENS, HEADS * DIM),
    Transpose(TOKENS, HEADS, DIM * 4),
]


def new_pages(seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """[K and V, blocks, tokens, heads, dim]"""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, BLOCKS, TOKENS, HEADS, DIM)).astype(np.float32)


def layers_of(pages: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> PagedLayers:
    return PagedLayers([pages], block_axis=1)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_blocks_are_kept_converted(codec: Codec, kind: str, tmp_path: Path) -> None:
    pages = new_pages(0)
    block_bytes = slab_block_bytes(layers_of(pages), codec)
    fingerprint = Namespace("test", dtype="kept").fingerprint
    store = (
        MemoryStore(fingerprint, block_bytes, max_bytes=1 << 20)
        if kind == "memory"
        else DiskStore(tmp_path, fingerprint, block_bytes, max_bytes=1 << 20)
    )
    hashes, ids = hashes_of([1, 2, 3, 4]), np.array([6, 0, 3, 5])
    with KVCache(HostSlab(4, block_bytes), store, codec=codec, max_dirty=1.0) as cache:
        assert cache.store(hashes, layers_of(pages), ids).wait(WAIT_S)
        assert cache.flush(WAIT_S)
    with KVCache(HostSlab(4, block_bytes), store, codec=codec) as cache:
        fetch = cache.prefetch(cache.lookup(hashes), timeout_s=WAIT_S)
        assert fetch is not None
        assert fetch.wait() == 4
        back = np.full_like(pages, 9.0)
        with cache.acquire(hashes) as lease:
            assert cache.load(lease, layers_of(back), [1, 2, 7, 4]).wait(WAIT_S)
    store.close()
    came, expected = back[:, [1, 2, 7, 4]], pages[:, ids]
    if isinstance(codec, Transpose):
        assert np.array_equal(came, expected)
    elif isinstance(codec, Int8):
        assert np.abs(came - expected).max() <= np.abs(expected).max() / 254 + 1e-6
    else:
        assert (np.abs(came - expected) <= np.abs(expected) / 16 + 1e-4).all()
        assert block_bytes < layers_of(pages).block_bytes / 3
    assert (back[:, [0, 3, 5, 6]] == 9.0).all()


def test_a_slab_of_unconverted_blocks_is_refused() -> None:
    layers = layers_of(new_pages(0))
    cache = KVCache(HostSlab(4, layers.block_bytes), codec=CODECS[0])
    needed = slab_block_bytes(layers, CODECS[0])
    with pytest.raises(ValueError, match=f"blocks of {layers.block_bytes} bytes.* got {needed}"):
        cache.store(hashes_of([1]), layers, [0])
    assert cache.stats().host.in_flight_blocks == 0


def test_a_codec_that_does_not_fit_is_named() -> None:
    layers = layers_of(new_pages(0))
    cache = KVCache(HostSlab(4, 64), codec=Fp8("float32", 7))
    with pytest.raises(ValueError, match="group must divide a run"):
        cache.store(hashes_of([1]), layers, [0])
    assert cache.stats().host.in_flight_blocks == 0


def test_a_codec_is_asked_for() -> None:
    with pytest.raises(TypeError, match="codec must be a Codec, got str"):
        KVCache(HostSlab(4, 64), codec="fp8")  # type: ignore[arg-type]

"""kvcore: keep, find, move and share the KV-cache blocks of LLM inference engines."""

try:
    from kvcore._core import (
        NEVER,
        POLICIES,
        BlockState,
        CacheStats,
        Evicted,
        Lease,
        MissRatioCurve,
        PrefixCache,
        RequestInfo,
        Reservation,
        TenantQuota,
        TenantStats,
    )
except ImportError as error:
    raise ImportError(
        "kvcore's native modules are not built for this Python; build them with: pip install ."
    ) from error
from kvcore.cache import KVCache, KVCacheStats
from kvcore.hashing import BlockHasher, Namespace, fold
from kvcore.layers import PagedLayers
from kvcore.operations import Lookup
from kvcore.shared_slab import SharedSlab
from kvcore.slabs import DeviceSlab, HostSlab

__version__ = "0.1.0"

__all__ = [
    "NEVER",
    "POLICIES",
    "BlockHasher",
    "BlockState",
    "CacheStats",
    "DeviceSlab",
    "Evicted",
    "HostSlab",
    "KVCache",
    "KVCacheStats",
    "Lease",
    "Lookup",
    "MissRatioCurve",
    "Namespace",
    "PagedLayers",
    "PrefixCache",
    "RequestInfo",
    "Reservation",
    "SharedSlab",
    "TenantQuota",
    "TenantStats",
    "fold",
]

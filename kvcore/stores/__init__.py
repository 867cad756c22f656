"""Stores: where blocks live outside of the slabs."""

from kvcore._core import Batch, Outcome, StoreStats
from kvcore.stores.contract import Store
from kvcore.stores.infinistore import InfiniStoreStore, Server
from kvcore.stores.local import DiskStore, MemoryStore
from kvcore.stores.mooncake import MooncakeStore
from kvcore.stores.redis import RedisStore
from kvcore.stores.url import open_store

__all__ = [
    "Batch",
    "DiskStore",
    "InfiniStoreStore",
    "MemoryStore",
    "MooncakeStore",
    "Outcome",
    "RedisStore",
    "Server",
    "Store",
    "StoreStats",
    "open_store",
]

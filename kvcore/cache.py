"""KVCache: finds, brings, loads and keeps the KV-cache blocks of an engine, over slab and store."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TypeVar

import numpy as np

from kvcore._core import (
    CacheStats,
    Lease,
    PrefixCache,
    RequestInfo,
    Reservation,
    StoreStats,
    TenantQuota,
)
from kvcore.codecs import Codec, slab_block_bytes
from kvcore.copies import CopyPool, TransferPlan
from kvcore.device_copy import device_transfer
from kvcore.hashing import HashArray
from kvcore.layers import PagedLayers
from kvcore.operations import (
    Handle,
    Load,
    Lookup,
    Operation,
    Prefetch,
    Probe,
    Save,
    Transfer,
    Write,
)
from kvcore.planes import IntArray, integers
from kvcore.slabs import HostSlab
from kvcore.stores import Store, open_store
from kvcore.succession import Succession

_LOG = logging.getLogger(__name__)
_POLL_S = 0.001
_O = TypeVar("_O", bound=Operation)


@dataclass(frozen=True, slots=True)
class KVCacheStats:
    """What a `KVCache` holds and did; counts are of blocks.

    Attributes
    ----------
    host : CacheStats
    store : StoreStats, or None without a store
    fetched : int
        Came from the store, whole and verified.
    not_fetched : int
        Were asked of the store and did not come: gone, corrupt, late, or it failed.
    written : int
        Went to the store, or were there already.
    not_written : int
        Were given up: too many waited, or the store failed.
    dirty : int
        Are on their way to the store now.
    """

    host: CacheStats
    store: StoreStats | None
    fetched: int
    not_fetched: int
    written: int
    not_written: int
    dirty: int


class KVCache:
    """The KV-cache blocks of one engine: in a slab, and behind it in a store.

    An engine asks with `lookup` what there is of a prompt, brings what only the store has into the
    slab with `prefetch`, pins with `acquire`, copies into its own paged memory with `load`,
    computes the rest, and keeps that with `store`. Blocks that are stored are written behind to the
    store; until then they do not leave the slab, as long as no more than `max_dirty` of it wait.
    What leaves the slab is found in the store again. Bytes that came from a store are verified
    before they can be loaded. A store that is slow or dead costs a prefetch its time limit, then a
    miss.

    Parameters
    ----------
    slab : HostSlab or SharedSlab
        Memory for the blocks; each block holds one token block of all layers.
    store : Store, optional
        The next tier; its `value_bytes` are the slab's `block_bytes`.
    policy, tenants, admission, max_kept
        As for `PrefixCache`.
    codec : Codec, optional
        How blocks look in the slab and in stores, if not as in the layers; the slab's blocks have
        `slab_block_bytes` then. Layers must be in memory that the CPU reaches. Whoever shares a
        store must use the same: name it in the `Namespace`, as its `dtype`.
    max_dirty : float
        Share of the slab that may wait for the store, 0 to 1; what is above is not written.
    write_timeout_s : float
        What is not written by then is given up.
    copy_threads : int
        Threads that copy between slab and engine.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.

    Notes
    -----
    Thread safe. Closing it, also by a ``with`` block, waits for what is under way.

    Examples
    --------
    >>> cache = KVCache(HostSlab(num_blocks=1024, block_bytes=1 << 20))
    """

    def __init__(
        self,
        slab: HostSlab,
        store: Store | None = None,
        *,
        policy: str = "auto",
        tenants: dict[str, TenantQuota] | None = None,
        admission: str = "all",
        max_kept: float = 0.0,
        codec: Codec | None = None,
        max_dirty: float = 0.25,
        write_timeout_s: float = 30.0,
        copy_threads: int = 1,
    ) -> None:
        if not isinstance(slab, HostSlab):
            raise TypeError(f"slab must be a HostSlab or SharedSlab, got {type(slab).__name__}")
        if store is not None:
            _check_store(store, slab.block_bytes)
        if codec is not None and not isinstance(codec, Codec):
            raise TypeError(f"codec must be a Codec, got {type(codec).__name__}")
        _check_number("max_dirty", max_dirty, 0.0, 1.0)
        _check_number("write_timeout_s", write_timeout_s, 0.0, 3600.0)
        self._slab = slab
        self._codec = codec
        self._stores = Succession(store)
        self._cache = PrefixCache(
            slab.num_blocks, policy, tenants, admission=admission, max_kept=max_kept
        )
        self._max_dirty_blocks = int(max_dirty * slab.num_blocks)
        self._write_timeout_s = write_timeout_s
        self._pool = CopyPool(copy_threads)
        self._lock = Lock()  # of what follows
        self._open: list[Operation] = []
        self._fetched = self._not_fetched = 0
        self._written = self._not_written = self._dirty = 0

    @property
    def block_bytes(self) -> int:
        """Bytes of a block in the slab, of all layers."""
        return self._slab.block_bytes

    def lookup(self, hashes: HashArray) -> Lookup:
        """What there is of a chain, and where; waits for nobody.

        Parameters
        ----------
        hashes : uint8[n, 16]
            As `BlockHasher.hash` gives them.
        """
        self._settle()
        host = self._cache.match(hashes)
        return Lookup(hashes, host, self._stores.match(hashes[host:], host))

    def probe(self, lookup: Lookup, *, timeout_s: float) -> Probe | None:
        """Start to ask the store what else it has of a chain.

        A store that other processes write to knows only what this one met; `lookup` goes by that.

        Parameters
        ----------
        lookup : Lookup
        timeout_s : float
            What was not answered by then counts as not there.

        Returns
        -------
        Probe, or None
            None when there is nothing to ask.
        """
        _check_number("timeout_s", timeout_s, 0.0, 3600.0)
        rest = lookup.hashes[lookup.num_blocks :]
        stores = self._stores.readable
        if not stores or len(rest) == 0:
            return None
        positions = np.arange(lookup.num_blocks, len(lookup.hashes), dtype=np.uint32)
        batches = [store.contains(rest, timeout_s, positions=positions) for store in stores]
        return Probe(batches, partial(self.lookup, lookup.hashes))

    def prefetch(
        self, lookup: Lookup, request: RequestInfo | None = None, *, timeout_s: float
    ) -> Prefetch | None:
        """Start to bring what only the store has into the slab.

        Parameters
        ----------
        lookup : Lookup
        request : RequestInfo, optional
            Who wants it; the same as for `acquire` and `store`, so that it is one use.
        timeout_s : float
            What has not come by then is a miss.

        Returns
        -------
        Prefetch, or None
            None when there is nothing to bring, or no room for it.
        """
        _check_number("timeout_s", timeout_s, 0.0, 3600.0)
        self._settle()
        if lookup.store_blocks == 0:
            return None
        hashes = lookup.hashes[: lookup.num_blocks]
        with self._stores.reading(hashes[lookup.host_blocks :], lookup.host_blocks) as store:
            if store is None:
                return None
            reservation = self._cache.reserve(hashes, request)
            if len(reservation.block_ids) == 0:
                return None
            try:
                batch = store.get_into(
                    hashes[reservation.new_positions],
                    self._slab,
                    reservation.block_ids,
                    timeout_s,
                    positions=reservation.new_positions,
                )
            except BaseException:
                reservation.abort()
                raise
            prefetch = Prefetch(self._cache, hashes, reservation, batch, self._count_fetch)
            prefetch.store = store
            if store is not self._stores.current:
                prefetch.published = partial(self._write_behind, hashes)
            return self._follow(prefetch)

    def acquire(self, hashes: HashArray, request: RequestInfo | None = None) -> Lease:
        """Pin what the slab has of a chain; see `PrefixCache.acquire`."""
        self._settle()
        return self._cache.acquire(hashes, request)

    def load(
        self,
        lease: Lease,
        layers: PagedLayers,
        block_ids: IntArray,
        *,
        first_block: int = 0,
        stream: object = None,
    ) -> Transfer:
        """Start to copy pinned blocks into an engine's layers.

        Parameters
        ----------
        lease : Lease
            May be released at once; the blocks stay until they are copied.
        layers : PagedLayers
            The engine's paged memory.
        block_ids : integer[n]
            Which of the engine's blocks take the lease's blocks ``first_block .. first_block + n``.
        first_block : int
        stream : int, or a stream of torch, cupy or cuda.core, optional
            Where the memory is a device's: the stream that the copy is enqueued on, its default
            stream if none is given. The slab has to be pinned then.
        """
        self._settle()
        ids = integers("block_ids", block_ids)
        held = lease.share()  # nothing, when the lease was released before
        if not 0 <= first_block <= held.num_blocks - len(ids):
            raise ValueError(
                f"block_ids must be at most the {held.num_blocks} blocks that the lease holds, "
                f"from first_block={first_block} on, got {len(ids)}"
            )
        slab_ids = held.block_ids[first_block : first_block + len(ids)]
        handle = self._copy(layers, ids, slab_ids, stream, gathers=False)
        return self._follow(Load(handle, held))

    def store(
        self,
        hashes: HashArray,
        layers: PagedLayers,
        block_ids: IntArray,
        request: RequestInfo | None = None,
        *,
        stream: object = None,
    ) -> Transfer:
        """Start to keep blocks that an engine computed.

        Those that are not there yet are copied into the slab, and from there to the store. The
        engine leaves its blocks as they are until the transfer is done.

        Parameters
        ----------
        hashes : uint8[n, 16]
        layers : PagedLayers
        block_ids : integer[n]
            Where the engine has these blocks.
        request : RequestInfo, optional
        stream
            As for `load`.
        """
        self._settle()
        all_ids = integers("block_ids", block_ids)
        if len(all_ids) != len(hashes):
            raise ValueError(
                f"block_ids must be as many as hashes, got {len(all_ids)} for {len(hashes)}"
            )
        reservation = self._cache.reserve(hashes, request)
        try:
            ids = all_ids[reservation.new_positions]
            handle = self._copy(layers, ids, reservation.block_ids, stream, gathers=True)
        except BaseException:
            reservation.abort()
            raise
        write = partial(self._write_behind, hashes)
        return self._follow(Save(handle, reservation, write))

    def finish(
        self, request: RequestInfo, output_tokens: int = 0, next_use_us: int | None = None
    ) -> None:
        """End a request; see `PrefixCache.finish`."""
        self._settle()
        self._cache.finish(request, output_tokens, next_use_us)

    def switch_store(
        self, store: Store | str, *, fingerprint: bytes | None = None, overlap_s: float = 600.0
    ) -> None:
        """Put another store in the place of the one there is, while requests are under way.

        From now on blocks are written to the new one alone. The old one is read as well until
        `overlap_s` are over, and what is brought from it is written to the new one; what is under
        way with it comes to its end; then it is closed.

        Parameters
        ----------
        store : Store or str
            A store, or its URL as `open_store` takes it.
        fingerprint : bytes, optional
            With a URL: 16 bytes, `Namespace.fingerprint`.
        overlap_s : float
            From 0 on; 0: the old one is not read any more.

        Raises
        ------
        TypeError, ValueError, OSError, ImportError
            An argument is not allowed, or the store cannot be opened; nothing has changed then.
        """
        _check_number("overlap_s", overlap_s, 0.0, 30 * 86400.0)
        if isinstance(store, str):
            if fingerprint is None:
                raise ValueError("fingerprint must be given with a URL")
            store = open_store(store, fingerprint, self.block_bytes)
        elif fingerprint is not None:
            raise ValueError("fingerprint must be given with a URL alone")
        _check_store(store, self.block_bytes)
        self._stores.switch(store, overlap_s)
        self._settle()

    def stats(self) -> KVCacheStats:
        self._settle()
        store = self._stores.current
        return KVCacheStats(
            host=self._cache.stats(),
            store=None if store is None else store.stats(),
            fetched=self._fetched,
            not_fetched=self._not_fetched,
            written=self._written,
            not_written=self._not_written,
            dirty=self._dirty,
        )

    def flush(self, timeout_s: float) -> bool:
        """Wait until nothing is under way; False when the time is over first."""
        _check_number("timeout_s", timeout_s, 0.0, 3600.0)
        until = time.monotonic() + timeout_s
        while not self._settle():
            if time.monotonic() >= until:
                return False
            time.sleep(_POLL_S)
        return True

    def close(self) -> None:
        """Wait for what is under way, as long as writes may take. Idempotent.

        The store stays open; old ones that were switched from are closed.
        """
        self.flush(self._write_timeout_s)
        self._stores.drop(self._is_used, at_once=True)

    def __enter__(self) -> KVCache:
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def _copy(
        self,
        layers: PagedLayers,
        ids: IntArray,
        slab_ids: IntArray,
        stream: object,
        *,
        gathers: bool,
    ) -> Handle:
        """Starts a copy by the CPU, or by the device that has the layers."""
        if not isinstance(layers, PagedLayers):
            raise TypeError(f"layers must be PagedLayers, got {type(layers).__name__}")
        if self._codec is not None and layers.device != "cpu":
            raise ValueError(f"layers must be the CPU's for a codec, got {layers.device}")
        block_bytes = layers.block_bytes
        if self._codec is not None:
            block_bytes = slab_block_bytes(layers, self._codec)
        if block_bytes != self.block_bytes:
            raise ValueError(
                f"layers must have blocks of {self.block_bytes} bytes, as the slab has, "
                f"got {block_bytes}"
            )
        if layers.device == "cpu":
            plan = TransferPlan(layers, self._slab, ids, slab_ids, codec=self._codec)
            return self._pool.gather(plan) if gathers else self._pool.scatter(plan)
        transfer = device_transfer(layers, self._slab, ids, slab_ids, device=layers.device)
        enqueue = transfer.gather if gathers else transfer.scatter
        return enqueue(stream, layers_a_step=1)

    def _follow(self, operation: _O) -> _O:
        if not operation.settle():
            with self._lock:
                self._open.append(operation)
        return operation

    def _settle(self) -> bool:
        """Take what operations have finished; True when none is left."""
        with self._lock:
            operations = list(self._open)
        over = {id(operation) for operation in operations if operation.settle()}
        with self._lock:
            self._open = [operation for operation in self._open if id(operation) not in over]
            is_quiet = not self._open
        self._stores.drop(self._is_used)
        return is_quiet

    def _is_used(self, store: Store) -> bool:
        """Whether something is under way with it."""
        with self._lock:
            return any(operation.store is store for operation in self._open)

    def _write_behind(self, hashes: HashArray, reservation: Reservation) -> None:
        """Writes what was published just now. What lies below blocks that others still bring can
        not be pinned yet, and is left out."""
        with self._stores.writing() as store:
            if store is not None and len(reservation.block_ids) > 0:
                self._write_to(store, hashes, reservation)

    def _write_to(self, store: Store, hashes: HashArray, reservation: Reservation) -> None:
        with self._lock:
            room = max(0, self._max_dirty_blocks - self._dirty)
            positions = reservation.new_positions[:room]
            self._not_written += len(reservation.block_ids) - len(positions)
            self._dirty += len(positions)
        if len(positions) == 0:
            return
        # Only what is to be written is held, and what it hangs on.
        lease = self._cache.retain(hashes[: positions[-1] + 1])
        held = positions[: np.searchsorted(positions, lease.num_blocks)]
        try:
            # The lease's ids: what was published may have left and come back elsewhere since.
            batch = store.put_from(
                hashes[held],
                self._slab,
                lease.block_ids[held],
                self._write_timeout_s,
                positions=held,
            )
        except Exception:
            # The blocks are saved, and whoever asks next is not who is to hear of this.
            _LOG.exception("the store refused %d blocks", len(held))
            lease.release()
            return self._count_write(0, len(positions))
        self._count_write(0, len(positions) - len(held))
        write = Write(batch, lease, self._count_write)
        write.store = store
        self._follow(write)

    def _count_fetch(self, fetched: int, not_fetched: int) -> None:
        with self._lock:
            self._fetched += fetched
            self._not_fetched += not_fetched

    def _count_write(self, written: int, not_written: int) -> None:
        with self._lock:
            self._dirty -= written + not_written
            self._written += written
            self._not_written += not_written


def _check_store(store: object, block_bytes: int) -> None:
    if not isinstance(store, Store):
        raise TypeError(f"store must be a Store, got {type(store).__name__}")
    if store.value_bytes != block_bytes:
        raise ValueError(
            f"store must have values of {block_bytes} bytes, as the slab's blocks, "
            f"got {store.value_bytes}"
        )


def _check_number(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value!r}")

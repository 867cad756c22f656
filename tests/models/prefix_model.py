"""A model of ``PrefixCache``: a tree of single blocks, no spans."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence

from kvcore import TenantQuota
from models.block import Block
from models.policies import POLICY_MODELS, PolicyModel
from models.tenants_model import TenantsModel

NEW, PRESENT, IN_FLIGHT, BYPASSED = range(4)


class ModelCache:
    """What ``PrefixCache`` promises, block by block.

    - A block counts only with all blocks before it. ``match``: the committed ones from the start.
    - ``acquire`` uses and pins what ``match`` finds.
    - ``reserve`` uses what is there, whatever its state, and asks for the rest. Blocks leave to
      make room: committed ones without a lease and with nothing below, never one of the chain at
      hand. The first that fit are new; where one does not fit, what lies below is of no use.
    - A writer that gives up takes its blocks away; one with others' blocks below stays vacant,
      until somebody asks for it and writes it or until nothing is below any more.
    """

    def __init__(
        self, num_blocks: int, policy: str, tenants: Mapping[str, TenantQuota] | None = None
    ) -> None:
        self.num_blocks = num_blocks
        make_policy = POLICY_MODELS[policy]
        self.tenants = TenantsModel(make_policy, num_blocks, tenants) if tenants else None
        self.policy: PolicyModel = self.tenants or make_policy(num_blocks)
        self.root = Block(b"", None)
        self.committed_blocks = 0
        self.in_flight_blocks = 0
        self.num_leases = 0
        self.evictions = 0

    @property
    def free_blocks(self) -> int:
        return self.num_blocks - self.committed_blocks - self.in_flight_blocks

    @property
    def available(self) -> int:
        """Blocks that the request at hand may bring though none leaves."""
        return min(self.free_blocks, self.tenants.room()) if self.tenants else self.free_blocks

    def match(self, chain: Sequence[bytes]) -> int:
        return len(self._committed(chain))

    def acquire(self, chain: Sequence[bytes], request: Hashable = None) -> ModelLease:
        path = self._committed(chain)
        if path:
            self.policy.touch(path, request or object())
        return ModelLease(self, path)

    def reserve(self, chain: Sequence[bytes], request: Hashable = None) -> ModelReservation:
        asked = self._resident(chain)
        missing = chain[len(asked) :]
        request = request or object()
        wanted = len(missing) + sum(block.vacant for block in asked)
        if self.tenants:
            self.tenants.begin(request, wanted, [block for block in asked if not block.vacant])
        self.policy.remember(missing, request)
        evicted = self._make_room(wanted, asked)

        reservation = ModelReservation(self, evicted)
        used: list[Block] = []
        for position, block_hash in enumerate(chain):
            parent = used[-1] if used else self.root
            block = parent.children.get(block_hash)
            if block is None or block.vacant:
                if self.available == 0:
                    break
                place = None if block is not None else position - len(asked)
                block = block or self._attach(block_hash, parent)
                block.writer = reservation
                self.in_flight_blocks += 1
                self.policy.enter(block, place)
                reservation.new.append(block)
                reservation.states.append(NEW)
                reservation.new_positions.append(position)
            else:
                reservation.states.append(PRESENT if block.committed else IN_FLIGHT)
            used.append(block)
        reservation.states += [BYPASSED] * (len(chain) - len(used))
        self.policy.touch(used, request)
        if asked:
            self._prune(asked[-1])
        return reservation

    def finish(self, request: Hashable, output_tokens: int) -> None:
        self.policy.finish(request, output_tokens)

    def _resident(self, chain: Sequence[bytes]) -> list[Block]:
        """The blocks that ``chain`` begins with, whatever their state."""
        path: list[Block] = []
        at = self.root
        for block_hash in chain:
            if block_hash not in at.children:
                break
            at = at.children[block_hash]
            path.append(at)
        return path

    def _committed(self, chain: Sequence[bytes]) -> list[Block]:
        path = self._resident(chain)
        ends = [position for position, block in enumerate(path) if not block.committed]
        return path[: ends[0]] if ends else path

    def _make_room(self, wanted: int, asked: Sequence[Block]) -> list[bytes]:
        """Evicts until ``wanted`` blocks are free or nothing may leave; answers what left."""
        kept = set(asked)

        def leaf(block: Block) -> bool:
            return (
                block.committed and not block.children and block.leases == 0 and block not in kept
            )

        evicted: list[bytes] = []
        while self.available < wanted and (block := self.policy.victim(leaf)) is not None:
            self.policy.evict(block)
            block.committed = False
            self.committed_blocks -= 1
            self.evictions += 1
            evicted.append(block.hash)
            self._prune(block, kept)
        return evicted

    def _attach(self, block_hash: bytes, parent: Block) -> Block:
        block = Block(block_hash, parent)
        parent.children[block_hash] = block
        return block

    def _prune(self, block: Block, kept: Collection[Block] = ()) -> None:
        """Takes vacant blocks with nothing below out of the tree, from ``block`` upwards."""
        while block.parent is not None and block.vacant and not block.children:
            if block in kept:
                break
            del block.parent.children[block.hash]
            block = block.parent


class ModelLease:
    def __init__(self, cache: ModelCache, path: list[Block]) -> None:
        self.cache = cache
        self.path = path
        self.num_blocks = len(path)
        cache.num_leases += bool(path)
        for block in path:
            block.leases += 1

    def release(self) -> None:
        self.cache.num_leases -= bool(self.path)
        for block in self.path:
            block.leases -= 1
        self.path = []


class ModelReservation:
    def __init__(self, cache: ModelCache, evicted: list[bytes]) -> None:
        self.cache = cache
        self.evicted = evicted
        self.states: list[int] = []
        self.new_positions: list[int] = []
        self.new: list[Block] = []
        self.num_committed = 0
        self.is_open = True

    def commit(self, count: int) -> None:
        for block in self.new[self.num_committed : count]:
            block.committed = True
            block.writer = None
            self.cache.in_flight_blocks -= 1
            self.cache.committed_blocks += 1
        self.num_committed = count

    def abort(self) -> None:
        for block in reversed(self.new[self.num_committed :]) if self.is_open else ():
            block.writer = None
            self.cache.in_flight_blocks -= 1
            self.cache.policy.drop(block)
            self.cache._prune(block)
        self.is_open = False

"""Eviction policies, block by block: which block leaves next.

The contract, as ``ModelCache`` uses it; ``path`` is always a chain's blocks from its first on:

==============================  ==================================================================
``remember(missing, request)``  these hashes are asked for and not there
``victim(leaf)``                the block that should leave next among those of which
                                ``leaf(block)`` is true; None: nothing is worth less than what comes
``evict(block)``                it leaves, to make room
``drop(block)``                 it leaves, given up by its writer
``enter(block, position)``      it comes, ``missing[position]``, or for None one that was vacant;
                                ``touch`` follows
``touch(path, request)``        a request uses these blocks
``finish(request, tokens)``     it has ended, with so many tokens of output
==============================  ==================================================================
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from models.block import Block
from models.fifo_model import FifoModel
from models.follower import Follower
from models.lfu_model import LfuModel
from models.lru2_model import Lru2Model
from models.mq_model import MqModel
from models.s3fifo_model import S3FifoModel
from models.sieve_model import SieveModel
from models.slru_model import SlruModel
from models.tlru_model import TailLruModel
from models.wtinylfu_model import WTinyLfuModel

Leaf = Callable[[Block], bool]


class PolicyModel(Protocol):
    def remember(self, missing: Sequence[bytes], request: Hashable) -> None: ...
    def victim(self, leaf: Leaf) -> Block | None: ...
    def evict(self, block: Block) -> None: ...
    def drop(self, block: Block) -> None: ...
    def enter(self, block: Block, position: int | None) -> None: ...
    def touch(self, path: Sequence[Block], request: Hashable) -> None: ...
    def finish(self, request: Hashable, output_tokens: int) -> None: ...


class LruModel:
    """Least recently used. Within one chain, deeper blocks are older."""

    def __init__(self, num_blocks: int) -> None:
        self.order: OrderedDict[Block, None] = OrderedDict()  # oldest first

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        pass

    def victim(self, leaf: Leaf) -> Block | None:
        return next(filter(leaf, self.order), None)

    def evict(self, block: Block) -> None:
        del self.order[block]

    def drop(self, block: Block) -> None:
        del self.order[block]

    def enter(self, block: Block, position: int | None) -> None:
        self.order[block] = None

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        for block in reversed(path):
            self.order.move_to_end(block)

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass


class ArcModel:
    """Adaptive replacement (Megiddo and Modha, FAST 2003), prefix-aware by four rules.

    1. A request uses a block once, however often it touches it.
    2. A block is in T2 only if the block before it is.
    3. A list loses its oldest leaf that nothing holds; when it has none, the other one does.
    4. ``p`` moves for every missing block that is found in B1 or B2, the shallowest first; both
       are trimmed after the request's blocks are in.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.t1: OrderedDict[Block, Hashable] = OrderedDict()  # oldest first -> its last request
        self.t2: OrderedDict[Block, Hashable] = OrderedDict()
        self.b1: OrderedDict[bytes, None] = OrderedDict()
        self.b2: OrderedDict[bytes, None] = OrderedDict()
        self.p = 0.0
        self.hit_b2 = False  # by the request at hand
        self.unbroken = 0  # of the blocks that come, from the first on: found in B1 or B2
        self.entered: dict[Block, bool] = {}

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.unbroken = 0
        self.hit_b2 = False
        for position, block_hash in enumerate(missing):
            if block_hash in self.b1:
                self.p = min(self.p + max(1.0, len(self.b2) / len(self.b1)), self.num_blocks)
                del self.b1[block_hash]
            elif block_hash in self.b2:
                self.p = max(self.p - max(1.0, len(self.b1) / len(self.b2)), 0.0)
                del self.b2[block_hash]
                self.hit_b2 = True
            else:
                continue
            if self.unbroken == position:
                self.unbroken += 1

    def victim(self, leaf: Leaf) -> Block | None:
        t1_is_large = len(self.t1) > self.p or (len(self.t1) == self.p and self.hit_b2)
        from_t1 = not self.t2 or (len(self.t1) > 0 and t1_is_large)
        first, second = (self.t1, self.t2) if from_t1 else (self.t2, self.t1)
        return next(filter(leaf, first), None) or next(filter(leaf, second), None)

    def evict(self, block: Block) -> None:
        (self.b1 if block in self.t1 else self.b2)[block.hash] = None
        self.drop(block)

    def drop(self, block: Block) -> None:
        del (self.t1 if block in self.t1 else self.t2)[block]

    def enter(self, block: Block, position: int | None) -> None:
        self.entered[block] = position is None or position < self.unbroken

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        in_t2 = 0  # blocks of the path, from its first on
        for block in path:
            if block in self.entered:
                used_before = self.entered[block]
            else:
                used_before = block in self.t2 or self.t1[block] != request
            if not used_before:
                break
            in_t2 += 1
        for position, block in reversed(list(enumerate(path))):
            if self.entered.pop(block, None) is None:
                self.drop(block)
            (self.t2 if position < in_t2 else self.t1)[block] = request
        self._trim()

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

    def _trim(self) -> None:
        while self.b1 and len(self.t1) + len(self.b1) > self.num_blocks:
            self.b1.popitem(last=False)
        lists = (self.t1, self.t2, self.b1, self.b2)
        while self.b2 and sum(map(len, lists)) > 2 * self.num_blocks:
            self.b2.popitem(last=False)


POLICY_MODELS: dict[str, Callable[[int], PolicyModel]] = {
    "lru": LruModel,
    "lru2": Lru2Model,
    "mq": MqModel,
    "wtinylfu": WTinyLfuModel,
    "tlru": TailLruModel,
    "fifo": FifoModel,
    "slru": SlruModel,
    "sieve": SieveModel,
    "s3fifo": S3FifoModel,
    "lfu": LfuModel,
    "arc": ArcModel,
    "hazard": Follower,
    "auto": Follower,
}

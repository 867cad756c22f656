"""S3-FIFO (Yang et al., SOSP 2023) with blocks that cannot leave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from models.block import Block

if TYPE_CHECKING:
    from models.policies import Leaf


class Queue:
    def __init__(self) -> None:
        self.waiting: OrderedDict[Block, None] = OrderedDict()  # oldest first
        self.overdue: OrderedDict[Block, None] = OrderedDict()

    def __contains__(self, block: Block) -> bool:
        return block in self.waiting or block in self.overdue

    def __len__(self) -> int:
        return len(self.waiting) + len(self.overdue)

    def remove(self, block: Block) -> None:
        del (self.waiting if block in self.waiting else self.overdue)[block]


class S3FifoModel:
    """S3-FIFO, prefix-aware by five rules.

    1. A request uses a block once, however often it touches it; bringing it is no use.
    2. A block at the end of its queue goes to main, or around, whether it could leave or not.
    3. One that should leave and cannot is overdue and leaves before the rest of its queue; if it
       has been used enough before, it goes to main, or around, at once.
    4. A vacant block that is asked for again goes to main. Where one queue has nothing that may
       leave, the other one is asked.
    5. A request takes room from small alone, but where its known blocks would take main above its
       limit. When small has nothing left that may leave and a tenth of the cache is free, the rest
       is bypassed: it is known next time.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.main_limit = num_blocks - max(num_blocks // 10, 1)
        self.small = Queue()
        self.main = Queue()
        self.ghosts: OrderedDict[bytes, None] = OrderedDict()
        self.uses: dict[Block, int] = {}
        self.last_request: dict[Block, Hashable] = {}
        self.missing: Sequence[bytes] = ()  # those that come
        self.come = 0  # of them, so far
        self.known: set[int] = set()  # positions of those that were ghosts
        self.entered: dict[Block, bool] = {}  # whether it was known

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.missing = missing
        self.known.clear()
        self.come = 0
        for position, block_hash in enumerate(missing):
            if block_hash in self.ghosts:
                del self.ghosts[block_hash]
                self.known.add(position)

    def victim(self, leaf: Leaf) -> Block | None:
        excess = len(self.main) + max(len(self.known), 1) - 1 - self.main_limit
        found = self._leaf_of(self.main, leaf) if excess > 0 else None
        if found or (found := self._leaf_of(self.small, leaf)):
            return found
        free = self.num_blocks - len(self.small) - len(self.main)
        if self.missing and free >= self.num_blocks - self.main_limit:
            return None
        return self._leaf_of(self.main, leaf)

    def _leaf_of(self, queue: Queue, leaf: Leaf) -> Block | None:
        if found := next(filter(leaf, queue.overdue), None):
            return found
        while queue.waiting:
            block = next(iter(queue.waiting))
            if self._stay(block):
                continue
            if leaf(block):
                return block
            del queue.waiting[block]
            queue.overdue[block] = None
        return None

    def evict(self, block: Block) -> None:
        if block in self.small:
            self._remember_ghost(block.hash)
        self.drop(block)

    def drop(self, block: Block) -> None:
        (self.small if block in self.small else self.main).remove(block)
        del self.uses[block], self.last_request[block]

    def enter(self, block: Block, position: int | None) -> None:
        self.entered[block] = position is None or position in self.known
        self.come += position is not None

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        for block in reversed(path):
            if block in self.entered:
                queue = self.main if self.entered.pop(block) else self.small
                queue.waiting[block] = None
                self.uses[block] = 0
            elif self.last_request[block] != request:
                self.uses[block] = min(self.uses[block] + 1, 3)
                if block in self.small.overdue or block in self.main.overdue:
                    self._stay(block)
            self.last_request[block] = request
        for block_hash in reversed(self.missing[self.come :]):
            self._remember_ghost(block_hash)
        self.missing = ()
        self.known.clear()

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

    def _remember_ghost(self, block_hash: bytes) -> None:
        self.ghosts.pop(block_hash, None)
        self.ghosts[block_hash] = None
        if len(self.ghosts) > self.main_limit:
            self.ghosts.popitem(last=False)

    def _stay(self, block: Block) -> bool:
        """Whether a block at the end of its queue goes on in main."""
        from_small = block in self.small
        if self.uses[block] < (2 if from_small else 1):
            return False
        (self.small if from_small else self.main).remove(block)
        self.main.waiting[block] = None
        self.uses[block] = 0 if from_small else self.uses[block] - 1
        return True

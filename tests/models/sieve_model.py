"""SIEVE (Zhang et al., NSDI 2024) with blocks that cannot leave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from models.block import Block

if TYPE_CHECKING:
    from models.policies import Leaf


class SieveModel:
    """SIEVE, prefix-aware by four rules.

    1. Only another request than the one that brought or marked a block marks it.
    2. The hand takes the mark of a block that cannot leave as well.
    3. A block without a mark that cannot leave is overdue: it leaves before the hand goes on. If it
       is used first, it stands in the queue again, marked, just behind the hand.
    4. When the hand has passed the newest block while room is made for a request, the blocks that
       come are next, so the rest of them is bypassed.
    """

    def __init__(self, num_blocks: int) -> None:
        # The queue, oldest first, in two: what the hand has passed, and what it comes to.
        self.behind: OrderedDict[Block, None] = OrderedDict()
        self.ahead: OrderedDict[Block, None] = OrderedDict()
        self.overdue: OrderedDict[Block, None] = OrderedDict()
        self.blocks_come = False  # for the request at hand
        self.room_made = False
        self.marked: set[Block] = set()
        self.last_request: dict[Block, Hashable] = {}

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.blocks_come = len(missing) > 0
        self.room_made = False

    def victim(self, leaf: Leaf) -> Block | None:
        if found := next(filter(leaf, self.overdue), None):
            return found
        while self.ahead or self.behind:
            if not self.ahead:
                if self.blocks_come and self.room_made:
                    return None
                self.ahead, self.behind = self.behind, self.ahead
            block = next(iter(self.ahead))
            if block not in self.marked and leaf(block):
                return block
            del self.ahead[block]
            if block in self.marked:
                self.marked.remove(block)
                self.behind[block] = None
            else:
                self.overdue[block] = None
        return None

    def evict(self, block: Block) -> None:
        self.room_made = True
        self.drop(block)

    def drop(self, block: Block) -> None:
        for part in (self.behind, self.ahead, self.overdue):
            part.pop(block, None)
        self.marked.discard(block)
        del self.last_request[block]

    def enter(self, block: Block, position: int | None) -> None:
        pass

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        for block in reversed(path):
            if block not in self.last_request:
                (self.ahead or self.behind)[block] = None
            elif self.last_request[block] != request:
                self.marked.add(block)
                if block in self.overdue:
                    del self.overdue[block]
                    self.behind[block] = None
            self.last_request[block] = request
        self.blocks_come = False

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

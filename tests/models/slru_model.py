"""Segmented LRU (Karedla, Love and Wherry, 1994) with blocks that cannot leave."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from models.block import Block

if TYPE_CHECKING:
    from models.policies import Leaf


class SlruModel:
    """Segmented LRU, 80 % protected, prefix-aware by four rules.

    1. A request uses a block once, however often it touches it.
    2. A block is protected only if the block before it is. A vacant block that is asked for again
       counts as used before.
    3. Protected blocks that were last used together go back together, but not those of the touch
       at hand.
    4. Where no probationary block may leave, protected ones go back until one may.
    """

    def __init__(self, num_blocks: int) -> None:
        self.protected_limit = num_blocks * 4 // 5
        self.probationary: OrderedDict[Block, None] = OrderedDict()  # oldest first
        self.protected: OrderedDict[Block, int] = OrderedDict()  # -> time of its last touch
        self.last_request: dict[Block, Hashable] = {}
        self.entered: dict[Block, bool] = {}  # whether it counts as used before
        self.now = 0

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        pass

    def victim(self, leaf: Leaf) -> Block | None:
        while not (found := next(filter(leaf, self.probationary), None)) and self.protected:
            self._put_back()
        return found

    def evict(self, block: Block) -> None:
        self.drop(block)

    def drop(self, block: Block) -> None:
        self._take_out(block)
        del self.last_request[block]

    def enter(self, block: Block, position: int | None) -> None:
        self.entered[block] = position is None

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        self.now += 1
        protect = 0  # blocks of the path, from its first on
        for block in path:
            if block in self.entered:
                used_again = self.entered[block]
            else:
                used_again = self.last_request[block] != request or block in self.protected
            if not used_again:
                break
            protect += 1
        for position, block in reversed(list(enumerate(path))):
            if self.entered.pop(block, None) is None:
                self._take_out(block)
            if position < protect:
                self.protected[block] = self.now
            else:
                self.probationary[block] = None
            self.last_request[block] = request
        while len(self.protected) > self.protected_limit:
            if next(iter(self.protected.values())) == self.now:
                break
            self._put_back()

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

    def _put_back(self) -> None:
        oldest = next(iter(self.protected.values()))
        for block in [block for block, time in self.protected.items() if time == oldest]:
            del self.protected[block]
            self.probationary[block] = None

    def _take_out(self, block: Block) -> None:
        if block in self.protected:
            del self.protected[block]
        else:
            del self.probationary[block]

"""LRU-2 block by block."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from models.block import Block
from models.history import HistoryModel


@dataclass
class Uses:
    last: int = 0
    last_but_one: int = 0  # 0: none
    request: Hashable = None  # the last


class Lru2Model:
    """The last use but one decides (O'Neil, O'Neil and Weikum, SIGMOD 1993).

    1. A request uses a block once, however often it touches it.
    2. A block whose last use but one is later than that of the block before counts as used once.
    3. What was touched together leaves deepest first.
    4. A block comes only if it ranks no lower than the block that leaves for it, but for the first
       of a request.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.history = HistoryModel(4 * num_blocks)
        self.resident: set[Block] = set()
        self.uses: dict[Block, Uses] = {}  # of vacant blocks as well
        self.now = 0

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.history.recall(missing)

    def victim(self, leaf: Callable[[Block], bool]) -> Block | None:
        def rank(block: Block) -> tuple[int, int]:
            return self.uses[block].last_but_one, self.uses[block].last

        block = min(filter(leaf, self.resident), key=rank, default=None)
        if block is None or not self.history.missing or self.uses[block].last_but_one == 0:
            return block
        with_room = self.num_blocks - len(self.resident)
        worth = sum(value >= self.uses[block].last_but_one for value in self.history.values)
        return block if with_room < max(worth, 1) else None

    def evict(self, block: Block) -> None:
        self.history.ghosts[block.hash] = self.uses[block].last
        self.drop(block)

    def drop(self, block: Block) -> None:
        self.resident.remove(block)

    def enter(self, block: Block, position: int | None) -> None:
        self.resident.add(block)
        if position is not None:
            self.uses[block] = Uses(last=self.history.values[position])
            self.history.entered += 1

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        self.now += 1
        self.history.settle(lambda _: self.now)
        for above, block in zip([None, *path], path, strict=False):
            uses = self.uses[block]
            if uses.request != request:
                uses.last_but_one = uses.last
            if above is not None and uses.last_but_one > self.uses[above].last_but_one:
                uses.last_but_one = 0
            uses.last = self.now
            uses.request = request

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

"""MQ block by block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from models.block import Block
from models.history import HistoryModel


@dataclass
class Uses:
    count: int
    last: int = 0  # time
    request: Hashable = None


class MqModel:
    """Multi-queue (Zhou, Philbin and Li, USENIX ATC 2001), with exact sinking.

    1. A request uses a block once, however often it touches it. Time is counted in blocks used.
    2. A block that its ghost says was used more often than the block before it counts as new.
    3. What was touched together leaves deepest first.
    4. A block comes only if it ranks no lower than the block that leaves for it, but for the first
       of a request.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.gaps: Counter[int] = Counter()  # by bit_length: blocks
        self.life = 2
        self.history = HistoryModel(4 * num_blocks)
        self.resident: set[Block] = set()
        self.uses: dict[Block, Uses] = {}  # of vacant blocks as well
        self.depth: dict[Block, int] = {}
        self.now = 0

    def due(self, count: int, last: int) -> int:
        """When it comes to the end of the lowest queue."""
        return last + self.queue(count) * self.life

    def queue(self, count: int) -> int:
        return min(count.bit_length() - 1, 7)

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.history.recall(missing)

    def victim(self, leaf: Callable[[Block], bool]) -> Block | None:
        def rank(block: Block) -> tuple[int, int, int]:
            uses = self.uses[block]
            return self.due(uses.count, uses.last), self.queue(uses.count), -self.depth[block]

        block = min(filter(leaf, self.resident), key=rank, default=None)
        if block is None or not self.history.missing:
            return block
        with_room = self.num_blocks - len(self.resident)
        worth = sum(
            self.due((value >> 56) + 1, self.now) >= rank(block)[0] for value in self.history.values
        )
        return block if rank(block)[0] <= self.now or with_room < max(worth, 1) else None

    def evict(self, block: Block) -> None:
        self.history.ghosts[block.hash] = self.uses[block].count << 56 | self.uses[block].last
        self.drop(block)

    def drop(self, block: Block) -> None:
        self.resident.remove(block)

    def enter(self, block: Block, position: int | None) -> None:
        self.resident.add(block)
        if position is not None:
            value = self.history.values[position]
            self.uses[block] = Uses(value >> 56, value % 2**56)
            self.history.entered += 1
        else:
            self.uses[block].request = None

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        used = [self.uses[block].request != request for block in path]
        self.now += sum(used)
        self.history.settle(lambda value: min((value >> 56) + 1, 255) << 56 | self.now)
        if not any(used):
            return
        above = 255
        for depth, (block, again) in enumerate(zip(path, used, strict=True)):
            if again and self.uses[block].count > 0:
                self.gaps[(self.now - self.uses[block].last).bit_length()] += 1
            above = min(above, self.uses[block].count + again)
            self.uses[block] = Uses(above, self.now, request)
            self.depth[block] = depth
        self.tune_life()

    def tune_life(self) -> None:
        if self.gaps.total() > 128 * self.num_blocks:
            self.gaps = Counter({width: number // 2 for width, number in self.gaps.items()})
        peak = max(self.gaps, key=lambda width: (self.gaps[width], -width), default=0)
        self.life = 2**peak + 1

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

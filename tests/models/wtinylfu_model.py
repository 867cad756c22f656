"""W-TinyLFU block by block."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from models.block import Block

WINDOW, PROBATION, PROTECTED = range(3)


class SketchModel:
    """A count-min sketch of 4 bits a counter behind a doorkeeper; counters in Python lists."""

    def __init__(self, num_blocks: int) -> None:
        self.num_lines = 1
        while self.num_lines * 16 < num_blocks:
            self.num_lines *= 2
        self.adds_per_line = -(-num_blocks * 10 // self.num_lines)
        self.counters = [[[0] * 32 for _ in range(4)] for _ in range(self.num_lines)]
        self.doors: list[set[tuple[int, int]]] = [set() for _ in range(self.num_lines)]
        self.adds = 0
        self.next_line = 0

    def _place(self, block_hash: bytes) -> tuple[int, set[tuple[int, int]], list[int]]:
        low = int.from_bytes(block_hash[:8], "little") ^ 0xD6E8FEB86659FD93
        high = int.from_bytes(block_hash[8:], "little") ^ 0xA0761D6478BD642F
        folded = (low * high) % 2**64 ^ (low * high) >> 64
        door = {(folded >> 63, folded >> shift & 63) for shift in (20, 26, 32)}
        return (folded >> 38) % self.num_lines, door, [folded >> 5 * row & 31 for row in range(4)]

    def add(self, block_hash: bytes) -> None:
        line, door, columns = self._place(block_hash)
        if not door <= self.doors[line]:
            self.doors[line] |= door
        else:
            for row, column in zip(self.counters[line], columns, strict=True):
                row[column] = min(row[column] + 1, 15)
        self.adds += 1
        if self.adds == self.adds_per_line:
            self.adds = 0
            aged = self.counters[self.next_line]
            self.counters[self.next_line] = [[count // 2 for count in row] for row in aged]
            self.doors[self.next_line] = set()
            self.next_line = (self.next_line + 1) % self.num_lines

    def count(self, block_hash: bytes) -> int:
        line, door, columns = self._place(block_hash)
        rows = zip(self.counters[line], columns, strict=True)
        return min(row[column] for row, column in rows) + (door <= self.doors[line])


@dataclass
class Standing:
    part: int
    stamp: int = 0  # equal: one group
    depth: int = 0
    request: Hashable = None


class WTinyLfuModel:
    """Window, probation, protected (Einziger, Friedman and Manes, TOS 2017), and the climb.

    1. A request uses a block once; what it does not find it has used as well.
    2. A group (touched together, in one list) moves as one; its deepest block is in the contests.
    3. A use carries a block no lower than the blocks that the request uses below it.
    4. What cannot leave cannot lose.
    5. What comes and has no place in the window has to win its contest before it comes.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.sketch = SketchModel(num_blocks)
        self.resident: dict[Block, Standing] = {}
        self.requests: dict[Block, Hashable] = {}  # of vacant blocks: the last
        self.missing: Sequence[bytes] = ()
        self.request: Hashable = None
        self.now = 0
        self.window_limit = max(num_blocks // 100, 1)
        self.growing = True
        self.uses = self.hits = 0
        self.before = (1, 0)  # uses, hits

    def size(self, *parts: int) -> int:
        return sum(standing.part in parts for standing in self.resident.values())

    def front(self, part: int) -> Block | None:
        """The deepest block of the oldest group."""
        members = [block for block, standing in self.resident.items() if standing.part == part]
        return min(
            members,
            key=lambda block: (self.resident[block].stamp, -self.resident[block].depth),
            default=None,
        )

    def move_oldest(self, source: int, target: int) -> None:
        front = self.front(source)
        assert front is not None
        stamp = self.resident[front].stamp
        self.now += 1
        for standing in self.resident.values():
            if standing.part == source and standing.stamp == stamp:
                standing.part, standing.stamp = target, self.now

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.missing, self.request = missing, request
        for block_hash in missing:
            self.sketch.add(block_hash)
        self.uses += len(missing)

    def main_victim(self, leaf: Callable[[Block], bool]) -> Block | None:
        while True:
            leaves = [b for b, at in self.resident.items() if at.part == PROBATION and leaf(b)]
            if leaves or self.front(PROTECTED) is None:
                return min(leaves, key=lambda block: self.resident[block].stamp, default=None)
            self.move_oldest(PROTECTED, PROBATION)

    def victim(self, leaf: Callable[[Block], bool]) -> Block | None:
        with_room = self.num_blocks - len(self.resident)
        while (candidate := self.front(WINDOW)) is not None and not leaf(candidate):
            self.move_oldest(WINDOW, PROBATION)
        victim = self.main_victim(leaf)
        if victim is None:
            return candidate
        if self.size(WINDOW) + with_room < self.window_limit:
            return victim
        least = self.sketch.count(victim.hash)
        if candidate is not None:
            if self.sketch.count(candidate.hash) <= least:
                return candidate
            self.move_oldest(WINDOW, PROBATION)
        elif with_room < len(self.missing):
            comes = self.sketch.count(self.missing[with_room])
            return victim if comes > least else None
        return victim

    def evict(self, block: Block) -> None:
        self.drop(block)

    def drop(self, block: Block) -> None:
        self.requests[block] = self.resident.pop(block).request

    def enter(self, block: Block, position: int | None) -> None:
        request = self.requests.get(block) if position is None else self.request
        self.resident[block] = Standing(WINDOW, request=request)

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        self.now += 1
        self.missing = ()
        below = WINDOW
        for block in reversed(path):
            standing = self.resident[block]
            if standing.request != request:
                self.uses += 1
                self.hits += 1
                if standing.part == PROBATION:
                    standing.part = PROTECTED
            below = standing.part = max(standing.part, below)
            standing.stamp = self.now
        for depth, block in enumerate(path):
            standing = self.resident[block]
            standing.depth = depth
            if standing.request != request:
                self.sketch.add(block.hash)
            standing.request = request
        self.climb()
        main = self.num_blocks - self.window_limit
        while self.size(WINDOW) > self.window_limit and self.size(PROBATION, PROTECTED) < main:
            self.move_oldest(WINDOW, PROBATION)
        while self.size(PROTECTED) > main * 4 // 5:
            self.move_oldest(PROTECTED, PROBATION)

    def climb(self) -> None:
        if self.uses < 10 * self.num_blocks:
            return
        if self.hits * self.before[0] < self.before[1] * self.uses:
            self.growing = not self.growing
        step, least = max(self.num_blocks // 16, 1), max(self.num_blocks // 100, 1)
        most = max(self.num_blocks - self.num_blocks // 5, 1)
        if self.growing:
            self.window_limit = min(self.window_limit + step, most)
        else:
            self.window_limit = max(self.window_limit - step, least)
        self.before = (self.uses, self.hits)
        self.uses = self.hits = 0

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

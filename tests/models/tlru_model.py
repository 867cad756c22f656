"""Tail-optimised LRU block by block."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from models.block import Block
from models.history import HistoryModel


class RunningMeanModel:
    """The mean of about the last thousand values, in 1/2^16."""

    def __init__(self) -> None:
        self.mean: int | None = None

    def add(self, value: int) -> None:
        scaled = value << 16
        self.mean = scaled if self.mean is None else self.mean + ((scaled - self.mean) >> 10)


class TailLruModel:
    """What a conversation can spare goes first (Zhang, Li, Moallemi and Peng, arXiv 2510.15152).

    That is its last (threshold - Q) blocks: the threshold is a quarter of the mean prompt, Q the
    mean of the blocks never seen before in requests that know at least half of theirs.
    """

    def __init__(self, num_blocks: int) -> None:
        self.history = HistoryModel(4 * num_blocks)
        self.order: dict[Block, tuple[bool, int, int]] = {}  # needed, time, minus depth
        self.prompt = RunningMeanModel()
        self.next_turn = RunningMeanModel()
        self.fresh = 0
        self.now = 0

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.history.recall(missing)
        self.fresh = self.history.values.count(0)

    def victim(self, leaf: Callable[[Block], bool]) -> Block | None:
        return min(filter(leaf, self.order), key=self.order.__getitem__, default=None)

    def evict(self, block: Block) -> None:
        self.history.ghosts[block.hash] = 1
        self.drop(block)

    def drop(self, block: Block) -> None:
        del self.order[block]

    def enter(self, block: Block, position: int | None) -> None:
        self.history.entered += position is not None

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        self.now += 1
        if self.history.missing:
            prompt = len(path) + len(self.history.missing) - self.history.entered
            self.prompt.add(prompt)
            if self.fresh * 2 <= prompt:
                self.next_turn.add(self.fresh)
        self.history.settle(lambda _: 1)
        spare = max(((self.prompt.mean or 0) // 4 - (self.next_turn.mean or 0)) >> 16, 0)
        for depth, block in enumerate(path):
            self.order[block] = (depth < len(path) - spare, self.now, -depth)

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

"""Least frequently used with dynamic ageing (Arlitt et al., 2000)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from models.block import Block

if TYPE_CHECKING:
    from models.policies import Leaf


class LfuModel:
    """The leaf of the lowest key leaves, of equal ones the least recently used.

    A touch gives a block the key L + F: its uses since it came, one a request and at most 255, and
    the highest key that has left.
    """

    def __init__(self, num_blocks: int) -> None:
        self.age = 0
        self.now = 0
        self.keys: dict[Block, tuple[int, int]] = {}  # and the time of the last touch
        self.order: OrderedDict[Block, None] | None = None  # by key; None: not known
        self.uses: dict[Block, int] = {}
        self.last_request: dict[Block, Hashable] = {}

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        pass

    def victim(self, leaf: Leaf) -> Block | None:
        if self.order is None:
            self.order = OrderedDict.fromkeys(sorted(self.keys, key=self.keys.__getitem__))
        return next(filter(leaf, self.order), None)

    def evict(self, block: Block) -> None:
        self.age = max(self.age, self.keys[block][0])
        self.drop(block)

    def drop(self, block: Block) -> None:
        if self.order is not None:
            del self.order[block]
        del self.keys[block], self.uses[block], self.last_request[block]

    def enter(self, block: Block, position: int | None) -> None:
        pass

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        self.now += 1
        self.order = None
        for block in reversed(path):
            if block not in self.uses or self.last_request[block] != request:
                self.uses[block] = min(self.uses.get(block, 0) + 1, 255)
            self.keys[block] = (self.age + self.uses[block], self.now)
            self.last_request[block] = request

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

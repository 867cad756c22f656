"""First in, first out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from models.block import Block

if TYPE_CHECKING:
    from models.policies import Leaf


class FifoModel:
    """The leaf that came first leaves. Of what one request brings, the deepest comes first."""

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
        pass

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        for block in reversed(path):
            self.order.setdefault(block)

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

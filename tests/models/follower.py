"""A policy whose order is a learnt number: the model follows the core and holds it to the rules."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from models.block import Block

if TYPE_CHECKING:
    from models.policies import Leaf


class Follower:
    """Chooses what the core has chosen, if it was free to.

    The core is called first, and ``follow`` told what it evicted. Of that:

    - Each block must be a leaf when its turn comes, as ``ModelCache`` sees it.
    - Nothing is left over once there is room for all.
    - Where leaves are left, but not room, the policy has bypassed: of the missing blocks alone, not
      of those that are vacant.

    ``ModelCache`` fills the room that there is and compares states; so what is bypassed is a tail,
    and no room was made for it.
    """

    def __init__(self, num_blocks: int) -> None:
        self.resident: dict[bytes, Block] = {}
        self.to_leave: list[bytes] = []
        self.num_asked = 0
        self.num_missing = 0
        self.bypasses = False

    def follow(self, evicted: Sequence[bytes], num_asked: int) -> None:
        """The core has been asked for so many blocks, and has evicted these."""
        self.to_leave = list(evicted)
        self.num_asked = num_asked

    def remember(self, missing: Sequence[bytes], request: Hashable) -> None:
        self.num_missing = len(missing)
        self.bypasses = False

    def victim(self, leaf: Leaf) -> Block | None:
        if not self.to_leave:
            self.bypasses = any(map(leaf, self.resident.values()))
            return None
        block = self.resident[self.to_leave.pop(0)]
        assert leaf(block), "evicted, although it may not leave"
        return block

    def evict(self, block: Block) -> None:
        self.drop(block)

    def drop(self, block: Block) -> None:
        del self.resident[block.hash]

    def enter(self, block: Block, position: int | None) -> None:
        self.resident[block.hash] = block

    def touch(self, path: Sequence[Block], request: Hashable) -> None:
        assert not self.to_leave, "evicted, although there was room"
        if self.bypasses:
            assert len(path) >= self.num_asked - self.num_missing, "bypassed what is not missing"
        self.bypasses = False

    def finish(self, request: Hashable, output_tokens: int) -> None:
        pass

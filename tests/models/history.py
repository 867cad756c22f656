"""What a policy knows from before of the blocks that come, block by block."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence


class HistoryModel:
    """A value for each block, kept as a ghost when it leaves; it never grows along a chain."""

    def __init__(self, max_ghosts: int) -> None:
        self.max_ghosts = max_ghosts
        self.ghosts: OrderedDict[bytes, int] = OrderedDict()  # oldest first
        self.missing: Sequence[bytes] = ()
        self.values: list[int] = []
        self.entered = 0

    def recall(self, missing: Sequence[bytes]) -> None:
        self.missing, self.values, self.entered = missing, [], 0
        for block_hash in missing:
            value = self.ghosts.pop(block_hash, 0)
            broken = bool(self.values) and value > self.values[-1]
            self.values.append(0 if broken else value)

    def settle(self, used: Callable[[int], int]) -> None:
        """What found no place has been used as well."""
        bypassed = range(self.entered, min(len(self.missing), self.entered + self.max_ghosts))
        for position in reversed(bypassed):
            self.ghosts[self.missing[position]] = used(self.values[position])
        self.missing, self.values = (), []
        while len(self.ghosts) > self.max_ghosts:
            self.ghosts.popitem(last=False)

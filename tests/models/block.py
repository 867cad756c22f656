"""One block of the model's tree."""

from __future__ import annotations


class Block:
    """A block of some chain: committed, in flight (it has a writer), or vacant (neither)."""

    def __init__(self, block_hash: bytes, parent: Block | None) -> None:
        self.hash = block_hash
        self.parent = parent
        self.children: dict[bytes, Block] = {}
        self.committed = False
        self.writer: object | None = None
        self.leases = 0

    @property
    def vacant(self) -> bool:
        return not self.committed and self.writer is None

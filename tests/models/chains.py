"""Chained hashes for tests: one token makes one block."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint8]


def chain_of(tokens: Iterable[int]) -> list[bytes]:
    """The hash of each block: its token and the hash of the block before it."""
    chain: list[bytes] = []
    parent = b""
    for token in tokens:
        parent = hashlib.sha256(parent + token.to_bytes(8, "little")).digest()[:16]
        chain.append(parent)
    return chain


def packed(chain: Sequence[bytes]) -> Hashes:
    """The same as ``uint8[n, 16]``."""
    return np.frombuffer(b"".join(chain), np.uint8).reshape(len(chain), 16)


def hashes_of(tokens: Iterable[int]) -> Hashes:
    return packed(chain_of(tokens))


def rows(hashes: Hashes) -> list[bytes]:
    """Back from ``uint8[n, 16]``."""
    return [row.tobytes() for row in hashes]

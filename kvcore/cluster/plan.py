"""What a change of servers moves."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from kvcore.cluster.members import Members

_SCOPE = bytes(16)


@dataclass(frozen=True, slots=True)
class Move:
    """Copies that one server has after a change, in the place of another.

    Attributes
    ----------
    source : str
        Name of the server that had the copy; "" where there is one copy more than before.
    to : str
        Name of the server that is asked for it afterwards; "" for one copy less.
    chunks : int
    """

    source: str
    to: str
    chunks: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What becomes of a sample of chunks.

    Attributes
    ----------
    chunks : int
        Sampled.
    moved : int
        Those that have other servers afterwards.
    lost : int
        Those of which no server that is asked afterwards has a copy: misses until they are written
        again.
    gone : int
        Of the lost, those that no server has that stays.
    moves : tuple of Move
        Most chunks first.
    """

    chunks: int
    moved: int
    lost: int
    gone: int
    moves: tuple[Move, ...]


def sample_hashes(num_chunks: int) -> npt.NDArray[np.uint8]:
    """The same names of chunks every time: uint8[num_chunks, 16]."""
    names = hashlib.shake_128(b"kvcore cluster").digest(16 * num_chunks)
    return np.frombuffer(names, np.uint8).reshape(-1, 16)


def shares(members: Members, replicas: int, num_chunks: int = 100_000) -> list[float]:
    """The part of all copies that each server has, by a sample; they sum up to 1, or are all 0."""
    if not members.servers:
        return []
    placed = members.placement().place(_SCOPE, sample_hashes(num_chunks), _copies(replicas))
    counts = np.bincount(placed[placed >= 0], minlength=len(members.servers))
    return [float(count) / max(1, int(counts.sum())) for count in counts]


def plan_change(before: Members, after: Members, replicas: int, num_chunks: int) -> Plan:
    """What a change moves, and what it loses. Servers are the same where their names are.

    Parameters
    ----------
    before, after : Members
        One server at least, each.
    replicas : int
        1 to 16.
    num_chunks : int
        How many to sample, 1 to 1,000,000.

    Raises
    ------
    ValueError
        There are no servers, or a number is not allowed.
    """
    if not 1 <= num_chunks <= 1_000_000:
        raise ValueError(f"num_chunks must be from 1 to 1,000,000, got {num_chunks}")
    if not before.servers or not after.servers:
        raise ValueError("before and after must have a server at least")
    names = [server.name for server in before.servers]
    names += [server.name for server in after.servers if server.name not in names]
    stays = np.isin(names, [server.name for server in after.servers])
    hashes = sample_hashes(num_chunks)
    had = _holders(before, hashes, replicas, names)
    has = _holders(after, hashes, replicas, names)
    kept = (had & has).any(axis=1)
    # A copy that goes is paired with one that comes, in the order of the names.
    pairs: Counter[tuple[str, str]] = Counter()
    changes, counts = np.unique(
        np.stack([had & ~has, has & ~had], axis=1), axis=0, return_counts=True
    )
    for (goes, comes), count in zip(changes, counts.tolist(), strict=True):
        sources = [names[i] for i in np.flatnonzero(goes)]
        targets = [names[i] for i in np.flatnonzero(comes)]
        for pair in zip_longest(sources, targets, fillvalue=""):
            pairs[pair] += count
    moves = [Move(source, to, count) for (source, to), count in pairs.items()]
    return Plan(
        chunks=num_chunks,
        moved=int((had != has).any(axis=1).sum()),
        lost=int((~kept).sum()),
        gone=int((~kept & ~(had & stays).any(axis=1)).sum()),
        moves=tuple(sorted(moves, key=lambda move: (-move.chunks, move.source, move.to))),
    )


def _copies(replicas: int) -> int:
    if not 1 <= replicas <= 16:
        raise ValueError(f"replicas must be from 1 to 16, got {replicas}")
    return replicas


def _holders(
    members: Members, hashes: npt.NDArray[np.uint8], replicas: int, names: list[str]
) -> npt.NDArray[np.bool_]:
    """Whether a server has a copy: bool[chunks, names]."""
    placed = members.placement().place(_SCOPE, hashes, _copies(replicas))
    number = np.array([names.index(server.name) for server in members.servers])
    holders = np.zeros((len(hashes), len(names)), bool)
    rows, columns = np.nonzero(placed >= 0)
    holders[rows, number[placed[rows, columns]]] = True
    return holders

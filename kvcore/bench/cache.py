"""`kvcore bench cache`: replacing blocks in a full cache, and touching them.

A call brings 2,000 new blocks and evicts as many of 1 M: either whole spans, or 1,000 spans of two.
For kvcore that is reserve and commit, and it tells which blocks left and where the new ones go; so
does the OrderedDict. libCacheSim runs its own loop in C over objects named by 64-bit numbers, knows
no chains, tells nothing, and has no cost of Python in it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kvcore import Reservation
from kvcore.bench.harness import Case, Contender, Row, always, measure
from kvcore.bench.peers import (
    CacheSimulator,
    Hashes,
    OrderedBlocks,
    grown_cache,
    keys_of,
    numbers_of,
    random_chains,
)

_POLICIES = ("lru", "arc")
_SHORT_SPAN_BLOCKS = 16


def run(quick: bool) -> Iterator[Row]:
    num_chains, chain_blocks, rounds = (8, 64, 3) if quick else (500, 2_000, 201)
    chains = random_chains(0, num_chains, chain_blocks)
    new_chains = random_chains(1, rounds, chain_blocks)
    for policy in _POLICIES:
        yield measure(_replace_case(policy, chains, new_chains))
        yield measure(_replace_case(policy, chains.reshape(-1, 2, 16), new_chains))
    for policy in _POLICIES:
        yield measure(_touch_case(policy, chains, rounds))


def _replace_case(policy: str, chains: Hashes, new_chains: Hashes) -> Case:
    """The oldest chains leave, as many as make room for a new one."""
    num_chains, span_blocks = chains.shape[:2]
    rounds, new_blocks = new_chains.shape[:2]
    num_blocks = num_chains * span_blocks
    leaving = _leaving(chains, new_blocks)
    cache = grown_cache(chains, span_blocks, policy)

    def replace(hashes: Hashes) -> Reservation:
        reservation = cache.reserve(hashes)
        reservation.commit()
        return reservation

    ours = Contender(
        replace,
        lambda i: new_chains[i].copy(),
        lambda i: leaving[i].tobytes(),
        lambda reservation: reservation.evicted.hashes.tobytes(),
    )
    peers = {}
    if policy == "lru":
        peers["OrderedDict"] = _ordered_replacing(chains, new_chains)
    simulator = CacheSimulator.find(policy, numbers_of(chains), numbers_of(new_chains))
    if simulator is not None:
        peers["libCacheSim"] = Contender(
            lambda start: simulator.run(start, new_blocks),
            lambda i: num_blocks + i * new_blocks,
            always((1.0, 1.0)),
        )
    spans = new_blocks // span_blocks
    name = (
        f"{policy}: replace {new_blocks:,} of {num_blocks:,} blocks, "
        f"{spans:,} of {num_chains:,} spans leave{'s' if spans == 1 else ''}"
    )
    return Case("cache", name, "us", ours, rounds, peers)


def _ordered_replacing(chains: Hashes, new_chains: Hashes) -> Contender:
    blocks = OrderedBlocks()
    for chain in chains:
        blocks.fill(keys_of(chain))
    leaving = _leaving(chains, new_chains.shape[1])
    return Contender(
        blocks.replace,
        lambda i: keys_of(new_chains[i]),
        lambda i: leaving[i].tobytes(),
        lambda evicted: b"".join(key for key, _ in evicted),
    )


def _leaving(chains: Hashes, blocks: int) -> Hashes:
    """What leaves in each round: `blocks` blocks, the oldest chain first, each from its end."""
    return chains[:, ::-1].reshape(-1, blocks, 16)


def _touch_case(policy: str, chains: Hashes, rounds: int) -> Case:
    """Acquire: finds, touches, pins and gives the ids. Peers only find and touch."""
    num_chains, chain_blocks = chains.shape[:2]
    cache = grown_cache(chains, _SHORT_SPAN_BLOCKS, policy)
    order = np.random.default_rng(2).permutation(num_chains)
    ours = Contender(
        cache.acquire,
        lambda i: chains[order[i]].copy(),
        always(chain_blocks),
        lambda lease: lease.num_blocks,
    )
    peers = {}
    if policy == "lru":
        blocks = OrderedBlocks()
        for chain in chains:
            blocks.fill(keys_of(chain))
        peers["OrderedDict"] = Contender(
            blocks.touch, lambda i: keys_of(chains[order[i]]), always(None)
        )
    simulator = CacheSimulator.find(policy, numbers_of(chains))
    if simulator is not None:
        peers["libCacheSim"] = Contender(
            lambda start: simulator.run(start, chain_blocks),
            lambda i: order[i] * chain_blocks,
            always((0.0, 0.0)),
        )
    spans = chain_blocks // _SHORT_SPAN_BLOCKS
    name = f"{policy}: touch {chain_blocks:,} blocks in {spans} spans"
    return Case("cache", name, "ns/block", ours, rounds, peers, ns_per_unit=chain_blocks)

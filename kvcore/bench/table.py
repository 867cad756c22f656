"""`kvcore bench table`: finding the longest prefix, growth, and memory.

A call asks for a chain that nobody has asked for in this case, so what it reads is cold; its hashes
are copied just before, as an engine has just made them. Chains in many spans have grown turn by
turn. Peers know no spans and find the same chains block by block. Dynamo's time includes what its
Python class does: a switch to the thread that owns the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kvcore import PrefixCache
from kvcore.bench import growth
from kvcore.bench.harness import Case, Contender, Row, always, measure
from kvcore.bench.peers import (
    DynamoTree,
    Hashes,
    OrderedBlocks,
    grown_cache,
    keys_of,
    numbers_of,
    random_chains,
)

_SHORT_SPAN_BLOCKS = 16


def run(quick: bool) -> Iterator[Row]:
    num_chains, chain_blocks, rounds = (8, 64, 3) if quick else (500, 2_000, 401)
    yield from _find(random_chains(0, num_chains, chain_blocks), rounds)
    yield from growth.run(quick)


def _find(chains: Hashes, rounds: int) -> Iterator[Row]:
    ordered, dynamo = OrderedBlocks(), DynamoTree.find()
    for chain in chains:
        ordered.fill(keys_of(chain))
        if dynamo is not None:
            dynamo.fill(chain)
    chain_blocks = chains.shape[1]
    whole = _Resident(chains, rounds, grown_cache(chains, chain_blocks), ordered, dynamo)
    yield measure(whole.match())
    yield measure(whole.match_half())
    yield measure(whole.acquire())
    cache = grown_cache(chains, _SHORT_SPAN_BLOCKS)
    pieces = _Resident(chains, rounds, cache, ordered, dynamo)
    yield measure(pieces.match())
    yield measure(pieces.acquire())


@dataclass(frozen=True, slots=True)
class _Resident:
    """The same chains in kvcore and in its peers."""

    chains: Hashes
    rounds: int
    cache: PrefixCache
    ordered: OrderedBlocks
    dynamo: DynamoTree | None

    def match(self) -> Case:
        order = self._order(1)
        blocks = self.chains.shape[1]
        return self._match(f"{blocks:,}", blocks, lambda i: self.chains[order[i]].copy())

    def match_half(self) -> Case:
        """The prompt parts from the chain in the middle of a span."""
        order = self._order(2)
        blocks = self.chains.shape[1]
        half = blocks // 2
        strange = random_chains(3, 1, blocks - half)[0]
        return self._match(
            f"the first {half:,} of {blocks:,}",
            half,
            lambda i: np.concatenate([self.chains[order[i], :half], strange]),
        )

    def acquire(self) -> Case:
        order = self._order(4)
        blocks = self.chains.shape[1]

        def with_ids(hashes: Hashes) -> npt.NDArray[np.uint32]:
            return self.cache.acquire(hashes).block_ids  # keeps the lease alive

        return Case(
            "table",
            f"acquire {blocks:,} blocks {self._where()}",
            "us",
            Contender(with_ids, lambda i: self.chains[order[i]].copy(), always(blocks), len),
            self.rounds,
            {
                "OrderedDict": Contender(
                    self.ordered.acquire,
                    lambda i: keys_of(self.chains[order[i]]),
                    always(blocks),
                    len,
                )
            },
        )

    def _match(self, what: str, matched: int, prompt: Callable[[int], Hashes]) -> Case:
        expected = always(matched)
        peers = {"dict": Contender(self.ordered.match, lambda i: keys_of(prompt(i)), expected)}
        if self.dynamo is not None:
            peers["Dynamo"] = Contender(
                self.dynamo.match,
                lambda i: numbers_of(prompt(i)).tolist(),
                expected,
                self.dynamo.matched,
            )
        return Case(
            "table",
            f"match {what} blocks {self._where()}",
            "us",
            Contender(self.cache.match, prompt, expected),
            self.rounds,
            peers,
        )

    def _order(self, seed: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng(seed).permutation(len(self.chains))

    def _where(self) -> str:
        spans = self.cache.stats().num_spans // len(self.chains)
        return f"in {spans} span{'s' if spans > 1 else ''}, {self.cache.num_blocks:,} resident"

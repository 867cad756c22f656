"""`kvcore bench hash`: block hashes of one prompt, in blocks of 16 tokens.

Every contender hashes the same tokens, in the form that it takes fastest: arrays for kvcore and
hashlib as the case says, lists for the others. Tokens have just been written, as by an engine:
arrays into memory that was used before (new pages would cost as much as the fastest calls), lists
as new objects. vLLM, hashlib and kvcore chain their hashes; Dynamo's are 64 bits of each block
alone, so it does less.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from kvcore.bench.harness import Case, Contender, Row, always, find_peer, measure
from kvcore.hashing import BlockHasher, HashAlgorithm, Namespace

_BLOCK_TOKENS = 16
_NAMESPACE = Namespace("bench")
_ALGORITHMS: tuple[HashAlgorithm, ...] = ("xxh3_128", "sha256")
# A sha256 message is a hash, 16 tokens and padding, in multiples of 64 bytes.
_MESSAGE_BYTES = 16 + 4 * _BLOCK_TOKENS
_PADDED_BYTES = (_MESSAGE_BYTES + 9 + 63) // 64 * 64

Array = npt.NDArray[Any]
Tokens = npt.NDArray[np.uint32]
Digest = Callable[[Any], bytes]


def run(quick: bool) -> Iterator[Row]:
    num_tokens, rounds = (1_024, 3) if quick else (32_768, 301)
    tokens = np.random.default_rng(0).integers(0, 128_000, num_tokens, np.uint32)
    forms: dict[str, Callable[[int], Any]] = {
        "uint32 array": _rewritten(tokens),
        "int64 array": _rewritten(tokens.astype(np.int64)),
        "list": lambda i: tokens.tolist(),
    }
    for algorithm in _ALGORITHMS:
        for form, prepare in forms.items():
            ours = Contender(
                BlockHasher(_BLOCK_TOKENS, algorithm, _NAMESPACE).hash,
                prepare,
                always(_reference(algorithm, tokens)),
                np.ndarray.tobytes,
            )
            name = f"{num_tokens:,} tokens, {algorithm}, {form}"
            peers, limits = _peers(algorithm, tokens), _limits(algorithm, tokens)
            yield measure(Case("hash", name, "us", ours, rounds, peers, limits))


def vllm_hashes(tokens: list[int]) -> list[bytes]:
    """What vLLM does by default: sha256 of a pickled tuple of parent, tokens and extra keys."""
    hashes = []
    parent = _NAMESPACE.seed
    for start in range(0, len(tokens), _BLOCK_TOKENS):
        message = (parent, tuple(tokens[start : start + _BLOCK_TOKENS]), None)
        parent = hashlib.sha256(pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)).digest()
        hashes.append(parent)
    return hashes


def chained(digest: Digest, tokens: Tokens) -> list[bytes]:
    """kvcore's scheme in Python: the digest, cut to 16 bytes, of the parent and the tokens."""
    hashes = []
    parent = _NAMESPACE.seed
    data = tokens.tobytes()
    for start in range(0, len(data), 4 * _BLOCK_TOKENS):
        parent = digest(parent + data[start : start + 4 * _BLOCK_TOKENS])[:16]
        hashes.append(parent)
    return hashes


def _sha256(message: Any) -> bytes:
    return hashlib.sha256(message).digest()


def _digest(algorithm: HashAlgorithm) -> Digest | None:
    """A digest that is not kvcore's own."""
    if algorithm == "sha256":
        return _sha256
    xxhash = find_peer("xxhash", "xxhash")
    return None if xxhash is None else xxhash.xxh3_128_digest


def _reference(algorithm: HashAlgorithm, tokens: Tokens) -> bytes:
    """The right answer, by another way than the one that is timed."""
    digest = _digest(algorithm)
    if digest is not None:
        return b"".join(chained(digest, tokens))
    hasher = BlockHasher(_BLOCK_TOKENS, algorithm, _NAMESPACE)
    hashes = hasher.hash([])
    for block in tokens.reshape(-1, _BLOCK_TOKENS):
        hashes = hasher.extend(hashes, block)
    return hashes.tobytes()


def _peers(algorithm: HashAlgorithm, tokens: Tokens) -> dict[str, Contender]:
    def with_arrays(digest: Digest) -> Contender:
        return _repeatable(lambda array: chained(digest, array), _rewritten(tokens))

    peers = {
        "vLLM's scheme": _repeatable(vllm_hashes, lambda i: tokens.tolist()),
        "hashlib": with_arrays(_sha256),
    }
    digest = _digest(algorithm)
    if algorithm == "xxh3_128" and digest is not None:
        peers["xxhash"] = with_arrays(digest)
    dynamo = find_peer("dynamo.llm", "ai-dynamo-runtime")
    if dynamo is not None:
        hash_blocks = dynamo.compute_block_hash_for_seq
        peers["Dynamo"] = _repeatable(
            lambda listed: hash_blocks(listed, _BLOCK_TOKENS), lambda i: tokens.tolist()
        )
    return peers


def _limits(algorithm: HashAlgorithm, tokens: Tokens) -> dict[str, Contender]:
    """As many bytes in one message: no chain is faster than its digest."""
    digest = _digest(algorithm)
    if digest is None:
        return {}
    block_bytes = _PADDED_BYTES if algorithm == "sha256" else _MESSAGE_BYTES
    message = np.zeros(len(tokens) // _BLOCK_TOKENS * block_bytes, np.uint8)
    return {f"one {algorithm} of all bytes": _repeatable(digest, _rewritten(message))}


def _rewritten(array: Array) -> Callable[[int], Array]:
    """Writes it into the same memory in each round."""
    buffer: Array = array.copy()

    def prepare(round_: int) -> Array:
        np.copyto(buffer, array)
        return buffer

    return prepare


def _repeatable(run: Callable[[Any], Any], prepare: Callable[[int], Any]) -> Contender:
    """A contender whose answer must be the same in all rounds."""
    return Contender(run, prepare, always(run(prepare(0))))

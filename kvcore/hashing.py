"""From tokens to block hashes: namespaces, the chained block hasher, and folding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from kvcore import _core
from kvcore._tokens import pack

HashArray: TypeAlias = npt.NDArray[np.uint8]
Tokens: TypeAlias = Sequence[int] | npt.NDArray[np.integer[Any]]
BytesLike: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[Any]
HashAlgorithm: TypeAlias = Literal["sha256", "xxh3_128"]

_ALGORITHMS = ("sha256", "xxh3_128")
_MAX_BLOCK_TOKENS = 65536
_MAX_EPOCH = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Namespace:
    """What must never mix: blocks of different namespaces have different hashes.

    All ranks, processes and machines that are to share blocks give the same values, compared as
    they are written: no case folding, no Unicode normalisation.

    Parameters
    ----------
    model
        Name of the model, not empty.
    revision
        Revision of its weights.
    layout
        Layout of a KV block, such as ``"NHD"``.
    dtype
        Element type of a KV block.
    rank
        Parallel rank whose share of the heads or layers this is, such as ``"tp0of2"``.
    tenant_salt
        Secret of a tenant that shares with no other; kept out of the repr.
    epoch
        Counted up to leave all older blocks behind; 0 to 2**64 - 1.
    group
        KV-cache group of a hybrid model, whose blocks have a lifetime of their own.

    Raises
    ------
    TypeError
        A field has the wrong type.
    ValueError
        A field has a value that is not allowed: an empty model, text that is no valid Unicode, an
        epoch out of range.

    Notes
    -----
    Seed and fingerprint are SHA-256 digests, truncated to 16 bytes, of a label and the fields in
    order, each as an 8-byte little-endian length and its bytes: text as UTF-8, the epoch as 8 bytes
    little-endian. Immutable, so safe to share between threads.
    """

    model: str
    revision: str = ""
    layout: str = ""
    dtype: str = ""
    rank: str = ""
    tenant_salt: str = field(default="", repr=False)
    epoch: int = 0
    group: str = ""

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            if name == "epoch":
                _check_int(name, self.epoch, 0, _MAX_EPOCH)
            else:
                _check_text(name, getattr(self, name))
        if not self.model:
            raise ValueError("model must not be empty, got ''")

    @property
    def seed(self) -> bytes:
        """The 16 bytes that every chain of this namespace starts from."""
        return _derive(b"kvcore.seed.v1", *self._encoded())

    @property
    def fingerprint(self) -> bytes:
        """The 16 bytes that name this namespace outside the process; they do not tell the seed."""
        return _derive(b"kvcore.fingerprint.v1", *self._encoded())

    def _encoded(self) -> list[bytes]:
        values = [getattr(self, f.name) for f in fields(self)]
        return [v.encode() if isinstance(v, str) else v.to_bytes(8, "little") for v in values]


class BlockHasher:
    """Names token blocks by chained 128-bit hashes.

    The hash of a block is the digest of the hash before it (for the first block, of the
    namespace's seed) and its tokens as little-endian uint32; so it names all tokens from the start
    of the chain, and is the same on every machine and in every process.

    Parameters
    ----------
    block_tokens
        Tokens a block, 1 to 65536.
    algorithm
        ``"sha256"``, truncated to 128 bits, or ``"xxh3_128"``, about ten times faster but not
        collision resistant: one tenant could be served another's blocks, so it is for a trusted
        single tenant.
    namespace
        What the hashes are seeded by; `None` stands for a fixed seed that no namespace has.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type or is not allowed; the message names it.

    Notes
    -----
    Immutable, so safe to share between threads. Calls longer than about 100 us release the GIL;
    arrays must not change meanwhile, or their hashes name neither the old nor the new tokens.

    Source: vLLM's chained block hashes (``vllm/v1/core/kv_cache_utils.py``).

    Examples
    --------
    >>> hasher = BlockHasher(block_tokens=2, algorithm="sha256", namespace=Namespace("llama"))
    >>> hasher.hash([1, 2, 3, 4, 5]).shape
    (2, 16)
    """

    __slots__ = ("_algorithm", "_block_tokens", "_core", "_namespace")

    def __init__(
        self,
        block_tokens: int,
        algorithm: HashAlgorithm = "sha256",
        namespace: Namespace | None = None,
    ) -> None:
        _check_int("block_tokens", block_tokens, 1, _MAX_BLOCK_TOKENS)
        if algorithm not in _ALGORITHMS:
            raise ValueError(f"algorithm must be one of {_ALGORITHMS}, got {algorithm!r}")
        self._block_tokens = block_tokens
        self._algorithm = algorithm
        self._namespace = namespace
        self._core = _core.BlockHasher(block_tokens, algorithm, _seed_of(namespace))

    @property
    def block_tokens(self) -> int:
        """Tokens a block."""
        return self._block_tokens

    @property
    def algorithm(self) -> HashAlgorithm:
        """Name of the digest."""
        return self._algorithm

    @property
    def namespace(self) -> Namespace | None:
        """What the hashes are seeded by."""
        return self._namespace

    def hash(self, tokens: Tokens) -> HashArray:
        """Return the hashes of the whole blocks of a prompt; a partial last block has none.

        Parameters
        ----------
        tokens
            Token ids, 0 to 2**32 - 1. Fastest is a C-contiguous uint32 or int32 array, read where
            it lies; other integer arrays (NumPy, ``array.array``, any one-dimensional buffer of
            native integers) and lists are packed first, other sequences item by item. Bools are
            refused, and so are bytes and bytearrays, which do not tell how wide a token is.

        Returns
        -------
        uint8[num_tokens // block_tokens, 16]
            C-contiguous.

        Raises
        ------
        TypeError
            `tokens` is no such sequence, or an item is no int.
        ValueError
            A token is out of range.
        """
        return self._core.hash(pack(tokens))

    def extend(self, hashes: HashArray, more_tokens: Tokens) -> HashArray:
        """Return a chain and the hashes of the whole blocks that follow it.

        ``extend(hash(a), b)`` equals ``hash(a + b)`` where ``len(a)`` is a multiple of
        `block_tokens`; tokens of a partial block are not in the chain and must come again.

        Parameters
        ----------
        hashes
            uint8[n, 16], C-contiguous; n may be 0.
        more_tokens
            The tokens after those of `hashes`, as for `hash`.

        Returns
        -------
        uint8[n + num_more_tokens // block_tokens, 16]
            C-contiguous, never the memory of `hashes`.

        Raises
        ------
        TypeError, ValueError
            As for `hash`, or `hashes` is no such array.
        """
        return self._core.extend(hashes, pack(more_tokens, "more_tokens"))

    def __repr__(self) -> str:
        return (
            f"BlockHasher(block_tokens={self._block_tokens}, algorithm={self._algorithm!r}, "
            f"namespace={self._namespace!r})"
        )

    def __reduce__(self) -> tuple[type[BlockHasher], tuple[object, ...]]:
        return BlockHasher, (self._block_tokens, self._algorithm, self._namespace)


def fold(engine_hashes: Sequence[BytesLike], namespace: Namespace | None) -> HashArray:
    """Turn an engine's own block hashes into ours.

    Each becomes the SHA-256, truncated to 128 bits, of a seed and its bytes. That seed is derived
    from the namespace's, so that folded hashes meet neither those of another namespace nor those
    that `BlockHasher` makes of tokens.

    Parameters
    ----------
    engine_hashes
        Bytes-like objects of any length from 1, one a block. Each should name its whole prefix, as
        vLLM's and SGLang's do: folding adds no chain.
    namespace
        As for `BlockHasher`.

    Returns
    -------
    uint8[len(engine_hashes), 16]
        C-contiguous.

    Raises
    ------
    TypeError
        `engine_hashes` is no sequence, an item is not bytes-like, or `namespace` is no namespace.
    ValueError
        An item is empty.

    Notes
    -----
    Thread safe; long sequences release the GIL.
    """
    return _core.fold(engine_hashes, _seed_of(namespace))


def _seed_of(namespace: Namespace | None) -> bytes:
    if namespace is None:
        return _derive(b"kvcore.seed.v1")
    if isinstance(namespace, Namespace):
        return namespace.seed
    raise TypeError(f"namespace must be a Namespace or None, got {namespace!r}")


def _derive(*parts: bytes) -> bytes:
    encoded = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    return hashlib.sha256(encoded).digest()[:16]


def _check_int(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int in {low}..{high}, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, got {value}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} must be valid Unicode text, got {value!r}") from None

"""Block hashes: golden values, a plain model beside the core, inputs of every kind, bad input."""

from __future__ import annotations

import array
import ctypes
import hashlib
import os
import pickle
import struct
import subprocess
import sys
from collections import UserList, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kvcore._tokens import pack
from kvcore.hashing import BlockHasher, Namespace, fold

NAMESPACE = Namespace(
    model="meta-llama/Llama-3.1-8B",
    revision="rev1",
    layout="NHD",
    dtype="bfloat16",
    rank="tp0of2",
    tenant_salt="é",
    epoch=7,
    group="swa",
)
DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    "sha256": lambda message: hashlib.sha256(message).digest()[:16],
    "xxh3_128": lambda message: xxhash.xxh3_128(message).digest(),
}
NO_NAMESPACE_SEED = bytes.fromhex("482516322ef02552d808352706d45a4c")

algorithms = st.sampled_from(sorted(DIGESTS))
token_ids = st.integers(0, 2**32 - 1)


def model(tokens: list[int], block_tokens: int, algorithm: str, seed: bytes) -> list[bytes]:
    """Hash a chain as its definition reads."""
    chain = [seed]
    for end in range(block_tokens, len(tokens) + 1, block_tokens):
        block = struct.pack(f"<{block_tokens}I", *tokens[end - block_tokens : end])
        chain.append(DIGESTS[algorithm](chain[-1] + block))
    return chain[1:]


def rows(hashes: npt.NDArray[np.uint8]) -> list[bytes]:
    assert hashes.dtype == np.uint8
    assert hashes.shape[1:] == (16,)
    assert hashes.flags.c_contiguous
    return [row.tobytes() for row in hashes]


# Computed by hashlib and the xxhash package: the last of three blocks of (i * 2654435761) % 2**32.
GOLDEN = [
    ("sha256", 1, None, "ac5b3d51955723d79419966e422828a3"),
    ("sha256", 16, None, "a66a940ee680aa18d93b6ecf180e9d04"),
    ("sha256", 1500, None, "6368f652930f16bb536b286e6951dc9d"),
    ("xxh3_128", 1, None, "08567efd85865e33c96d6394efd3a77e"),
    ("xxh3_128", 16, None, "a671f4ac16ea9a9badd871b1da66c4c6"),
    ("xxh3_128", 1500, None, "11df58d935cbb85026df2ae58da7497c"),
    ("sha256", 1, NAMESPACE, "3556eb2732eca0182d39a0860cfb06ba"),
    ("sha256", 16, NAMESPACE, "d957aa3217cfd1a980460ef9f9634412"),
    ("sha256", 1500, NAMESPACE, "2650fb2108c3354ae595c9bcb2c0d9b1"),
    ("xxh3_128", 1, NAMESPACE, "fc8695c33df7ce93c999987f6251256a"),
    ("xxh3_128", 16, NAMESPACE, "1e67c7a997dd86db97b1988fb9316b55"),
    ("xxh3_128", 1500, NAMESPACE, "4602b31d792732d389b558f1c2a44e1e"),
]


@pytest.mark.parametrize(("algorithm", "block_tokens", "namespace", "last"), GOLDEN)
def test_golden_chain(
    algorithm: Any, block_tokens: int, namespace: Namespace | None, last: str
) -> None:
    tokens = [i * 2654435761 % 2**32 for i in range(3 * block_tokens)]
    hashes = rows(BlockHasher(block_tokens, algorithm, namespace).hash(tokens))
    assert len(hashes) == 3
    assert hashes[-1].hex() == last


@given(
    tokens=st.lists(token_ids, max_size=200),
    block_tokens=st.integers(1, 70),
    algorithm=algorithms,
)
def test_equals_the_model(tokens: list[int], block_tokens: int, algorithm: Any) -> None:
    hashes = rows(BlockHasher(block_tokens, algorithm, NAMESPACE).hash(tokens))
    assert hashes == model(tokens, block_tokens, algorithm, NAMESPACE.seed)


@pytest.mark.parametrize("algorithm", sorted(DIGESTS))
@pytest.mark.parametrize("block_tokens", [*range(1, 40), 56, 57, 1023, 1024, 1025, 65535, 65536])
def test_every_message_length_equals_the_model(block_tokens: int, algorithm: Any) -> None:
    tokens = np.random.default_rng(block_tokens).integers(0, 2**32, 3 * block_tokens + 1)
    hashes = rows(BlockHasher(block_tokens, algorithm).hash(tokens[: 3 * block_tokens + 1]))
    assert hashes == model(tokens.tolist(), block_tokens, algorithm, NO_NAMESPACE_SEED)


@given(
    blocks=st.integers(0, 5),
    more=st.lists(token_ids, max_size=60),
    block_tokens=st.integers(1, 20),
    algorithm=algorithms,
)
def test_extend_continues_the_chain(
    blocks: int, more: list[int], block_tokens: int, algorithm: Any
) -> None:
    hasher = BlockHasher(block_tokens, algorithm, NAMESPACE)
    known = list(range(blocks * block_tokens))
    assert rows(hasher.extend(hasher.hash(known), more)) == rows(hasher.hash(known + more))


def test_a_partial_block_has_no_hash() -> None:
    hasher = BlockHasher(16)
    assert hasher.hash([]).shape == (0, 16)
    assert hasher.hash([1] * 15).shape == (0, 16)
    assert rows(hasher.hash([1] * 31)) == rows(hasher.hash([1] * 16))
    assert hasher.extend(hasher.hash([]), [1] * 15).shape == (0, 16)


def test_extend_returns_memory_of_its_own() -> None:
    hasher = BlockHasher(1)
    hashes = hasher.hash([1])
    assert not np.shares_memory(hasher.extend(hashes, []), hashes)


@given(
    dtype=st.sampled_from("bhilqBHILQ"),
    data=st.data(),
    count=st.integers(0, 40),
    step=st.sampled_from([1, 2, -1, -3]),
)
def test_every_integer_dtype_agrees(dtype: str, data: st.DataObject, count: int, step: int) -> None:
    highest = min(int(np.iinfo(dtype).max), 2**32 - 1)
    values = data.draw(st.lists(st.integers(0, highest), min_size=count, max_size=count))
    numbers = np.array(values, dtype)[::step]
    assert np.asarray(pack(numbers)).tolist() == numbers.tolist()
    assert rows(BlockHasher(2).hash(numbers)) == rows(BlockHasher(2).hash(numbers.tolist()))


class Index:
    """An int to `operator.index` alone."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


def unaligned(values: list[int]) -> npt.NDArray[np.int64]:
    raw = b"\0" + np.array(values, np.int64).tobytes()
    return np.frombuffer(raw, np.uint8)[1:].view(np.int64)


SOURCES: dict[str, Callable[[list[int]], Any]] = {
    "list": list,
    "list subclass": type("Tokens", (list,), {}),
    "tuple": tuple,
    "list of NumPy ints": lambda values: list(np.array(values)),
    "list of index objects": lambda values: [Index(value) for value in values],
    "deque": deque,
    "UserList": UserList,
    "array q": lambda values: array.array("q", values),
    "array I": lambda values: array.array("I", values),
    "ctypes": lambda values: (ctypes.c_uint32 * len(values))(*values),
    "ctypes int64": lambda values: (ctypes.c_int64 * len(values))(*values),
    "memoryview": lambda values: memoryview(array.array("I", values)),
    "read-only array": lambda values: np.frombuffer(struct.pack(f"{len(values)}I", *values), "I"),
    "strided array": lambda values: np.array([values, values], np.int64).T.copy()[:, 1],
    "reversed array": lambda values: np.array(values[::-1], np.int64)[::-1],
    "unaligned array": unaligned,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_every_kind_of_sequence_agrees(source: Callable[[list[int]], Any], count: int) -> None:
    values = [i * 2654435761 % 2**32 for i in range(count)]
    packed = pack(source(values))
    assert (packed.format, packed.ndim, packed.c_contiguous) == ("I", 1, True)
    assert packed.tolist() == values
    assert rows(BlockHasher(3).hash(source(values))) == rows(BlockHasher(3).hash(values))


def test_ranges_and_edges() -> None:
    edges = [0, 1, 2**15, 2**30 - 1, 2**30, 2**31 - 1, 2**31, 2**32 - 1]
    assert pack(edges).tolist() == edges
    assert pack(range(5)).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", [np.uint32, np.int32])
def test_32_bit_arrays_are_not_copied(dtype: npt.DTypeLike) -> None:
    tokens = np.arange(100, dtype=dtype)
    assert np.shares_memory(np.asarray(pack(tokens)), tokens)


NOT_TOKENS = {
    "None": None,
    "int": 7,
    "str": "abc",
    "bytes": b"\1\0\0\0",
    "bytearray": bytearray(4),
    "set": {1, 2},
    "generator": (i for i in range(3)),
    "float array": np.zeros(4),
    "float16 array": np.zeros(4, np.float16),
    "bool array": np.zeros(4, bool),
    "complex array": np.zeros(4, complex),
    "object array": np.array([1, 2], object),
    "date array": np.zeros(4, "datetime64[s]"),
    "record array": np.zeros(4, "i4,i4"),
    "text array": np.array(["a"]),
    "big-endian array": np.zeros(4, ">i4"),
    "scalar array": np.array(3),
    "matrix": np.zeros((4, 4), np.uint32),
    "empty matrix": np.zeros((0, 4), np.int64),
    "float array.array": array.array("d", [1.0]),
}


@pytest.mark.parametrize("tokens", NOT_TOKENS.values(), ids=NOT_TOKENS.keys())
def test_what_is_no_token_sequence_is_refused(tokens: Any) -> None:
    hasher = BlockHasher(1)
    with pytest.raises(TypeError, match=r"^tokens must be a sequence of ints or .*, got "):
        hasher.hash(tokens)
    with pytest.raises(TypeError, match=r"^more_tokens must be "):
        hasher.extend(hasher.hash([]), tokens)


@pytest.mark.parametrize("item", [1.0, "1", b"1", None, True, np.True_, np.float32(1), [1]])
@pytest.mark.parametrize("sequence", [list, tuple, deque])
def test_an_item_that_is_no_int_is_refused(item: Any, sequence: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"^tokens\[2\] must be an int, got "):
        BlockHasher(1).hash(sequence([1, 2, item]))


@pytest.mark.parametrize("value", [-1, -(2**31), -(2**63), 2**32, 2**63, 2**64, 10**30])
def test_a_list_item_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"^tokens\[2\] must be in 0\.\.4294967295, got {value}$"):
        BlockHasher(1).hash([1, 2, value, -5])


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(-1, "b"), (-1, "h"), (-1, "i"), (-1, "q"), (-(2**63), "q"), (2**32, "q"), (2**63, "Q")],
)
def test_an_array_item_out_of_range_is_refused(value: int, dtype: str) -> None:
    tokens = np.zeros(100, dtype)
    tokens[70] = value
    message = rf"^tokens\[70\] must be in 0\.\.4294967295, got {value}$"
    with pytest.raises(ValueError, match=message):
        BlockHasher(1).hash(tokens)
    with pytest.raises(ValueError, match="more_" + message[1:]):
        BlockHasher(1).extend(BlockHasher(1).hash([]), tokens)


@pytest.mark.parametrize("change", [lambda items: items.clear(), lambda items: items.append(9)])
def test_a_list_may_change_while_it_is_packed(change: Callable[[list[Any]], None]) -> None:
    class Meddler(Index):
        def __index__(self) -> int:
            change(items)
            return self.value

    items: list[Any] = [1, Meddler(2), 3]
    assert pack(items).tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "hashes",
    [
        None,
        b"x" * 16,
        np.zeros((1, 16)),
        np.zeros((1, 8), np.uint8),
        np.zeros((2, 32), "B")[:, ::2],
    ],
)
def test_bad_hashes_are_refused(hashes: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^hashes must be .*, got "):
        BlockHasher(1).extend(hashes, [1])


@pytest.mark.parametrize("value", [0, -1, 65537, 10**30])
def test_block_tokens_out_of_range_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match=rf"^block_tokens must be in 1\.\.65536, got {value}$"):
        BlockHasher(value)


@pytest.mark.parametrize("value", [None, 16.0, "16", True])
def test_block_tokens_of_another_type_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^block_tokens must be an int in 1\.\.65536, got "):
        BlockHasher(value)


@pytest.mark.parametrize("value", ["md5", "SHA256", "", None, 3])
def test_an_unknown_algorithm_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^algorithm must be .*'sha256', 'xxh3_128'.*, got "):
        BlockHasher(16, value)


@pytest.mark.parametrize("value", ["llama", b"0" * 16, 3])
def test_another_namespace_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^namespace must be a Namespace or None, got "):
        BlockHasher(16, "sha256", value)
    with pytest.raises(TypeError, match=r"^namespace must be a Namespace or None, got "):
        fold([b"1"], value)


def test_the_hasher_tells_its_parameters_and_can_be_pickled() -> None:
    hasher = BlockHasher(32, "xxh3_128", NAMESPACE)
    assert (hasher.block_tokens, hasher.algorithm, hasher.namespace) == (32, "xxh3_128", NAMESPACE)
    assert repr(BlockHasher(16)) == (
        "BlockHasher(block_tokens=16, algorithm='sha256', namespace=None)"
    )
    copy = pickle.loads(pickle.dumps(hasher))
    assert rows(copy.hash(range(64))) == rows(hasher.hash(range(64)))


def test_golden_namespaces() -> None:
    assert Namespace("m").seed.hex() == "2a2fa734118ac2259f76f966caaac0fd"
    assert Namespace("m").fingerprint.hex() == "f94461cbc6ab76ec75237a6752e46161"
    assert NAMESPACE.seed.hex() == "26b64a130a334d632e0cb643dd441ec4"
    assert NAMESPACE.fingerprint.hex() == "ec28d45ade0e4b55004ad2283eed4ca9"


def test_every_field_changes_seed_and_fingerprint() -> None:
    others = [NAMESPACE]
    for field in fields(Namespace):
        value = getattr(NAMESPACE, field.name)
        change: dict[str, Any] = {field.name: value + 1 if isinstance(value, int) else value + "x"}
        others.append(replace(NAMESPACE, **change))
    names = {n.seed for n in others} | {n.fingerprint for n in others}
    assert len(names | {NO_NAMESPACE_SEED}) == 2 * len(others) + 1


def namespace_of(text: str, cuts: list[int]) -> Namespace:
    """Cut one text into all text fields but the model."""
    names = [f.name for f in fields(Namespace) if f.name not in ("model", "epoch")]
    pieces: dict[str, Any] = {
        name: text[start:end]
        for name, start, end in zip(names, [0, *cuts], [*cuts, len(text)], strict=True)
    }
    return Namespace("m", **pieces)


five_cuts = st.lists(st.integers(0, 4), min_size=5, max_size=5).map(sorted)


@given(text=st.text("a\0", min_size=4, max_size=4), left=five_cuts, right=five_cuts)
def test_fields_do_not_run_into_each_other(text: str, left: list[int], right: list[int]) -> None:
    first, second = namespace_of(text, left), namespace_of(text, right)
    assert (first.seed == second.seed) == (first == second)


def test_the_namespace_hides_its_salt_and_is_frozen() -> None:
    namespace = Namespace("m", tenant_salt="secret")
    assert "secret" not in repr(BlockHasher(16, "sha256", namespace))
    with pytest.raises(FrozenInstanceError):
        namespace.epoch = 1  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(namespace)) == namespace


@pytest.mark.parametrize("name", [f.name for f in fields(Namespace) if f.name != "epoch"])
@pytest.mark.parametrize("value", [None, 3, b"m"])
def test_namespace_text_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^{name} must be a str, got "):
        Namespace(**{"model": "m", name: value})


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("model", "", ValueError),
        ("revision", "\ud800", ValueError),
        ("epoch", -1, ValueError),
        ("epoch", 2**64, ValueError),
        ("epoch", "1", TypeError),
        ("epoch", True, TypeError),
    ],
)
def test_a_bad_namespace_is_refused(field: str, value: Any, error: type[Exception]) -> None:
    arguments: dict[str, Any] = {"model": "m", field: value}
    with pytest.raises(error, match=rf"^{field} must .*, got "):
        Namespace(**arguments)


def test_golden_folds() -> None:
    engine_hashes = [b"\0", bytes(range(32)), bytes(200)]
    assert [row.hex() for row in rows(fold(engine_hashes, None))] == [
        "a97c5ee4eac8a50c38fb344252fca77f",
        "469e8f28cd47bbbb38d01ee9ec8aaa14",
        "b453151d19252d0a7a9cb98fe7397166",
    ]
    assert [row.hex() for row in rows(fold(engine_hashes, NAMESPACE))] == [
        "43a2fa3399298157dbd5db1e2fc1d45b",
        "295da12dee7b92df44d017bf0d48399d",
        "7fb6535184122cd6a6f24e4f7ae97bd7",
    ]


@given(engine_hashes=st.lists(st.binary(min_size=1, max_size=100), max_size=5))
def test_fold_equals_the_model_for_every_kind_of_bytes(engine_hashes: list[bytes]) -> None:
    seed = hashlib.sha256(b"kvcore.fold.v1" + NAMESPACE.seed).digest()[:16]
    expected = [hashlib.sha256(seed + item).digest()[:16] for item in engine_hashes]
    for kind in (bytes, bytearray, memoryview, lambda item: np.frombuffer(item, np.uint8)):
        assert rows(fold([kind(item) for item in engine_hashes], NAMESPACE)) == expected
    assert rows(fold(tuple(engine_hashes), NAMESPACE)) == expected


def test_fold_takes_the_rows_of_an_array() -> None:
    engine_hashes = np.arange(3 * 32, dtype=np.uint8).reshape(3, 32)
    expected = fold([row.tobytes() for row in engine_hashes], NAMESPACE)
    assert rows(fold(list(engine_hashes), NAMESPACE)) == rows(expected)


def test_folds_do_not_meet_token_hashes() -> None:
    tokens = np.arange(16, dtype=np.uint32)
    hasher = BlockHasher(16, "sha256", NAMESPACE)
    assert rows(fold([tokens.tobytes()], NAMESPACE)) != rows(hasher.hash(tokens))


def test_bad_engine_hashes_are_refused() -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (3, TypeError, r"^engine_hashes must be a sequence of bytes-like objects, got int 3$"),
        ([b"1", 2], TypeError, r"^engine_hashes\[1\] must be .*bytes-like object, got int 2$"),
        ([b"1", "2"], TypeError, r"^engine_hashes\[1\] must be .*, got str "),
        (b"abc", TypeError, r"^engine_hashes\[0\] must be "),
        ([b"1", b""], ValueError, r"^engine_hashes\[1\] must not be empty$"),
        ([bytearray()], ValueError, r"^engine_hashes\[0\] must not be empty$"),
        ([np.zeros(8, "B")[::2]], TypeError, r"^engine_hashes\[0\] must be "),
    ]
    for engine_hashes, error, message in cases:
        with pytest.raises(error, match=message):
            fold(engine_hashes, None)


def test_every_process_agrees() -> None:
    script = (
        "from kvcore.hashing import *; n = Namespace('m', epoch=3);"
        "print(BlockHasher(16, 'sha256', n).hash(range(64)).tobytes().hex(),"
        "BlockHasher(16, 'xxh3_128', n).hash(range(64)).tobytes().hex(),"
        "fold([b'engine'], n).tobytes().hex(), n.seed.hex(), n.fingerprint.hex())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(outputs) == 1


def test_threads_share_a_hasher() -> None:
    hasher = BlockHasher(16, "sha256", NAMESPACE)
    prompts = [np.random.default_rng(i).integers(0, 128_000, 40_000) for i in range(8)]
    expected = [rows(hasher.hash(prompt)) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda p: rows(hasher.hash(p)), prompts * 4)) == expected * 4


def test_a_list_may_grow_and_shrink_beside_packing() -> None:
    tokens = list(range(1000))

    def meddle() -> None:
        for i in range(20_000):
            tokens.append(i)
            if len(tokens) > 1500:
                del tokens[1000:]

    with ThreadPoolExecutor(1) as pool:
        meddling = pool.submit(meddle)
        while not meddling.done():
            assert pack(tokens).tolist()[:1000] == list(range(1000))
        meddling.result()

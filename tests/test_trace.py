"""Trace files: every format and compression, and everything that can be wrong with them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from kvcore.sim import Trace, TraceError, read_trace, source
from kvcore.sim import trace as trace_module

KVT_HEAD = """\
# kvt1 block_tokens=256 name=test
ts_ms,session,turn,type,input_len,output_len,nblk,src,keep
"""

MOONCAKE = [
    {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [7, 8, 9]},
    {"timestamp": 40, "input_length": 1024, "output_length": 6, "hash_ids": [7, 11]},
    {"timestamp": 41, "input_length": 3, "output_length": 0, "hash_ids": [12]},
]


def write_jsonl(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def chains(trace: Trace) -> list[list[int]]:
    return [
        trace.block_ids[begin:end].tolist()
        for begin, end in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)
    ]


def test_mooncake_drops_partial_last_blocks(tmp_path: Path) -> None:
    trace = read_trace(write_jsonl(tmp_path / "t.jsonl", MOONCAKE))
    assert (trace.name, trace.block_tokens) == ("t.jsonl", 512)
    assert chains(trace) == [[0, 1], [0, 2], []]
    assert trace.arrival_us.tolist() == [0, 40_000, 41_000]
    assert trace.input_tokens.tolist() == [1100, 1024, 3]
    assert trace.output_tokens.tolist() == [5, 6, 0]
    assert trace.session.tolist() == [-1, -1, -1]
    assert (trace.num_requests, trace.num_blocks, trace.num_unique_blocks) == (3, 4, 3)


def zstd_in_frames(data: bytes) -> bytes:
    """Two frames with a skippable one in front and one between."""
    skippable = b"\x50\x2a\x4d\x18\x03\x00\x00\x00abc"
    half = len(data) // 2
    first, second = (zstandard.compress(part) for part in (data[:half], data[half:]))
    return skippable + first + skippable + second


@pytest.mark.parametrize(
    "compress", [gzip.compress, zstandard.compress, zstd_in_frames], ids=["gz", "zst", "frames"]
)
def test_compression_is_told_by_content(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    plain = write_jsonl(tmp_path / "t.jsonl", MOONCAKE * 500)
    packed = tmp_path / "no-suffix"
    packed.write_bytes(compress(plain.read_bytes()))
    assert chains(read_trace(packed)) == chains(read_trace(plain))


def test_bailian_ids_name_content_so_another_parent_is_another_block(tmp_path: Path) -> None:
    def record(chat: int, parent: int, seconds: float, ids: list[int]) -> dict[str, object]:
        return {
            "chat_id": chat,
            "parent_chat_id": parent,
            "timestamp": seconds,
            "input_length": 16 * len(ids) + 1,
            "output_length": 1,
            "type": "text" if parent == -1 else "search",
            "turn": 1 if parent == -1 else 2,
            "hash_ids": ids,
        }

    records = [
        record(5, -1, 61.114, [1, 2, 2]),
        record(6, 5, 62.5, [1, 2, 2, 3]),
        record(7, 6, 63, [2, 2]),
        record(9, 1000, 64, [1]),
    ]
    trace = read_trace(write_jsonl(tmp_path / "t", records))
    assert trace.block_tokens == 16
    assert chains(trace) == [[0, 1, 2], [0, 1, 2, 3], [4, 5], [0]]
    assert trace.arrival_us.tolist() == [61_114_000, 62_500_000, 63_000_000, 64_000_000]
    assert trace.session.tolist() == [5, 5, 5, 1000]
    assert [trace.kinds[kind] for kind in trace.kind] == ["text", "search", "search", "search"]


def test_kvt_shares_what_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(
        KVT_HEAD + "5,50,1,2,800,25,3,-1,0\n7,51,1,1,600,4,2,0,1\n9,50,2,2,1100,1,4,0,3\n"
    )
    trace = read_trace(path, name="agents")
    assert (trace.name, trace.block_tokens) == ("agents", 256)
    assert chains(trace) == [[0, 1, 2], [0, 3], [0, 1, 2, 4]]
    assert trace.arrival_us.tolist() == [5_000, 7_000, 9_000]
    assert trace.session.tolist() == [50, 51, 50]
    assert [trace.kinds[kind] for kind in trace.kind] == ["2", "1", "2"]


def test_requests_are_sorted_by_arrival(tmp_path: Path) -> None:
    late, early = {**MOONCAKE[0], "timestamp": 9}, {**MOONCAKE[1], "timestamp": 3, "hash_ids": [7]}
    trace = read_trace(write_jsonl(tmp_path / "t", [late, early, {**late, "hash_ids": [1]}]))
    assert chains(trace) == [[0], [0, 1], [2]]
    assert trace.arrival_us.tolist() == [3_000, 9_000, 9_000]
    assert trace.output_tokens.tolist() == [6, 5, 5]


def test_blank_lines_count_but_hold_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("\n" + json.dumps(MOONCAKE[0]) + "\r\n\n{}\n")
    with pytest.raises(TraceError, match=r"t:4: input_length is missing"):
        read_trace(path)


def test_saved_trace_comes_back(tmp_path: Path) -> None:
    trace = read_trace(write_jsonl(tmp_path / "t", MOONCAKE))
    trace.save(tmp_path)
    loaded = Trace.load(tmp_path)
    assert chains(loaded) == chains(trace)
    assert (loaded.name, loaded.block_tokens, loaded.kinds) == (trace.name, 512, ("",))
    np.testing.assert_array_equal(loaded.arrival_us, trace.arrival_us)
    assert type(loaded.block_ids) is np.ndarray


def test_trace_checks_its_arrays(tmp_path: Path) -> None:
    trace = read_trace(write_jsonl(tmp_path / "t", MOONCAKE))
    values = {name: getattr(trace, name) for name in Trace.__slots__}
    for change, message in (
        ({"block_tokens": 0}, "block_tokens is 0"),
        ({"session": trace.session.astype(np.int32)}, r"session is int32\[3\]; it must be int64"),
        ({"kind": trace.kind[:2]}, "kind has 2 entries; allowed are 3"),
        ({"offsets": trace.offsets[:-1]}, "offsets has 3 entries; allowed are 4"),
        ({"block_ids": trace.block_ids[:-1]}, "offsets run from 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            Trace(**{**values, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_length": -1}, "input_length is -1; allowed are 0 to 2147483647"),
        ({"input_length": 1 << 31}, "input_length is 2147483648; allowed"),
        ({"input_length": 1.0}, "input_length is 1.0; allowed are whole numbers"),
        ({"input_length": True}, "input_length is True; allowed are whole numbers"),
        ({"input_length": 1536 - 512}, "hash_ids has 3 ids; input_length 1024 allows at most 2"),
        ({"output_length": -7}, "output_length is -7"),
        ({"output_length": None}, "output_length is None"),
        ({"timestamp": -1}, "timestamp is -1; allowed are numbers from 0"),
        ({"timestamp": "0"}, "timestamp is '0'"),
        ({"timestamp": float("nan")}, "timestamp is nan"),
        ({"timestamp": float("inf")}, "timestamp is inf"),
        ({"timestamp": 10**400}, r"timestamp is 1000*\.\.\.0*; allowed"),
        ({"hash_ids": "123"}, "hash_ids is '123'; allowed is a list"),
        ({"hash_ids": [1, -2]}, "hash_ids holds -2; allowed are whole numbers"),
        ({"hash_ids": [1, 1 << 64]}, "hash_ids holds 18446744073709551616"),
        ({"hash_ids": [1, 2.5]}, "hash_ids holds 2.5"),
        ({"hash_ids": [1, "2"]}, "hash_ids holds '2'"),
        ({"hash_ids": [False]}, "hash_ids holds False"),
    ],
)
def test_malformed_mooncake(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [MOONCAKE[0], {**MOONCAKE[0], **change}])
    with pytest.raises(TraceError, match=rf"t\.jsonl:2: {message}"):
        read_trace(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"timestamp": 0,', "is not a JSON object"),
        (b"[1, 2]", "is not a JSON object"),
        (b"\xff\xfe", "is not a JSON object"),
        (b"[" * 100_000, "is not a JSON object"),
        (b'{"timestamp": 0, "input_length": ' + b"9" * 5_000 + b"}", "is not a JSON object"),
        (b'{"timestamp": 0, "input_length": 5}', "output_length is missing|hash_ids is missing"),
    ],
)
def test_malformed_json(tmp_path: Path, line: bytes, message: str) -> None:
    path = tmp_path / "t"
    path.write_bytes(json.dumps(MOONCAKE[0]).encode() + b"\n" + line)
    with pytest.raises(TraceError, match=f"t:2: .*({message})"):
        read_trace(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chat_id": -1}, "chat_id is -1"),
        ({"parent_chat_id": -2}, "parent_chat_id is -2; allowed are -1 to"),
        ({"parent_chat_id": 1 << 63}, "parent_chat_id is 9223372036854775808"),
        ({"turn": "1"}, "turn is '1'"),
        ({"type": 3}, "type is 3; allowed are texts"),
        ({"type": "x" * 65}, "type is 'xxx"),
    ],
)
def test_malformed_bailian(tmp_path: Path, change: dict[str, object], message: str) -> None:
    good = {
        "chat_id": 1,
        "parent_chat_id": -1,
        "timestamp": 0.5,
        "input_length": 16,
        "output_length": 1,
        "type": "text",
        "turn": 1,
        "hash_ids": [4],
    }
    path = write_jsonl(tmp_path / "t", [good, {**good, **change}])
    with pytest.raises(TraceError, match=f"t:2: {message}"):
        read_trace(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,0,1,2,800,25,3,-1", "the row has 8 fields; allowed are 9"),
        ("-1,0,1,2,800,25,3,-1,0", "ts_ms is -1"),
        ("0,x,1,2,800,25,3,-1,0", "session is b'x'"),
        ("0,0,1,2,-800,25,3,-1,0", "input_len is -800"),
        ("0,0,1,2,800,-25,3,-1,0", "output_len is -25"),
        ("0,0,1,2,800,25,4,-1,0", "nblk is 4; allowed are 0 to 3"),
        ("0,0,1,2,2147483647,25,99999999999999999999,-1,0", "nblk is 99999999999999999999"),
        (f"0,0,1,2,800,25,{'9' * 5000},-1,0", "nblk is b'999"),
        ("0,0,1,2,800,25,3,1,0", "src is 1; allowed are -1 to 0"),
        ("0,0,1,2,800,25,3,-2,0", "src is -2; allowed are -1 to 0"),
        ("0,0,1,2,800,25,3,-1,1", "keep is 1; allowed are 0 to 0"),
        ("0,0,1,2,1600,25,6,0,4", "keep is 4; allowed are 0 to 3"),
        ("0,0,1,2,800,25,2,0,3", "keep is 3; allowed are 0 to 2"),
        ("0,0,1,2,800,25,3,0,1_0", "keep is b'1_0'"),
        ("0,0,1,2,8.5,25,3,-1,0", r"input_len is b'8\.5'"),
    ],
)
def test_malformed_kvt(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(KVT_HEAD + "0,0,1,2,800,25,3,-1,0\n" + row + "\n")
    with pytest.raises(TraceError, match=rf"t\.csv:4: {message}"):
        read_trace(path)


def test_huge_kvt_is_refused_before_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_module, "MAX_TRACE_BLOCKS", 5)
    path = tmp_path / "t"
    path.write_text(KVT_HEAD + "0,0,1,2,800,25,3,-1,0\n1,0,1,2,800,25,3,0,3\n")
    with pytest.raises(TraceError, match="t:4: nblk is 3; allowed are 0 to 2"):
        read_trace(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": the trace holds no request"),
        ("\n \n", ": the trace holds no request"),
        (KVT_HEAD, ": the trace holds no request"),
        ("timestamp,hash_ids\n", ":1: the file starts with b'timestamp,hash_ids'; allowed are"),
        ("# kvt1 block_tokens=0\n", ":1: block_tokens is 0; allowed are 1 to 65536"),
        ("# kvt1 block_tokens=65537\n", ":1: block_tokens is 65537"),
        ("# kvt1 block_tokens=256\nts,session\n", ":2: the columns are b'ts,session'; allowed is"),
    ],
)
def test_malformed_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t"
    path.write_text(text)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}{message}")


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
@pytest.mark.parametrize("damage", ["cut", "short", "flip"])
def test_damaged_compression(
    tmp_path: Path, compress: Callable[[bytes], bytes], damage: str
) -> None:
    rng = np.random.default_rng(1)
    records = [{**MOONCAKE[0], "hash_ids": rng.integers(1 << 40, size=3).tolist()}] * 3_000
    data = compress("".join(json.dumps(record) + "\n" for record in records).encode())
    data = {"cut": data[: len(data) // 2], "short": data[:-1], "flip": data[:9] + b"\xff" * 99}[
        damage
    ]
    path = tmp_path / "t"
    path.write_bytes(data)
    with pytest.raises(TraceError, match=r"t:\d+: the compressed data is damaged or truncated"):
        read_trace(path)


def test_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_LINE_BYTES", 1_000)
    path = tmp_path / "t"
    path.write_bytes(zstandard.compress(b"{" + b" " * 10_000_000))
    with pytest.raises(TraceError, match="t:1: a line is longer than 1000 bytes"):
        read_trace(path)


def test_missing_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "none")

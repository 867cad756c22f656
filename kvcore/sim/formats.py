"""Reads the trace formats of the field: Mooncake JSONL, Qwen-Bailian JSONL and kvt CSV.

Files are not trusted: every value is checked, and what is wrong is told with its line.
"""

from __future__ import annotations

import json
import re
import reprlib
from array import array
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Protocol

from kvcore.sim.source import TraceError, numbered_lines
from kvcore.sim.trace import Trace, TraceBuilder

MAX_REQUEST_TOKENS = (1 << 31) - 1
MAX_BLOCK_TOKENS = 1 << 16
MAX_ARRIVAL_US = 1 << 53

_MOONCAKE_BLOCK_TOKENS = 512
_BAILIAN_BLOCK_TOKENS = 16
_MAX_SESSION = (1 << 63) - 1
_MAX_ID = (1 << 64) - 1
_KVT_HEADER = re.compile(rb"# kvt1 block_tokens=(\d{1,9})\b")
_KVT_COLUMNS = b"ts_ms,session,turn,type,input_len,output_len,nblk,src,keep"


def read_trace(path: str | PathLike[str], name: str | None = None) -> Trace:
    """Read a trace, plain or compressed with gzip or zstd.

    The format is recognised from the content:

    - Mooncake JSONL (FAST'25): one object a line with `timestamp` in milliseconds,
      `input_length`, `output_length` and `hash_ids`, one id a block of 512 tokens.
    - Qwen-Bailian JSONL (arXiv 2506.02634): the same with `chat_id`, `parent_chat_id`, `type` and
      `turn`, the timestamp in seconds, blocks of 16 tokens.
    - kvt CSV: a comment with `block_tokens`, a row of column names, then one request a row; blocks
      0 to `keep` are those of request `src`, the others are new.

    A partial last block is dropped. Requests are sorted by arrival. The text is streamed.

    Parameters
    ----------
    path : path of the file
    name : what to call the trace, by default the name of the file

    Returns
    -------
    Trace

    Raises
    ------
    OSError
        If the file cannot be read.
    TraceError
        If a line is malformed: names the file, the line, the value and what is allowed.
    """
    reader: _Reader | None = None
    for number, line in numbered_lines(path):
        try:
            reader = reader or _recognise(name or Path(fspath(path)).name, line)
            reader.read(line)
        except ValueError as error:
            raise TraceError(path, number, str(error)) from None
    if reader is None or reader.builder.num_requests == 0:
        raise TraceError(path, None, "the trace holds no request")
    return reader.builder.build()


class _Reader(Protocol):
    builder: TraceBuilder

    def read(self, line: bytes) -> None:
        """Add what the line tells. Raises ValueError."""


def _recognise(name: str, line: bytes) -> _Reader:
    if line.startswith(b"{"):
        return _JsonReader(name, bailian="chat_id" in _json_object(line))
    if match := _KVT_HEADER.match(line):
        block_tokens = _checked("block_tokens", int(match[1]), 1, MAX_BLOCK_TOKENS)
        return _KvtReader(TraceBuilder(name, block_tokens))
    raise ValueError(
        f"the file starts with {reprlib.repr(line)}; allowed are a JSON object (Mooncake, "
        f"Qwen-Bailian) and '# kvt1 block_tokens=N'"
    )


class _JsonReader:
    """Mooncake and Qwen-Bailian lines.

    Bailian's ids name the content of one block alone, so the same id after another prefix is
    another block: ids are looked up in a trie, whose node numbers are the dense ids.
    """

    def __init__(self, name: str, *, bailian: bool) -> None:
        self._bailian = bailian
        self._block_tokens = _BAILIAN_BLOCK_TOKENS if bailian else _MOONCAKE_BLOCK_TOKENS
        self._trie: dict[tuple[int, int], int] = {}
        self._roots: dict[int, int] = {}
        self.builder = TraceBuilder(name, self._block_tokens)

    def read(self, line: bytes) -> None:
        record = _json_object(line)
        input_tokens = _integer(record, "input_length", 0, MAX_REQUEST_TOKENS)
        self.builder.add(
            self._blocks(_hash_ids(record), input_tokens),
            arrival_us=_arrival_us(record, 1_000_000 if self._bailian else 1_000),
            input_tokens=input_tokens,
            output_tokens=_integer(record, "output_length", 0, MAX_REQUEST_TOKENS),
            session=self._session(record) if self._bailian else -1,
            kind=_kind(record) if self._bailian else "",
        )

    def _blocks(self, hash_ids: list[int], input_tokens: int) -> array[int]:
        allowed = -(-input_tokens // self._block_tokens)
        if len(hash_ids) > allowed:
            raise ValueError(
                f"hash_ids has {len(hash_ids)} ids; input_length {input_tokens} allows at most "
                f"{allowed} in blocks of {self._block_tokens} tokens"
            )
        blocks = array("I")
        trie = self._trie
        parent = -1
        for hash_id in hash_ids[: input_tokens // self._block_tokens]:
            parent = trie.setdefault((parent, hash_id), len(trie))
            blocks.append(parent)
        return blocks

    def _session(self, record: dict[str, Any]) -> int:
        chat = _integer(record, "chat_id", 0, _MAX_SESSION)
        parent = _integer(record, "parent_chat_id", -1, _MAX_SESSION)
        _integer(record, "turn", 0, MAX_REQUEST_TOKENS)
        root = chat if parent == -1 else self._roots.get(parent, parent)
        self._roots[chat] = root
        return root


class _KvtReader:
    """Rows of a kvt CSV; lines that start with # are comments."""

    def __init__(self, builder: TraceBuilder) -> None:
        self.builder = builder
        self._has_columns = False
        self._next_id = 0

    def read(self, line: bytes) -> None:
        if line.startswith(b"#"):
            return
        if not self._has_columns:
            if line != _KVT_COLUMNS:
                raise ValueError(
                    f"the columns are {reprlib.repr(line)}; allowed is {_KVT_COLUMNS.decode()}"
                )
            self._has_columns = True
            return
        fields = line.split(b",")
        if len(fields) != 9:
            raise ValueError(f"the row has {len(fields)} fields; allowed are 9")
        self._add(fields)

    def _add(self, fields: list[bytes]) -> None:
        ts_ms, session, _, kind, input_tokens, output_tokens, nblk, src, keep = (
            _field(name, text, low, high)
            for text, (name, low, high) in zip(
                fields,
                (
                    ("ts_ms", 0, MAX_ARRIVAL_US // 1000),
                    ("session", 0, _MAX_SESSION),
                    ("turn", 0, MAX_REQUEST_TOKENS),
                    ("type", 0, MAX_REQUEST_TOKENS),
                    ("input_len", 0, MAX_REQUEST_TOKENS),
                    ("output_len", 0, MAX_REQUEST_TOKENS),
                    ("nblk", 0, MAX_REQUEST_TOKENS),
                    ("src", -1, self.builder.num_requests - 1),
                    ("keep", 0, MAX_REQUEST_TOKENS),
                ),
                strict=True,
            )
        )
        room = min(input_tokens // self.builder.block_tokens, self.builder.room_blocks())
        _checked("nblk", nblk, 0, room)
        known = self.builder.num_blocks(src) if src >= 0 else 0
        _checked("keep", keep, 0, min(known, nblk))
        blocks = self.builder.blocks(src, keep) if keep else array("I")
        blocks.extend(range(self._next_id, self._next_id + nblk - keep))
        self._next_id += nblk - keep
        self.builder.add(
            blocks,
            arrival_us=ts_ms * 1000,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            session=session,
            kind=str(kind),
        )


def _checked(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"{name} is {reprlib.repr(value)}; allowed are {low} to {high}")
    return value


def _field(name: str, text: bytes, low: int, high: int) -> int:
    digits = text[1:] if text.startswith(b"-") else text
    if not digits.isdigit() or len(digits) > 20:
        raise ValueError(f"{name} is {reprlib.repr(text)}; allowed are {low} to {high}")
    return _checked(name, int(text), low, high)


def _json_object(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{reprlib.repr(line)} is not a JSON object ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{reprlib.repr(line)} is not a JSON object")
    return record


def _value(record: dict[str, Any], name: str) -> Any:
    try:
        return record[name]
    except KeyError:
        raise ValueError(f"{name} is missing") from None


def _integer(record: dict[str, Any], name: str, low: int, high: int) -> int:
    value: object = _value(record, name)
    if type(value) is not int:  # a bool is no number here
        raise ValueError(
            f"{name} is {reprlib.repr(value)}; allowed are whole numbers from {low} to {high}"
        )
    return _checked(name, value, low, high)


def _arrival_us(record: dict[str, Any], unit_us: int) -> int:
    value: int | float = _value(record, "timestamp")
    high = MAX_ARRIVAL_US // unit_us
    if type(value) not in (int, float) or not 0 <= value <= high:
        raise ValueError(
            f"timestamp is {reprlib.repr(value)}; allowed are numbers from 0 to {high}"
        )
    return round(value * unit_us)


def _kind(record: dict[str, Any]) -> str:
    value = _value(record, "type")
    if not isinstance(value, str) or len(value) > 64:
        raise ValueError(f"type is {reprlib.repr(value)}; allowed are texts of up to 64 characters")
    return value


def _hash_ids(record: dict[str, Any]) -> list[int]:
    values = _value(record, "hash_ids")
    if not isinstance(values, list):
        raise ValueError(f"hash_ids is {reprlib.repr(values)}; allowed is a list of numbers")
    if values and (
        set(map(type, values)) != {int} or not 0 <= min(values) <= max(values) <= _MAX_ID
    ):
        wrong = next(v for v in values if type(v) is not int or not 0 <= v <= _MAX_ID)
        raise ValueError(
            f"hash_ids holds {reprlib.repr(wrong)}; allowed are whole numbers from 0 to {_MAX_ID}"
        )
    return values

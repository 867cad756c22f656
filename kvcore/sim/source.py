"""Numbered lines of a text file that may be compressed and is not trusted."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from typing import BinaryIO

import zstandard

MAX_LINE_BYTES = 16 << 20

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SKIPPABLE_MAGIC = b"\x2a\x4d\x18"  # zstd's skippable frames: any of 16 first bytes, then these
# 1 KiB of zstd can hold 256 runs of 128 KiB, so a hostile file gets 32 MiB at a time, not more.
_ZSTD_INPUT_BYTES = 1 << 10
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)


class TraceError(ValueError):
    """A trace that cannot be read: names the file, the line, the value and what is allowed."""

    def __init__(self, path: str | PathLike[str], line: int | None, message: str) -> None:
        where = fspath(path) if line is None else f"{fspath(path)}:{line}"
        super().__init__(f"{where}: {message}")


def numbered_lines(path: str | PathLike[str]) -> Iterator[tuple[int, bytes]]:
    """Stream the lines that are not blank, without their line ends.

    Plain, gzip and zstd files are told apart by their first bytes.

    Parameters
    ----------
    path : path of the file

    Yields
    ------
    tuple[int, bytes]
        Line number from 1, and the line.

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    TraceError
        If the compressed data is damaged or truncated, or a line exceeds `MAX_LINE_BYTES`.
    """
    number = 0
    with open(path, "rb") as file, _plain(file) as text:
        while True:
            number += 1
            try:
                line = text.readline(MAX_LINE_BYTES + 1)
            except _DAMAGE as error:
                reason = f"the compressed data is damaged or truncated ({error})"
                raise TraceError(path, number, reason) from None
            if len(line) > MAX_LINE_BYTES:
                raise TraceError(path, number, f"a line is longer than {MAX_LINE_BYTES} bytes")
            if not line:
                return
            if stripped := line.strip():
                yield number, stripped


@contextmanager
def _plain(file: io.BufferedReader) -> Iterator[BinaryIO]:
    magic = file.peek(4)[:4]
    if magic.startswith(_GZIP_MAGIC):
        with gzip.GzipFile(fileobj=file) as text:
            yield text  # type: ignore[misc]
    elif magic == _ZSTD_MAGIC or (magic[1:] == _SKIPPABLE_MAGIC and magic[0] & 0xF0 == 0x50):
        with io.BufferedReader(_ZstdStream(file), 1 << 16) as text:
            yield text
    else:
        yield file


class _ZstdStream(io.RawIOBase):
    """The plain bytes of a zstd file.

    zstandard's own reader takes a truncated file for a complete one; this does not. Frames may
    follow each other. Holds one decompressed piece of at most 32 MiB.
    """

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._output:
            self._input = self._input or self._source.read(_ZSTD_INPUT_BYTES)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("the file ends inside a zstd frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._output = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input = self._frame.unused_data
                self._frame = None
        size = min(len(buffer), len(self._output))
        buffer[:size] = self._output[:size]
        self._output = self._output[size:]
        return size

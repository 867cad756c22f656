"""Mistakes in values that are kept as several parts."""

from planted.bug import Bug

_PARTS = "csrc/store/remote/value_parts.cpp"
_TESTS = "test_large_values.py::"

BUGS = [
    Bug(
        name="parts-are-as-large-as-may-be",
        why="a server sends a value above 2 MiB for ever",
        files="csrc/store/remote/wire.h",
        find="kMaxValueBytes = 2 << 20;",
        replace="kMaxValueBytes = 1 << 30;",
        tests=_TESTS + "test_no_value_is_too_large_for_a_server",
    ),
    Bug(
        name="parts-the-first-alone-is-looked-at",
        why="a server that has no room takes the beginning of another part for a request",
        files=_PARTS,
        find="  const auto parts = cut(pieces);\n",
        replace="  const auto parts = cut({pieces.front().first(4)});\n",
        tests=_TESTS + "test_what_looks_like_a_request_is_not_written",
    ),
    Bug(
        name="parts-the-last-answer-counts",
        why="a value that lacks a part passes for one that is there",
        files=_PARTS,
        find="all.number = std::min(all.number, reply.number);",
        replace="all.number = reply.number;",
        tests=_TESTS + "test_a_part_that_is_gone_is_a_miss_and_comes_back",
    ),
    Bug(
        name="parts-the-last-checksum-counts",
        why="a wrong byte in another part is handed out",
        files=_PARTS,
        find="all.checksum = checksum_of(std::as_bytes(std::span(answers->checksums)));",
        replace="all.checksum = reply.checksum;",
        tests="test_large_values.py",  # which part is the last is chance
    ),
]

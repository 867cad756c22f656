"""In csrc/hash and kvcore/hashing.py: names of blocks."""

from planted.bug import Bug

_FILES = "csrc/hash/*"
_PYTHON = "kvcore/hashing.py"

BUGS = [
    Bug(
        name="hash-parent-is-not-chained",
        why="a hash names its block alone, whatever came before it",
        files=_FILES,
        find="    hash = parent = digest(parent, tokens);",
        replace="    hash = digest(parent, tokens);",
        tests='cpp "golden chains"',
    ),
    Bug(
        name="hash-message-without-parent",
        why="short messages of xxh3 start from what the buffer held",
        files=_FILES,
        find="      std::memcpy(message_, &parent, kParentBytes);\n"
        "      std::memcpy(message_ + kParentBytes, tokens, token_bytes);\n",
        replace="      std::memcpy(message_ + kParentBytes, tokens, token_bytes);\n",
        tests='cpp "golden chains"',
    ),
    Bug(
        name="hash-padding-one-block-short",
        why="the length of a message of 56 to 63 bytes more than whole blocks has no room",
        files=_FILES,
        find="padding_bytes_ = 64 - (bytes + 8) % 64 + 8;",
        replace="padding_bytes_ = 64 - bytes % 64;",
        tests="test_hash.py -k every_message_length",
    ),
    Bug(
        name="hash-xxh3-in-machine-order",
        why="hashes depend on the byte order of the machine",
        files=_FILES,
        find="    XXH128_canonical_t digest;\n    XXH128_canonicalFromHash(&digest, value);\n"
        "    return std::bit_cast<BlockHash>(digest);",
        replace="    return std::bit_cast<BlockHash>(value);",
        tests='cpp "golden chains"',
    ),
    Bug(
        name="hash-stops-at-the-buffer",
        why="of long blocks only what fits into the buffer counts",
        files=_FILES,
        find="    XXH3_128bits_update(&state, tokens, token_bytes);",
        replace="    XXH3_128bits_update(&state, tokens, kBufferedTokenBytes);",
        tests='cpp "golden chains"',
    ),
    Bug(
        name="fold-without-namespace",
        why="an engine's hashes meet between namespaces",
        files=_FILES,
        find="seed_(digest(kFoldLabel, namespace_seed.bytes)) {}",
        replace="seed_(digest(kFoldLabel, BlockHash{}.bytes)) { (void)namespace_seed; }",
        tests='cpp "golden folds"',
    ),
    Bug(
        name="fold-without-label",
        why="a fold may be the hash of a token block",
        files=_FILES,
        find="seed_(digest(kFoldLabel, namespace_seed.bytes)) {}",
        replace="seed_(namespace_seed) {}",
        tests="test_hash.py -k 'folds_do_not_meet or fold_equals'",
    ),
    Bug(
        name="namespace-without-salt",
        why="tenants with different salts share blocks",
        files=_PYTHON,
        find="values = [getattr(self, f.name) for f in fields(self)]",
        replace="values = [getattr(self, f.name) for f in fields(self) if f.repr]",
        tests="test_hash.py -k every_field",
    ),
    Bug(
        name="namespace-fields-run-together",
        why="namespaces whose fields are parted elsewhere have one seed",
        files=_PYTHON,
        find='b"".join(len(part).to_bytes(8, "little") + part for part in parts)',
        replace='b"".join(parts)',
        tests="test_hash.py -k 'run_into or golden_namespaces'",
    ),
    Bug(
        name="tokens-below-zero",
        why="negative tokens wrap around",
        files="csrc/bindings/*",
        find="    if seen < 0 or <uint64_t>seen > MAX_TOKEN:\n",
        replace="    if seen > 0 and <uint64_t>seen > MAX_TOKEN:\n",
        tests="test_hash.py -k array_item_out_of_range",
    ),
    Bug(
        name="tokens-of-every-second",
        why="arrays with steps are read as if they had none",
        files="csrc/bindings/*",
        find='    if not (is_native and is_aligned and PyBuffer_IsContiguous(buffer, b"C")):',
        replace="    if not (is_native and is_aligned):",
        tests="test_hash.py -k every_integer_dtype",
    ),
]

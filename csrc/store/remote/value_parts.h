#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "store/remote/names.h"
#include "store/remote/transport.h"

namespace kvcore {

// A server is lost by a value above wire::kMaxValueBytes, so a larger one is kept as several parts,
// all of that size but the last, each under a name of its own. They may be under way together.

// The names of the parts of a value: its own, where it is one.
std::vector<std::string> value_keys(const Fingerprint& scope, const BlockHash& hash, uint64_t nonce,
                                    uint64_t value_bytes);

// Asks for each part what `whole`, which has all their keys and pieces, asks for the value: to get
// it, to put it, or whether it is there. `submit` is called once for each; `whole.finish` once,
// when all are answered: with the worst answer, the least number, and, of several parts, the
// checksum of their checksums.
void submit_parts(Request whole, const std::function<void(Request)>& submit);

// Whether a server that has no room for a part could take it for a request.
bool looks_like_request(const std::vector<std::span<std::byte>>& pieces);

}  // namespace kvcore

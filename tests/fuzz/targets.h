#pragma once

#include <cstdint>
#include <span>

// What a fuzzer calls with what it made up, and the tests with what it kept (corpus/). They end the
// process when something is not as it should be.
namespace kvcore {

// A Connection and a server that says anything, in any pieces, and ends at any time.
void fuzz_connection(std::span<const uint8_t> bytes);

// Envelopes, records and the names of values.
void fuzz_envelope(std::span<const uint8_t> bytes);

}  // namespace kvcore

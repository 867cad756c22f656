#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "doctest/doctest.h"
#include "targets.h"

namespace kvcore {
namespace {

// What fuzzing (scripts/fuzz.sh) kept, for compilers that have no fuzzer.
size_t replay(const char* target, void (*fuzz)(std::span<const uint8_t>)) {
  size_t count = 0;
  const auto corpus = std::filesystem::path(KVCORE_FUZZ_CORPUS) / target;
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
    const std::string name = entry.path().filename();
    CAPTURE(name);  // is told where this ends the process
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<uint8_t> bytes{std::istreambuf_iterator<char>(file), {}};
    fuzz(bytes);
    ++count;
  }
  return count;
}

TEST_CASE("answers that a fuzzer made do no harm") {
  CHECK(replay("connection", fuzz_connection) > 100);
}

TEST_CASE("envelopes that a fuzzer made say what they are") {
  CHECK(replay("envelope", fuzz_envelope) > 5);
}

}  // namespace
}  // namespace kvcore

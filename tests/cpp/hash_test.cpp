#include <algorithm>
#include <numeric>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "hash/block_hasher.h"
#include "hash/fold.h"

namespace kvcore {
namespace {

constexpr HashAlgorithm kAlgorithms[] = {HashAlgorithm::kSha256, HashAlgorithm::kXxh3_128};

BlockHash counting_seed() {
  BlockHash seed;
  std::iota(seed.bytes.begin(), seed.bytes.end(), uint8_t{0});
  return seed;
}

std::vector<uint32_t> spread_tokens(size_t count) {
  std::vector<uint32_t> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<uint32_t>(i * 2654435761u);
  return tokens;
}

std::vector<BlockHash> hash_all(const BlockHasher& hasher, std::span<const uint32_t> tokens,
                                const BlockHash& parent) {
  std::vector<BlockHash> hashes(hasher.num_blocks(tokens.size()));
  hasher.hash(parent, tokens, hashes);
  return hashes;
}

std::string hex(const BlockHash& hash) {
  std::string text;
  for (const uint8_t byte : hash.bytes) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

// The last of three blocks, computed by Python's hashlib and xxhash.
TEST_CASE("golden chains") {
  struct Golden {
    HashAlgorithm algorithm;
    size_t block_tokens;
    const char* last;
  };
  const Golden goldens[] = {
      {HashAlgorithm::kSha256, 1, "f8cb2a02b902cded6527a9095b32a3bc"},
      {HashAlgorithm::kSha256, 16, "611bface8610728090d88a7aaa3e9e84"},
      {HashAlgorithm::kSha256, 1500, "1fa5358090bc6569d54c0fe1ab8af520"},
      {HashAlgorithm::kXxh3_128, 1, "e444d3874e3db9ca79d80c12688948b1"},
      {HashAlgorithm::kXxh3_128, 16, "9db32a11e1c61d35e3e21b249f5fc1a8"},
      {HashAlgorithm::kXxh3_128, 1500, "ab366432aa4d90cf8b60204570d9ec2d"},
  };
  for (const Golden& golden : goldens) {
    CAPTURE(golden.block_tokens);
    const BlockHasher hasher(golden.block_tokens, golden.algorithm, counting_seed());
    const auto hashes = hash_all(hasher, spread_tokens(3 * golden.block_tokens), hasher.seed());
    CHECK(hex(hashes.back()) == golden.last);
  }
}

TEST_CASE("a chain may be hashed in parts") {
  for (const HashAlgorithm algorithm : kAlgorithms) {
    for (const size_t block_tokens : {1, 3, 12, 16, 64, 1024, 1025}) {
      CAPTURE(block_tokens);
      const BlockHasher hasher(block_tokens, algorithm, counting_seed());
      const auto tokens = spread_tokens(5 * block_tokens + block_tokens / 2);
      const auto whole = hash_all(hasher, tokens, hasher.seed());
      REQUIRE(whole.size() == 5);
      for (size_t split = 0; split <= whole.size(); ++split) {
        const auto rest = std::span(tokens).subspan(split * block_tokens);
        const auto part = hash_all(hasher, rest, split ? whole[split - 1] : hasher.seed());
        CHECK(std::ranges::equal(part, std::span(whole).subspan(split)));
      }
    }
  }
}

TEST_CASE("seed, order and every token tell chains apart") {
  for (const HashAlgorithm algorithm : kAlgorithms) {
    const BlockHasher hasher(16, algorithm, counting_seed());
    auto tokens = spread_tokens(32);
    const BlockHash last = hash_all(hasher, tokens, hasher.seed()).back();
    CHECK(hash_all(BlockHasher(16, algorithm, BlockHash{}), tokens, BlockHash{}).back() != last);
    for (uint32_t& token : tokens) {
      token ^= 1;
      CHECK(hash_all(hasher, tokens, hasher.seed()).back() != last);
      token ^= 1;
    }
    std::swap(tokens[0], tokens[31]);
    CHECK(hash_all(hasher, tokens, hasher.seed()).back() != last);
  }
}

TEST_CASE("block_tokens has a range") {
  for (const size_t block_tokens : {size_t{0}, BlockHasher::kMaxBlockTokens + 1}) {
    CHECK_THROWS_AS(BlockHasher(block_tokens, HashAlgorithm::kSha256, {}), std::invalid_argument);
  }
}

TEST_CASE("algorithms have names") {
  CHECK(hash_algorithm_named("sha256") == HashAlgorithm::kSha256);
  CHECK(hash_algorithm_named("xxh3_128") == HashAlgorithm::kXxh3_128);
  CHECK(hash_algorithm_named("md5") == std::nullopt);
}

TEST_CASE("golden folds") {
  const Fold fold(counting_seed());
  std::vector<uint8_t> counting(32);
  std::iota(counting.begin(), counting.end(), uint8_t{0});
  CHECK(hex(fold(std::vector<uint8_t>(1))) == "6d9896c7165d798e02d729bc661dc1cf");
  CHECK(hex(fold(counting)) == "47d14460b1ddff26c489b2b0dcaaea0f");
  CHECK(hex(fold(std::vector<uint8_t>(200))) == "60318dc4cd94ecf7bd8b0dad95c854da");
}

}  // namespace
}  // namespace kvcore

#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "doctest/doctest.h"
#include "slab/host_slab.h"

using namespace kvcore;

namespace {

std::vector<std::string> calls;  // of the device below

constexpr Pinning kDevice{
    [](void*, size_t bytes) -> const char* {
      calls.push_back("pin " + std::to_string(bytes));
      return nullptr;
    },
    [](void* data) -> const char* {
      static_cast<char*>(data)[0] = 1;  // still there
      calls.push_back("unpin");
      return nullptr;
    },
};
constexpr Pinning kRefuses{[](void*, size_t) { return "no device"; }, nullptr};

}  // namespace

TEST_CASE("a slab has all its bytes") {
  for (uint64_t block_bytes : {1, 64, 65, 4096, 100'000}) {
    HostSlab slab({.num_blocks = 50, .block_bytes = block_bytes, .threads = 3});
    CHECK(slab.stride_bytes() % HostSlab::kAlignment == 0);
    CHECK(slab.stride_bytes() >= block_bytes);
    CHECK(slab.stride_bytes() < block_bytes + HostSlab::kAlignment);
    CHECK(slab.bytes() >= 50 * slab.stride_bytes());
    CHECK(reinterpret_cast<uint64_t>(slab.data()) % (2 << 20) == 0);
    std::memset(slab.data(), 1, slab.bytes());
  }
}

TEST_CASE("a slab is pinned once, and let go before its memory") {
  calls.clear();
  {
    HostSlab slab({.num_blocks = 2, .block_bytes = 64});
    CHECK_THROWS_WITH_AS(slab.pin(kRefuses), "cannot pin 2097152 bytes: no device",
                         std::runtime_error);
    CHECK_FALSE(slab.is_pinned());
    slab.pin(kDevice);
    slab.pin(kDevice);
    CHECK(slab.is_pinned());
  }
  CHECK(calls == std::vector<std::string>{"pin 2097152", "unpin"});
}

TEST_CASE("numbers that do not fit are refused") {
  CHECK_THROWS_AS(HostSlab({.num_blocks = 0, .block_bytes = 1}), std::invalid_argument);
  CHECK_THROWS_AS(HostSlab({.num_blocks = 1, .block_bytes = 0}), std::invalid_argument);
  CHECK_THROWS_AS(HostSlab({.num_blocks = 1, .block_bytes = UINT64_MAX}), std::invalid_argument);
  CHECK_THROWS_AS(HostSlab({.num_blocks = HostSlab::kMaxBlocks, .block_bytes = 1 << 20}),
                  std::invalid_argument);
}

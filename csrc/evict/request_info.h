#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace kvcore {

// What an engine tells about one request; one object a request, since all touches made with the
// same object count as one use. Immutable.
struct RequestInfo {
  std::string tenant;
  std::string session;
  std::string kind;
  std::optional<int64_t> arrival_us;
  int32_t priority = 0;
  std::optional<int64_t> next_use_us;

  const uint32_t serial = next_serial();      // tells requests apart; never 0
  const uint32_t kind_key = digest_of(kind);  // equal kinds have equal keys

 private:
  // FNV-1a: short names that differ in their last byte alone differ in the lowest bits.
  static uint32_t digest_of(std::string_view name) noexcept {
    uint32_t digest = 0x811C9DC5;
    for (char byte : name) digest = (digest ^ static_cast<uint8_t>(byte)) * 0x01000193;
    return digest;
  }
  static uint32_t next_serial() noexcept {
    static std::atomic<uint32_t> last{0};
    uint32_t serial = last.fetch_add(1, std::memory_order_relaxed) + 1;
    return serial != 0 ? serial : next_serial();
  }
};

}  // namespace kvcore

#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <string>

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

  const uint32_t serial = next_serial();  // tells requests apart; never 0

 private:
  static uint32_t next_serial() noexcept {
    static std::atomic<uint32_t> last{0};
    uint32_t serial = last.fetch_add(1, std::memory_order_relaxed) + 1;
    return serial != 0 ? serial : next_serial();
  }
};

}  // namespace kvcore

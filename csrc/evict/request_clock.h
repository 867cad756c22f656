#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "evict/policy.h"

namespace kvcore {

// Time as requests tell it: it never goes back, and a request that says nothing comes a little
// after those before it. Not thread safe.
class RequestClock {
 public:
  Use use_of(const RequestInfo& request) noexcept {
    constexpr int64_t kUntimedStepUs = 100'000;
    const bool is_newer =
        last_request_ == 0 || static_cast<int32_t>(request.serial - last_request_) > 0;
    if (request.arrival_us) {
      now_us_ = std::max(now_us_, *request.arrival_us);
    } else if (is_newer) {
      now_us_ += std::min(kUntimedStepUs, std::numeric_limits<int64_t>::max() - now_us_);
    }
    if (is_newer) last_request_ = request.serial;
    return {request, now_us_};
  }
  int64_t now_us() const noexcept { return now_us_; }

 private:
  int64_t now_us_ = 0;
  uint32_t last_request_ = 0;  // the newest; 0: none yet
};

}  // namespace kvcore

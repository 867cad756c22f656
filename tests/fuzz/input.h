#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace kvcore {

// What a fuzzer made, taken from the front; zeros when it is used up.
class Input {
 public:
  explicit Input(std::span<const uint8_t> bytes) : rest_(bytes) {}

  bool is_empty() const noexcept { return rest_.empty(); }
  uint8_t byte() { return number<uint8_t>(); }
  template <typename Number>
  Number number() {
    Number number{};
    take(&number, sizeof(number));
    return number;
  }
  std::string text(size_t bytes) {
    std::string text(std::min(bytes, rest_.size()), '\0');
    take(text.data(), text.size());
    return text;
  }
  void take(void* to, size_t bytes) {
    const size_t there = std::min(bytes, rest_.size());
    if (there > 0) std::memcpy(to, rest_.data(), there);
    rest_ = rest_.subspan(there);
  }

 private:
  std::span<const uint8_t> rest_;
};

}  // namespace kvcore

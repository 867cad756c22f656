#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

namespace kvcore {

// XXH3-128, big-endian: at the speed of memory, and none of 2^100 accidents goes unseen.
using Checksum = std::array<std::byte, 16>;

Checksum checksum_of(std::span<const std::byte> bytes) noexcept;

// The same of bytes that come one after the other.
class RunningChecksum {
 public:
  RunningChecksum();
  ~RunningChecksum();
  void begin() noexcept;
  void add(std::span<const std::byte> bytes) noexcept;
  Checksum value() const noexcept;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace kvcore

#include "store/remote/rendezvous.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>

#include "store/checksum.h"

namespace kvcore {
namespace {

// SplitMix64's finaliser.
uint64_t mix(uint64_t x) noexcept {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  return x ^ x >> 31;
}

// -log2 of a number from (0, 1], that has these bits behind the point: the same on all machines, as
// the library's logarithm is not. Exponent by counting, the rest by squaring.
double minus_log2(uint64_t bits) noexcept {
  bits |= 1;
  const int zeros = std::countl_zero(bits);
  uint64_t mantissa = bits << zeros >> 32;  // from 2^31 up: 1 to 2, with 31 digits behind the point
  uint64_t fraction = 0;
  for (int i = 0; i < 30; ++i) {
    mantissa = mantissa * mantissa >> 31;
    fraction <<= 1;
    if (mantissa >= uint64_t{1} << 32) {
      mantissa >>= 1;
      fraction |= 1;
    }
  }
  return static_cast<double>(zeros + 1) - static_cast<double>(fraction) * 0x1p-30;
}

}  // namespace

Rendezvous::Rendezvous(const std::vector<Server>& servers) {
  std::set<std::string> names;
  for (const Server& server : servers) {
    if (!names.insert(server.name).second) {
      throw std::invalid_argument("servers must have different names, got '" + server.name +
                                  "' twice");
    }
    if (!(server.weight > 0) || !std::isfinite(server.weight)) {
      throw std::invalid_argument("weight must be above 0, got " + std::to_string(server.weight) +
                                  " for '" + server.name + "'");
    }
    const Checksum digest = checksum_of(std::as_bytes(std::span(server.name)));
    entries_.push_back({std::bit_cast<std::array<uint64_t, 2>>(digest)[0], 1.0 / server.weight});
  }
}

size_t Rendezvous::place(const BlockHash& name, std::string_view,
                         std::span<uint32_t> servers) const noexcept {
  const size_t wanted = std::min(servers.size(), entries_.size());
  auto draw = [&](uint32_t i) {
    const Entry& entry = entries_[i];
    return minus_log2(mix(mix(name.low() ^ entry.seed) + name.high())) * entry.inverse_weight;
  };
  // The few that are wanted are found one after the other.
  double last = -std::numeric_limits<double>::infinity();
  uint32_t last_server = 0;
  for (size_t n = 0; n < wanted; ++n) {
    double best = std::numeric_limits<double>::infinity();
    uint32_t best_server = 0;
    for (uint32_t i = 0; i < entries_.size(); ++i) {
      const double number = draw(i);
      const bool is_after = number > last || (number == last && n > 0 && i > last_server);
      if (is_after && number < best) {
        best = number;
        best_server = i;
      }
    }
    servers[n] = last_server = best_server;
    last = best;
  }
  return wanted;
}

}  // namespace kvcore

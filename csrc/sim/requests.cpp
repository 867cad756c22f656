#include "sim/requests.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

namespace kvcore {
namespace {

constexpr uint32_t kMaxRequests = std::numeric_limits<uint32_t>::max() - 1;
constexpr uint32_t kNoParent = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kUnseen = kNoParent - 1;

std::string element(const char* array, size_t position, int64_t value) {
  return std::string(array) + "[" + std::to_string(position) + "] is " + std::to_string(value);
}

void check_offsets(std::span<const int64_t> offsets, size_t num_blocks) {
  if (offsets.empty() || offsets.size() - 1 > kMaxRequests) {
    throw std::invalid_argument("offsets has " + std::to_string(offsets.size()) +
                                " entries; allowed are 1 to " + std::to_string(kMaxRequests));
  }
  int64_t low = 0;
  for (size_t i = 0; i < offsets.size(); ++i) {
    const auto high = i == 0 ? int64_t{0} : static_cast<int64_t>(num_blocks);
    if (offsets[i] < low || offsets[i] > high) {
      throw std::invalid_argument(element("offsets", i, offsets[i]) + "; allowed are " +
                                  std::to_string(low) + " to " + std::to_string(high));
    }
    low = offsets[i];
  }
  if (static_cast<size_t>(offsets.back()) != num_blocks) {
    throw std::invalid_argument(element("offsets", offsets.size() - 1, offsets.back()) +
                                "; the last must be the number of blocks, " +
                                std::to_string(num_blocks));
  }
}

}  // namespace

Requests::Requests(std::span<const uint32_t> block_ids, std::span<const int64_t> offsets)
    : block_ids_(block_ids), offsets_(offsets) {
  check_offsets(offsets, block_ids.size());
  if (block_ids.empty()) return;
  const auto highest = std::ranges::max_element(block_ids);
  if (*highest >= std::min<size_t>(block_ids.size(), kUnseen)) {
    throw std::invalid_argument(
        element("block_ids", static_cast<size_t>(highest - block_ids.begin()), *highest) +
        "; ids are dense, so allowed are 0 to " + std::to_string(block_ids.size() - 1));
  }
  num_unique_blocks_ = *highest + 1;

  std::vector<uint32_t> parents(num_unique_blocks_, kUnseen);
  for (uint32_t request = 0; request < size(); ++request) {
    uint32_t parent = kNoParent;
    for (const uint32_t& block : (*this)[request]) {
      if (parents[block] == kUnseen) parents[block] = parent;
      if (parents[block] != parent) [[unlikely]] {
        throw std::invalid_argument(
            element("block_ids", static_cast<size_t>(&block - block_ids_.data()), block) +
            "; an id stands for one prefix, but here another block comes before it than where it "
            "occurs first");
      }
      parent = block;
    }
  }
}

}  // namespace kvcore

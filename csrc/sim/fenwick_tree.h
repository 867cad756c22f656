#pragma once

#include <cstddef>
#include <vector>

namespace kvcore {

// Sums over an array of numbers that change: add and sum take O(log n). Not thread safe.
// P. Fenwick, "A new data structure for cumulative frequency tables", 1994.
template <typename T>
class FenwickTree {
 public:
  explicit FenwickTree(size_t size) : nodes_(size + 1) {}

  size_t size() const noexcept { return nodes_.size() - 1; }

  void add(size_t position, T amount) noexcept {
    total_ += amount;
    for (size_t i = position + 1; i < nodes_.size(); i += i & -i) nodes_[i] += amount;
  }
  // The sum of all elements behind `position`.
  T sum_after(size_t position) const noexcept {
    T before{};
    for (size_t i = position + 1; i > 0; i &= i - 1) before += nodes_[i];
    return total_ - before;
  }
  void clear() noexcept {
    nodes_.assign(nodes_.size(), T{});
    total_ = T{};
  }
  size_t bytes() const noexcept { return nodes_.capacity() * sizeof(T); }

 private:
  std::vector<T> nodes_;  // from 1
  T total_{};
};

}  // namespace kvcore

#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/types.h"

namespace kvcore {

// The blocks that a request is about to bring, in pieces of which the policy knows the same: how
// often they have been used, with this use. They enter from the first on, and are bypassed from the
// last on. Refers to the caller's hashes. Not thread safe. Amortised O(1) a call, but for
// uses_at().
class IncomingBlocks {
 public:
  struct Piece {
    uint32_t begin, blocks;
    uint8_t uses;
    float rank = -1;  // below 0: not asked for yet
  };

  // Of the request `serial`; their pieces are still to be added, in order.
  void start(std::span<const BlockHash> missing, uint32_t serial) noexcept {
    clear();
    missing_ = missing;
    serial_ = serial;
    left_ = static_cast<uint32_t>(missing.size());
  }
  void add(uint32_t begin, uint32_t blocks, uint8_t uses) noexcept {
    if (!pieces_.empty() && pieces_.back().uses == uses) {
      pieces_.back().blocks += blocks;
    } else {
      pieces_.push_back({begin, blocks, uses});
      borders_.push_back(begin);
    }
    last_ = pieces_.size() - 1;
  }
  void clear() noexcept {
    pieces_.clear();
    borders_.clear();
    missing_ = {};
    serial_ = left_ = entered_ = 0;
  }

  bool are_of(uint32_t serial) const noexcept { return serial_ == serial; }
  std::span<const uint32_t> borders() const noexcept { return borders_; }
  // How many, from the first on, end with one that was used before.
  uint32_t known() const noexcept {
    auto known = std::find_if(pieces_.rbegin(), pieces_.rend(),
                              [](const Piece& piece) { return piece.uses > 1; });
    return known == pieces_.rend() ? 0 : known->begin + known->blocks;
  }
  uint8_t uses_at(uint32_t position) const noexcept {
    auto after = std::upper_bound(borders_.begin(), borders_.end(), position);
    return pieces_[static_cast<size_t>(after - borders_.begin()) - 1].uses;
  }

  // The last piece that may still come; none when all are bypassed.
  Piece* last() noexcept {
    if (left_ == 0) return nullptr;
    while (pieces_[last_].begin >= left_) --last_;
    return &pieces_[last_];
  }
  // Answers how many blocks of the last piece that is.
  uint32_t bypass_last() noexcept {
    const uint32_t before = left_;
    left_ = last()->begin;
    return before - left_;
  }

  void entered_to(uint32_t position) noexcept { entered_ = position; }
  // Those that have not entered: visit(uses, blocks).
  template <typename Visit>
  void for_each_bypassed(Visit&& visit) const noexcept {
    for (const Piece& piece : pieces_) {
      const uint32_t begin = std::max(piece.begin, entered_), end = piece.begin + piece.blocks;
      if (begin < end) visit(piece.uses, missing_.subspan(begin, end - begin));
    }
  }

 private:
  std::span<const BlockHash> missing_;
  std::vector<Piece> pieces_;
  std::vector<uint32_t> borders_;  // where they begin
  size_t last_ = 0;                // piece
  uint32_t serial_ = 0;
  uint32_t left_ = 0;     // that are not bypassed
  uint32_t entered_ = 0;  // from the first on
};

}  // namespace kvcore

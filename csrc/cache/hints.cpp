#include "cache/hints.h"

#include <utility>

#include "common/check.h"

namespace kvcore {

void Hints::grow() noexcept {
  brought_by_.grow(table_.record_limit());
  kept_.grow(table_.record_limit());
}

void Hints::use(uint32_t serial, std::span<const SpanId> path, size_t fresh) noexcept {
  if (path.empty()) return;
  grow();
  for (SpanId id : path.first(path.size() - fresh)) {
    if (brought_by_[index_of(id)] != serial) brought_by_[index_of(id)] = 0;
  }
  for (SpanId id : path.last(fresh)) brought_by_[index_of(id)] = serial;
  recent_[serial % kRecent] = {serial, path.back(), table_[path.back()].last_hash};
}

void Hints::split(SpanId head, SpanId tail) noexcept {
  grow();
  brought_by_[index_of(head)] = brought_by_[index_of(tail)];
  kept_[index_of(head)] = kept_[index_of(tail)] > 0 ? 1 : 0;
}

void Hints::remove(SpanId id) noexcept {
  if (index_of(id) < brought_by_.size()) brought_by_[index_of(id)] = 0;
  if (!dismissed_.empty() && dismissed_.back().last == id) {
    dismissed_.back().last = table_[id].parent;
  }
}

SpanId Hints::end_of(uint32_t serial) const noexcept {
  const Recent& recent = recent_[serial % kRecent];
  if (recent.serial != serial || table_[recent.last].length == 0 ||
      table_[recent.last].last_hash != recent.last_hash) {
    return kRootSpan;
  }
  SpanId id = recent.last;
  while (id != kRootSpan && !table_[id].committed()) id = table_[id].parent;
  return id;
}

SpanId Hints::keep(const std::string& name, SpanId last, int64_t until_us) noexcept {
  grow();
  SpanId before = end(name);
  names_[name] = chains_.insert({until_us, ++last_number_, last, name}).first;
  for (SpanId id = last; id != kRootSpan && kept_[index_of(id)]++ == 0; id = table_[id].parent) {
    kept_blocks_ += table_[id].length;
  }
  return before;
}

SpanId Hints::end(const std::string& name) noexcept {
  auto found = names_.find(name);
  if (found == names_.end()) return kRootSpan;
  const SpanId last = found->second->last;
  chains_.erase(found->second);
  names_.erase(found);
  for (SpanId id = last; id != kRootSpan && --kept_[index_of(id)] == 0; id = table_[id].parent) {
    kept_blocks_ -= table_[id].length;
  }
  return last;
}

SpanId Hints::end_lapsed(int64_t now_us) noexcept {
  if (chains_.empty() || chains_.begin()->until_us >= now_us) return kRootSpan;
  return end(chains_.begin()->name);
}

bool Hints::is_dismissed(const Dismissed& of) const noexcept {
  return of.last != kRootSpan && brought_by_[index_of(of.last)] == of.serial;
}

// What is not dismissed any more goes when the list has grown beyond what there can be.
void Hints::dismiss(uint32_t serial) noexcept {
  const Dismissed one{serial, end_of(serial)};
  if (!is_dismissed(one)) return;
  if (dismissed_.size() > 2 * table_.num_spans()) {
    std::erase_if(dismissed_, [this](const Dismissed& of) { return !is_dismissed(of); });
  }
  dismissed_.push_back(one);
}

SpanId Hints::dismissed() noexcept {
  for (size_t i = dismissed_.size(), tries = kTries; i-- > 0 && tries-- > 0;) {
    if (!is_dismissed(dismissed_[i])) {
      dismissed_[i] = dismissed_.back();
      dismissed_.pop_back();
    } else if (table_[dismissed_[i].last].holds == 0) {
      std::swap(dismissed_[i], dismissed_.back());
      return dismissed_.back().last;
    }
  }
  return kRootSpan;
}

size_t Hints::bytes() const noexcept {
  constexpr size_t kNodes = sizeof(Chain) + sizeof(std::string) + 96;  // of both trees
  return brought_by_.bytes() + kept_.bytes() + recent_.size() * sizeof(Recent) +
         chains_.size() * kNodes + dismissed_.capacity() * sizeof(Dismissed);
}

void Hints::check_invariants() const {
  KV_INVARIANT(chains_.size() == names_.size());
  KV_INVARIANT(kept_blocks_ <= max_blocks_);
  std::vector<uint32_t> kept(table_.record_limit());
  uint64_t kept_blocks = 0;
  for (const Chain& chain : chains_) {
    KV_INVARIANT(names_.find(chain.name)->second->number == chain.number);
    for (SpanId id = chain.last; id != kRootSpan && kept[index_of(id)]++ == 0;
         id = table_[id].parent) {
      kept_blocks += table_[id].length;
    }
  }
  KV_INVARIANT(kept_blocks == kept_blocks_);
  for (size_t i = 0; i < kept_.size(); ++i) KV_INVARIANT(kept[i] == kept_[i]);
}

}  // namespace kvcore

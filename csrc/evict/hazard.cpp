#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "common/check.h"
#include "evict/cohorts.h"
#include "evict/ghost_lists.h"
#include "evict/hazard_model.h"
#include "evict/incoming_blocks.h"
#include "evict/policy.h"
#include "evict/ranked_cohorts.h"

namespace kvcore {
namespace {

// What is least worth keeping leaves: each block's chance to be used again, by its age and by what
// its last request was like, is learnt online, and the block with the lowest Gittins index goes
// (hazard_model.h). What comes is bypassed if it is worth less than all that is there.
//
// Blocks with one last user share age, traits and, but for the number of uses, rank; they are a
// cohort. Cohorts, not blocks, age, are learnt from and are ranked. Of each only the deepest
// resident span, if nothing holds it, can be the next to leave, so it alone stands in a heap of
// ranks. When it leaves, the span above takes its place.
//
//   1. A request uses a block once, however often it touches it.
//   2. It continues a session if it holds all blocks of the request that last used the deepest
//      block known to it. Its pace is how many reuses its session has seen beside how many were
//      expected: a frailty, as survival analysis has it.
//   3. Blocks that left are ghosts, at most 4 times as many as the cache has or 65,536 if that is
//      more: they count uses, tell sessions, and are learnt from. What is forgotten counts neither
//      as reused nor as not.
//   4. The ages of cohorts are brought up to date in steps of at most 64 a request, ranks when an
//      age reaches a new bucket, and two more a request, in turn.
//
// A request costs about 26 steps of learning over its life, 300 ns each. Memory: a cohort 112
// bytes and 11 to 32 of index, a ghost 4 to 8 and 43 to 64 a run of them, 95 KiB of weights.
class HazardPolicy final : public EvictionPolicy {
 public:
  HazardPolicy(BlockTable& table, uint32_t num_blocks)
      : table_(table),
        max_ghosts_(std::clamp<uint64_t>(uint64_t{num_blocks} * 4, 65536, uint64_t{1} << 31)),
        cohorts_(num_blocks + max_ghosts_ + 1),  // and that of the request at hand
        ranked_(table, cohorts_, model_),
        ghosts_(max_ghosts_ + num_blocks + kMaxSpanBlocks) {
    ghosts_.tell_forgotten(&forgotten_);
  }

  std::span<const uint32_t> remember(std::span<const SpanId> path,
                                     std::span<const BlockHash> missing,
                                     const Use& use) noexcept override;
  void enter(SpanId id, std::optional<uint32_t> position) noexcept override;
  void touch(std::span<const SpanId> path, const Use& use) noexcept override;
  void finish(const Use& use, uint64_t output_tokens) noexcept override;
  void split(SpanId head_id, SpanId tail_id) noexcept override;
  Victim oldest() noexcept override;
  void evict(SpanId id, uint32_t blocks) noexcept override;
  void withdraw(SpanId id, uint32_t blocks) noexcept override;
  void released(SpanId id) noexcept override;
  size_t bytes() const noexcept override {
    return cohorts_.bytes() + ranked_.bytes() + ghosts_.bytes() + HazardModel::bytes();
  }
  void check_invariants() const override;

 private:
  static constexpr int kAgedARequest = 64;
  static constexpr int kMaxTries = 9;
  static constexpr float kSessionMemory = 0.9F;
  static constexpr float kSessionPrior = 2;

  // Blocks of one cohort that are used again, until the next ones are of another.
  struct Reuse {
    CohortId cohort = kNoCohort;
    size_t use_class = 0;
    uint32_t blocks = 0;
  };

  CohortId cohort_of(const Span& span) const noexcept { return CohortId{span.last_request}; }
  bool begin(std::span<const SpanId> path, const Use& use) noexcept;
  void age(int64_t now_us) noexcept;
  void leave_bucket(CohortId id) noexcept;
  void use(std::span<const SpanId> path) noexcept;
  void recall(std::span<const BlockHash> missing) noexcept;
  void reuse(CohortId id, size_t use_class, uint32_t blocks) noexcept;
  void learn_reuse() noexcept;
  void describe(uint32_t known, uint32_t length, uint32_t sampled) noexcept;
  void forget() noexcept;
  void bury(CohortId id, uint8_t uses, std::span<const BlockHash> run) noexcept;
  void lose(CohortId id, size_t use_class, uint32_t blocks) noexcept;
  void leave(SpanId id) noexcept;

  BlockTable& table_;
  const uint64_t max_ghosts_;
  Cohorts cohorts_;
  HazardModel model_;
  RankedCohorts ranked_;
  std::vector<GhostLists::Forgotten> forgotten_;  // outlives ghosts_
  GhostLists ghosts_;
  int64_t now_us_ = 0;

  // Of the request at hand:
  CohortId current_ = kNoCohort;
  Reuse reuse_;
  Cohort previous_{};        // the last user of the deepest block known, as it was before
  IncomingBlocks incoming_;  // from remember() to touch(); others may touch in between
};

size_t class_of(uint32_t uses) noexcept { return HazardModel::use_class(uses); }

uint8_t one_more(uint8_t uses) noexcept {
  return uses == 255 ? uses : static_cast<uint8_t>(uses + 1);
}

uint8_t log_of(uint32_t count) noexcept {
  return static_cast<uint8_t>(std::min<int>(std::bit_width(count), Traits::kMaxLog));
}

// Half a bit exact.
uint8_t output_of(uint64_t tokens) noexcept {
  if (tokens == 0) return 1;
  tokens = std::min<uint64_t>(tokens, 1 << 15);
  int bits = std::bit_width(tokens) - 1;
  bool upper = tokens * tokens >= uint64_t{2} << (2 * bits);
  return static_cast<uint8_t>(std::min(2 + 2 * bits + upper, 31));
}

// Finds or makes the cohort of the request at hand; answers whether it is new.
bool HazardPolicy::begin(std::span<const SpanId> path, const Use& use) noexcept {
  now_us_ = use.now_us;
  ranked_.set_time(now_us_);
  previous_.request = 0;
  const uint32_t serial = use.request.serial;
  const CohortId before = cohorts_.of(serial);
  if (before != kNoCohort) {
    SpanId leaf = cohorts_[before].leaf;
    if (leaf == kRootSpan || std::find(path.begin(), path.end(), leaf) != path.end()) {
      current_ = before;
      return false;
    }
  }
  age(now_us_);
  ranked_.refresh_some();
  current_ = cohorts_.make(now_us_, serial);
  if (before != kNoCohort) {  // it branches
    cohorts_[current_].traits = cohorts_[before].traits;
    cohorts_[current_].session_hazard = cohorts_[before].session_hazard;
    cohorts_[current_].session_reuses = cohorts_[before].session_reuses;
  }
  cohorts_[current_].traits.kind = static_cast<uint8_t>(use.request.kind_key % Traits::kNumKinds);
  return true;
}

void HazardPolicy::age(int64_t now_us) noexcept {
  int left = kAgedARequest;
  for (int bucket = 0; bucket + 1 < HazardModel::kBuckets; ++bucket) {
    for (CohortId id; left > 0 && (id = cohorts_.due(bucket, now_us)) != kNoCohort; --left) {
      leave_bucket(id);
      if (cohorts_[id].listed) ranked_.rerank(id);
    }
  }
}

// It has grown too old for its bucket, without being used again.
void HazardPolicy::leave_bucket(CohortId id) noexcept {
  Cohort& cohort = cohorts_[id];
  bool deepest = true;  // of the use classes: fewer uses are deeper
  for (size_t i = 0; i < HazardModel::kUseClasses; ++i) {
    uint32_t blocks = cohort.blocks[i];
    if (blocks == 0) continue;
    float hazard = model_.learn(cohort.traits, i, cohort.bucket, false, blocks);
    if (deepest) cohort.hazard -= std::log1p(-std::min(hazard, 0.999F));
    deepest = false;
  }
  cohorts_.advance(id);
}

// The spans of the path get the request at hand as their last user.
void HazardPolicy::use(std::span<const SpanId> path) noexcept {
  for (SpanId id : path) {
    Span& span = table_[id];
    const CohortId before = cohort_of(span);
    if (span.vacant || before == current_) continue;
    if (before != kNoCohort) {
      if (cohorts_[before].leaf == id) {
        ranked_.unlist(before);
        cohorts_[before].leaf = kRootSpan;
      }
      if (cohorts_[before].request == cohorts_[current_].request) {
        lose(before, class_of(span.list), span.length);
      } else {
        reuse(before, class_of(span.list), span.length);
        span.list = one_more(span.list);
      }
    }
    span.last_request = static_cast<uint32_t>(current_);
    cohorts_[current_].blocks[class_of(span.list)] += span.length;
  }
}

void HazardPolicy::reuse(CohortId id, size_t use_class, uint32_t blocks) noexcept {
  if (reuse_.cohort != id || reuse_.use_class != use_class) {
    learn_reuse();
    reuse_ = {id, use_class, 0};
  }
  reuse_.blocks += blocks;
}

void HazardPolicy::learn_reuse() noexcept {
  auto [id, use_class, blocks] = std::exchange(reuse_, {});
  if (blocks == 0) return;
  const int64_t age_us = now_us_ - cohorts_[id].time_us;
  const int bucket = HazardModel::bucket_of(age_us);
  if (cohorts_[id].bucket < bucket) {
    while (cohorts_[id].bucket < bucket) leave_bucket(id);
    if (cohorts_[id].listed) ranked_.rerank(id);
  }
  float hazard = model_.learn(cohorts_[id].traits, use_class, bucket, true, blocks);
  previous_ = cohorts_[id];
  const int64_t start = HazardModel::edge_us(bucket), end = HazardModel::edge_us(bucket + 1);
  const float part =
      static_cast<float>(std::min(age_us, end) - start) / static_cast<float>(end - start);
  previous_.hazard -= std::log1p(-std::min(hazard, 0.999F)) * part;
  lose(id, use_class, blocks);
}

// Looks the missing blocks up among the ghosts.
void HazardPolicy::recall(std::span<const BlockHash> missing) noexcept {
  for (uint32_t i = 0; i < missing.size();) {
    auto hit = ghosts_.take(missing.subspan(i));
    forget();
    if (hit.blocks == 0) {
      incoming_.add(i++, 1, 1);
      continue;
    }
    auto uses = static_cast<uint8_t>(hit.value >> 32);
    CohortId id{static_cast<uint32_t>(hit.value)};
    if (cohorts_[id].request ==
        cohorts_[current_].request) {  // it asks again for what it could not get
      lose(id, class_of(uses), hit.blocks);
    } else {
      reuse(id, class_of(uses), hit.blocks);
      uses = one_more(uses);
    }
    incoming_.add(i, hit.blocks, uses);
    i += hit.blocks;
  }
}

// What the request at hand is like, from the blocks that were known and all that it asks for.
void HazardPolicy::describe(uint32_t known, uint32_t length, uint32_t sampled) noexcept {
  Cohort& cohort = cohorts_[current_];
  Traits& traits = cohort.traits;
  cohort.length = length;
  traits.length = log_of(length * sampled);
  traits.fresh = log_of((length - known) * sampled);
  if (previous_.request == 0) return;
  bool continues = previous_.length == known;
  traits.turn = continues ? std::min<uint8_t>(previous_.traits.turn + 1, Traits::kMaxTurn) : 0;
  cohort.session_hazard =
      continues ? kSessionMemory * (previous_.session_hazard + previous_.hazard) : 0;
  cohort.session_reuses = continues ? kSessionMemory * (previous_.session_reuses + 1) : 0;
  float ratio = (kSessionPrior + cohort.session_reuses) / (kSessionPrior + cohort.session_hazard);
  float pace = std::round(3 * std::log2(ratio)) + Traits::kMaxPace / 2;
  traits.pace = static_cast<uint8_t>(std::clamp(pace, 0.0F, float{Traits::kMaxPace}));
}

std::span<const uint32_t> HazardPolicy::remember(std::span<const SpanId> path,
                                                 std::span<const BlockHash> missing,
                                                 const Use& request) noexcept {
  begin(path, request);
  uint32_t resident = 0;
  size_t unbroken = path.size();
  for (size_t i = 0; i < path.size(); ++i) {
    resident += table_[path[i]].length;
    if (table_[path[i]].vacant) unbroken = std::min(unbroken, i);
  }
  use(path.first(unbroken));  // the rest may not come to be used
  incoming_.start(missing, request.request.serial);
  recall(missing);
  learn_reuse();
  describe(resident + incoming_.known(), resident + static_cast<uint32_t>(missing.size()),
           request.sampled);
  return incoming_.borders();
}

void HazardPolicy::enter(SpanId id, std::optional<uint32_t> position) noexcept {
  Span& span = table_[id];
  span.last_request = static_cast<uint32_t>(kNoCohort);
  if (!position) {
    span.list = one_more(span.list);
    return;
  }
  span.list = incoming_.uses_at(*position);
  incoming_.entered_to(*position + span.length);
}

void HazardPolicy::touch(std::span<const SpanId> path, const Use& request) noexcept {
  bool is_new = begin(path, request);
  use(path);
  learn_reuse();
  if (is_new) {
    uint32_t blocks = 0;
    for (SpanId id : path) blocks += table_[id].length;
    describe(blocks, blocks, request.sampled);
  }
  if (incoming_.are_of(request.request.serial)) {
    incoming_.for_each_bypassed([this](uint8_t uses, std::span<const BlockHash> blocks) {
      cohorts_[current_].blocks[class_of(uses)] += static_cast<uint32_t>(blocks.size());
      bury(current_, uses, blocks);
    });
    incoming_.clear();
  }
  CohortId id = std::exchange(current_, kNoCohort);
  if (cohorts_[id].is_empty()) return cohorts_.free(id);
  if (path.empty()) return;
  ranked_.unlist(id);
  cohorts_[id].leaf = path.back();
  if (table_[path.back()].holds == 0) ranked_.list(id);
}

void HazardPolicy::finish(const Use& use, uint64_t output_tokens) noexcept {
  CohortId id = cohorts_.of(use.request.serial);
  if (id == kNoCohort) return;
  Cohort& cohort = cohorts_[id];
  cohort.traits.output = output_of(output_tokens);
  model_.learn_output(cohort.traits);
  if (cohort.listed) ranked_.rerank(id);
}

void HazardPolicy::split(SpanId head_id, SpanId tail_id) noexcept {
  Span& head = table_[head_id];
  const Span& tail = table_[tail_id];
  head.last_request = tail.last_request;
  head.list = tail.list;
}

EvictionPolicy::Victim HazardPolicy::oldest() noexcept {
  for (int tries = 0; !ranked_.empty();) {
    CohortId id = ranked_.top();
    Cohort& cohort = cohorts_[id];
    const Span& leaf = table_[cohort.leaf];
    if (leaf.holds != 0) {
      ranked_.unlist(id);
      continue;
    }
    if (tries++ < kMaxTries) {
      ranked_.follow(id);
      if (ranked_.top() != id) continue;
    }
    IncomingBlocks::Piece* last = current_ != kNoCohort ? incoming_.last() : nullptr;
    if (last != nullptr) {
      if (last->rank < 0) {
        last->rank = model_.ranks(cohorts_[current_].traits, class_of(last->uses), 0).start;
      }
      if (cohort.rank > last->rank) return {kRootSpan, incoming_.bypass_last()};
    }
    return {cohort.leaf, leaf.length};
  }
  return {};
}

void HazardPolicy::evict(SpanId id, uint32_t blocks) noexcept {
  const Span& span = table_[id];
  if (blocks == span.length) leave(id);
  bury(cohort_of(span), span.list, table_.hashes(id).last(blocks));
}

void HazardPolicy::withdraw(SpanId id, uint32_t blocks) noexcept {
  const Span& span = table_[id];
  if (blocks == span.length) leave(id);
  lose(cohort_of(span), class_of(span.list), blocks);
}

void HazardPolicy::released(SpanId id) noexcept {
  CohortId cohort = cohort_of(table_[id]);
  if (cohorts_[cohort].leaf == id && !cohorts_[cohort].listed) ranked_.list(cohort);
}

// Blocks of a cohort become ghosts.
void HazardPolicy::bury(CohortId id, uint8_t uses, std::span<const BlockHash> run) noexcept {
  const auto fits = static_cast<size_t>(std::min<uint64_t>(run.size(), max_ghosts_));
  ghosts_.add(GhostLists::kFirst, run.first(fits),
              uint64_t{uses} << 32 | static_cast<uint32_t>(id));
  if (fits < run.size()) lose(id, class_of(uses), static_cast<uint32_t>(run.size() - fits));
  const uint64_t ghosts = ghosts_.size(GhostLists::kFirst);
  if (ghosts > max_ghosts_) {
    ghosts_.drop_oldest(GhostLists::kFirst, static_cast<uint32_t>(ghosts - max_ghosts_));
  }
  forget();
}

void HazardPolicy::forget() noexcept {
  for (auto [value, blocks] : forgotten_) {
    lose(CohortId{static_cast<uint32_t>(value)}, class_of(static_cast<uint32_t>(value >> 32)),
         blocks);
  }
  forgotten_.clear();
}

void HazardPolicy::lose(CohortId id, size_t use_class, uint32_t blocks) noexcept {
  Cohort& cohort = cohorts_[id];
  KV_DCHECK(cohort.blocks[use_class] >= blocks);
  cohort.blocks[use_class] -= blocks;
  if (cohort.is_empty() && id != current_) cohorts_.free(id);
}

// A span's last blocks are about to go; if it is its cohort's leaf, the span above becomes it.
void HazardPolicy::leave(SpanId id) noexcept {
  CohortId cohort = cohort_of(table_[id]);
  if (cohorts_[cohort].leaf != id) return;
  ranked_.unlist(cohort);
  SpanId up = table_.above(id);
  cohorts_[cohort].leaf = up != kRootSpan && cohort_of(table_[up]) == cohort ? up : kRootSpan;
}

void HazardPolicy::check_invariants() const {
  ghosts_.check_invariants();
  ranked_.check_invariants();
  KV_INVARIANT(ghosts_.size(GhostLists::kFirst) <= max_ghosts_);
  KV_INVARIANT(current_ == kNoCohort && forgotten_.empty() && reuse_.blocks == 0);
  std::vector<std::array<uint32_t, HazardModel::kUseClasses>> blocks(cohorts_.size());
  std::vector<uint32_t> leaves(cohorts_.size());
  std::vector<bool> has_heir(table_.record_limit());
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    if (span.vacant) return;
    SpanId up = table_.above(id);
    if (cohort_of(table_[up]) == cohort_of(span)) has_heir[index_of(up)] = true;
  });
  table_.for_each([&](SpanId id) {
    const Span& span = table_[id];
    if (span.vacant) return;
    const auto cohort = static_cast<size_t>(cohort_of(span));
    KV_INVARIANT(cohort != 0 && cohorts_[cohort_of(span)].request != 0);
    blocks[cohort][class_of(span.list)] += span.length;
    if (has_heir[index_of(id)]) return;
    KV_INVARIANT(++leaves[cohort] == 1 && cohorts_[cohort_of(span)].leaf == id);
    KV_INVARIANT(span.holds != 0 || cohorts_[cohort_of(span)].listed);
  });
  ghosts_.for_each([&](uint64_t value, uint32_t count) {
    blocks[static_cast<uint32_t>(value)][class_of(static_cast<uint32_t>(value >> 32))] += count;
  });
  size_t listed = 0;
  for (uint32_t i = 1; i < cohorts_.size(); ++i) {
    const Cohort& cohort = cohorts_[CohortId{i}];
    KV_INVARIANT(cohort.request != 0 || cohort.is_empty());
    KV_INVARIANT(cohort.blocks == blocks[i]);
    KV_INVARIANT((cohort.leaf != kRootSpan) == (leaves[i] == 1));
    KV_INVARIANT(cohort.leaf != kRootSpan || !cohort.listed);
    listed += cohort.listed;
  }
  KV_INVARIANT(listed == ranked_.size());
}

}  // namespace

std::unique_ptr<EvictionPolicy> make_hazard(BlockTable& table, uint32_t num_blocks) {
  return std::make_unique<HazardPolicy>(table, num_blocks);
}

}  // namespace kvcore

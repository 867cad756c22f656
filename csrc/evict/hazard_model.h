#pragma once

#include <array>
#include <cstdint>
#include <memory>

namespace kvcore {

// What is known of a request, in a few coarse numbers.
struct Traits {
  static constexpr uint8_t kMaxTurn = 4, kMaxLog = 31, kMaxPace = 20, kNumKinds = 8;

  uint8_t kind = 0;             // digest of RequestInfo::kind, below kNumKinds
  uint8_t output = 0;           // 2 log2 of the tokens of the answer, from 1; 0 while it is unknown
  uint8_t fresh = 0;            // log2 of the blocks that nobody had asked for
  uint8_t length = 0;           // log2 of all blocks
  uint8_t turn = 0;             // requests of its session before it
  uint8_t pace = kMaxPace / 2;  // how much sooner than expected its session came back so far
};

// Learns online how likely blocks are asked for again, by the age of their last use, and ranks them
// by what keeping them is worth.
//
// Ages fall into 26 buckets: the first second, then each 1.6 times as long as the one before. The
// hazard of a bucket, the chance of a reuse in it of what was not reused before, is logistic in
// traits of the last request and the number of uses: a sum of one weight a trait, so that a trait
// is learnt from all requests that have it, however rare their combination. Weights are learnt by
// stochastic gradients with per-weight rates (Duchi, Hazan, Singer, "Adaptive subgradient methods",
// JMLR 2011), whose memory fades, so that they follow a load that changes. A weight acts on one
// bucket, on five neighbours, and on all, at once; so what is learnt of one age helps the others.
// Before anything is learnt the hazard is the same in each bucket but the first, which is longer
// than the second; so it ranks as LRU does.
//
// The rank of blocks is their Gittins index (J. C. Gittins, "Bandit processes and dynamic
// allocation indices", 1979): the best ratio, over all times to keep them at most, of the chance
// that they are reused by then to the time that they are expected to take room.
//
// Owns its weights, about 95 KiB. Deterministic. A few hundred ns a call. Not thread safe.
class HazardModel {
 public:
  static constexpr int kBuckets = 26;
  static constexpr int kUseClasses = 6;  // uses: 1, 2, 3, 4-6, 7-15, more

  HazardModel();

  static size_t use_class(uint32_t uses) noexcept;
  static int bucket_of(int64_t age_us) noexcept;
  static int64_t edge_us(int bucket) noexcept { return kEdges[static_cast<size_t>(bucket)]; }

  // `blocks` blocks that were in a bucket have left it, reused or older; answers the hazard that
  // was expected.
  float learn(const Traits& traits, size_t use_class, int bucket, bool reused,
              uint32_t blocks) noexcept;

  // The answer's length has become known: `traits.output` is what unknown ones look like on
  // average.
  void learn_output(const Traits& traits) noexcept;

  // The ranks at a bucket's start and its end.
  struct Ranks {
    float start, end;
  };
  Ranks ranks(const Traits& traits, size_t use_class, int bucket) const noexcept;

  static constexpr size_t bytes() noexcept { return sizeof(Weights); }

 private:
  static constexpr size_t kGroup = 5;  // neighbours that learn together
  static constexpr size_t kGroups = (kBuckets + kGroup - 1) / kGroup;
  // Places of what acts on each bucket, each group, and all.
  static constexpr size_t kOfGroup = kBuckets, kOfAll = kBuckets + kGroups;
  using Row = std::array<float, (kOfAll + 4) / 4 * 4>;  // whole vectors
  struct Weight {
    Row value{};
    Row squares{};  // of gradients, a fading sum
  };
  struct Weights {
    Weight base;
    Weight uses_turn[kUseClasses][Traits::kMaxTurn + 1];
    Weight uses[kUseClasses];
    Weight fresh[Traits::kMaxLog + 1];
    Weight length[Traits::kMaxLog + 1];
    Weight pace[Traits::kMaxPace + 1];
    Weight output[Traits::kMaxLog + 1];
    Weight kind_output[Traits::kNumKinds][Traits::kMaxLog + 1];
  };
  static const std::array<int64_t, kBuckets + 1> kEdges;
  static const std::array<float, kBuckets> kSeconds;  // lengths of the buckets

  static constexpr size_t kTerms = 8;
  std::array<Weight*, kTerms> terms(const Traits& traits, size_t use_class) const noexcept;

  std::unique_ptr<Weights> weights_;
};

}  // namespace kvcore

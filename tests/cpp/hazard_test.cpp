#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "doctest/doctest.h"
#include "evict/cohorts.h"
#include "evict/hazard_model.h"

namespace kvcore {
namespace {

constexpr int kLast = HazardModel::kBuckets - 1;
using Hazards = std::array<double, HazardModel::kBuckets>;

Traits with_fresh(uint8_t fresh, uint8_t pace = Traits::kMaxPace / 2) {
  Traits traits;
  traits.fresh = fresh;
  traits.pace = pace;
  return traits;
}

// Of no blocks nothing is learnt.
double expected(HazardModel& model, const Traits& traits, int bucket, size_t use_class = 0) {
  return model.learn(traits, use_class, bucket, false, 0);
}

Hazards all_expected(HazardModel& model, const Traits& traits, size_t use_class = 0) {
  Hazards hazards;
  for (int b = 0; b <= kLast; ++b) hazards[b] = expected(model, traits, b, use_class);
  return hazards;
}

double logit(double p) { return std::log(p / (1 - p)); }
double logistic(double x) { return 1 / (1 + std::exp(-x)); }

// Requests whose blocks are reused in each bucket with a chance that `hazard` knows.
class Load {
 public:
  template <typename Hazard>
  void run(HazardModel& model, int lives, const std::vector<Traits>& kinds, Hazard&& hazard) {
    for (int life = 0; life < lives; ++life) {
      const Traits& traits = kinds[random_() % kinds.size()];
      for (int bucket = 0; bucket <= kLast; ++bucket) {
        bool reused = static_cast<double>(random_()) / 0x1p64 < hazard(traits, bucket);
        model.learn(traits, 0, bucket, reused, 1);
        if (reused) break;
      }
    }
  }

 private:
  std::mt19937_64 random_{11};
};

// The best of all times to keep a block at most, each from the definition: the chance of a reuse by
// then over the time that it is expected to take room, where a reuse is in the middle of its
// bucket.
double gittins(const Hazards& hazards, int from) {
  double best = 0;
  for (int until = from; until <= kLast; ++until) {
    double reused = 0, seconds = 0, left = 1;
    auto length = [](int first, int end) {
      return 1e-6 * static_cast<double>(HazardModel::edge_us(end) - HazardModel::edge_us(first));
    };
    for (int b = from; b <= until; ++b) {
      double now = left * hazards[b];
      reused += now;
      seconds += now * (length(from, b) + length(b, b + 1) / 2);
      left -= now;
    }
    best = std::max(best, reused / (seconds + left * length(from, until + 1)));
  }
  return best;
}

TEST_CASE("uses fall into six classes") {
  const std::array<size_t, 17> classes{0, 0, 1, 2, 3, 3, 3, 4, 4, 4, 4, 4, 4, 4, 4, 4, 5};
  for (uint32_t uses = 0; uses < classes.size(); ++uses) {
    CHECK(HazardModel::use_class(uses) == classes[uses]);
  }
  CHECK(HazardModel::use_class(std::numeric_limits<uint32_t>::max()) == 5);
}

TEST_CASE("ages fall into buckets: a second, then each 1.6 times as long, the last without end") {
  CHECK(HazardModel::edge_us(0) == 0);
  CHECK(HazardModel::edge_us(1) == 1'000'000);
  for (int b = 1; b <= kLast; ++b) {
    double growth = static_cast<double>(HazardModel::edge_us(b + 1)) / HazardModel::edge_us(b);
    CHECK(growth == doctest::Approx(1.6).epsilon(1e-6).scale(0));
    CHECK(HazardModel::bucket_of(HazardModel::edge_us(b)) == b);
    CHECK(HazardModel::bucket_of(HazardModel::edge_us(b) - 1) == b - 1);
  }
  CHECK(HazardModel::bucket_of(0) == 0);
  CHECK(HazardModel::bucket_of(HazardModel::edge_us(kLast + 1)) == kLast);
  CHECK(HazardModel::bucket_of(std::numeric_limits<int64_t>::max()) == kLast);
}

TEST_CASE("before anything is learnt all are alike and worth less with age") {
  HazardModel model;
  Traits other{3, 9, 7, 12, 2, 17};
  for (int b = 0; b <= kLast; ++b) {
    CHECK(expected(model, Traits{}, b) ==
          doctest::Approx(b == 0 ? 0.25 : 0.13).epsilon(1e-5).scale(0));
    CHECK(expected(model, other, b, 4) == expected(model, Traits{}, b));
    auto [start, end] = model.ranks(Traits{}, 0, b);
    CHECK(model.ranks(other, 4, b).start == start);
    if (b < kLast) CHECK(end < start);
    if (b < kLast) CHECK(model.ranks(Traits{}, 0, b + 1).start == end);
  }
}

TEST_CASE("hazards move to what is seen, by trait and age") {
  HazardModel model;
  const std::vector<Traits> kinds{with_fresh(1), with_fresh(2), with_fresh(3)};
  auto truth = [](const Traits& traits, int bucket) {
    if (traits.fresh == 3) return 0.02;
    return traits.fresh == 1 ? (bucket < 6 ? 0.3 : 0.05) : (bucket < 6 ? 0.03 : 0.2);
  };
  Load load;
  load.run(model, 30'000, kinds, truth);
  std::array<std::array<double, HazardModel::kBuckets>, 3> mean{};
  constexpr int kLooks = 50;
  for (int look = 0; look < kLooks; ++look) {
    load.run(model, 400, kinds, truth);
    for (size_t k = 0; k < 3; ++k) {
      for (int b = 0; b <= kLast; ++b) mean[k][b] += expected(model, kinds[k], b) / kLooks;
    }
  }
  for (size_t k = 0; k < 3; ++k) {
    for (int b : {1, 3, 4, 7, 8, 12}) {  // inside, where enough blocks come
      CAPTURE(k);
      CAPTURE(b);
      CHECK(mean[k][b] == doctest::Approx(truth(kinds[k], b)).epsilon(0.25).scale(0));
    }
  }
}

TEST_CASE("two traits add up: a pair that was never seen is foretold") {
  HazardModel model;
  auto truth = [](const Traits& traits, int) {
    return logistic(-3 + (traits.fresh == 2 ? 1.2 : 0) + (traits.pace == 15 ? 1.5 : 0));
  };
  const Traits both = with_fresh(2, 15);
  Load load;
  load.run(model, 40'000, {with_fresh(1, 5), with_fresh(2, 5), with_fresh(1, 15)}, truth);
  for (int b : {0, 3, 8}) {
    CAPTURE(b);
    CHECK(expected(model, both, b) == doctest::Approx(truth(both, b)).epsilon(0.15).scale(0));
  }
}

TEST_CASE("each trait tells, and the number of uses") {
  std::array<Traits, 6> others;
  others[0].kind = 1, others[1].output = 9, others[2].fresh = 5;
  others[3].length = 6, others[4].turn = 2, others[5].pace = 13;
  auto check = [](const Traits& often, size_t often_uses) {
    HazardModel model;
    for (int step = 0; step < 1000; ++step) {
      model.learn(often, often_uses, 3, true, 1);
      model.learn(Traits{}, 0, 3, false, 1);
    }
    CHECK(expected(model, often, 3, often_uses) > 0.9);
    CHECK(expected(model, Traits{}, 3) < 0.1);
  };
  for (size_t i = 0; i < others.size(); ++i) {
    CAPTURE(i);
    check(others[i], 0);
  }
  check(Traits{}, 1);
}

TEST_CASE("a trait that was never seen is neutral") {
  HazardModel model;
  const std::vector<Traits> kinds{with_fresh(1), with_fresh(2)};
  Load load;
  load.run(model, 20'000, kinds, [](const Traits& t, int) { return t.fresh == 1 ? 0.02 : 0.4; });
  for (int b : {0, 4, 8}) {
    double unseen = expected(model, with_fresh(9), b);
    CHECK(unseen == expected(model, with_fresh(20), b));
    CHECK(unseen > expected(model, kinds[0], b));
    CHECK(unseen < expected(model, kinds[1], b));
  }
}

TEST_CASE("hazards follow a load that changes") {
  HazardModel model;
  const std::vector<Traits> kind{with_fresh(1)};
  Load load;
  load.run(model, 50'000, kind, [](const Traits&, int) { return 0.3; });
  double before = expected(model, kind[0], 2);
  load.run(model, 5'000, kind, [](const Traits&, int) { return 0.03; });
  double after = expected(model, kind[0], 2);
  CHECK(before == doctest::Approx(0.3).epsilon(0.2).scale(0));
  CHECK(after == doctest::Approx(0.03).epsilon(0.35).scale(0));
}

TEST_CASE("what has been seen for long is unlearnt as quickly as ever") {
  std::vector<double> after;
  for (int steps : {30'000, 1'000'000}) {
    HazardModel model;
    for (int step = 0; step < steps; ++step) model.learn(Traits{}, 0, 2, step % 10 < 3, 1);
    for (int step = 0; step < 200; ++step) model.learn(Traits{}, 0, 2, false, 1);
    after.push_back(expected(model, Traits{}, 2));
  }
  CHECK(after[1] == doctest::Approx(after[0]).epsilon(0.1).scale(0));
}

TEST_CASE("ranks are Gittins indices") {
  HazardModel model;
  std::mt19937_64 random(3);
  Load load;
  for (int round = 0; round < 20; ++round) {
    Hazards truth;
    for (double& hazard : truth) hazard = random() % 3 == 0 ? 0.5 : 0.01;
    Traits traits = with_fresh(static_cast<uint8_t>(round));
    load.run(model, 2'000, {traits}, [&](const Traits&, int b) { return truth[b]; });
    Hazards hazards = all_expected(model, traits);
    for (int b = 0; b <= kLast; ++b) {
      auto [start, end] = model.ranks(traits, 0, b);
      CHECK(start == doctest::Approx(gittins(hazards, b)).epsilon(1e-4).scale(0));
      CHECK(end ==
            doctest::Approx(gittins(hazards, std::min(b + 1, kLast))).epsilon(1e-4).scale(0));
    }
  }
}

TEST_CASE("a rank rises towards an age at which blocks come back") {
  HazardModel model;
  Load load;
  load.run(model, 20'000, {Traits{}}, [](const Traits&, int b) { return b == 12 ? 0.9 : 0.002; });
  auto [start, end] = model.ranks(Traits{}, 0, 10);
  CHECK(end > 1.25 * start);
  CHECK(model.ranks(Traits{}, 0, 14).start < start / 10);
}

TEST_CASE("more hazard is never a lower rank") {
  HazardModel model;
  std::mt19937_64 random(5);
  for (int step = 0; step < 500; ++step) {
    std::array<double, HazardModel::kBuckets> before;
    for (int b = 0; b <= kLast; ++b) before[b] = model.ranks(Traits{}, 2, b).start;
    bool reused = random() % 2 == 0;
    model.learn(Traits{}, 2, static_cast<int>(random() % HazardModel::kBuckets), reused, 20);
    for (int b = 0; b <= kLast; ++b) {
      double change = model.ranks(Traits{}, 2, b).start - before[b];
      CHECK((reused ? change : -change) >= -1e-6 * before[b]);
    }
  }
}

TEST_CASE("an answer of unknown length is like the average one") {
  HazardModel model;
  Traits brief, lengthy, unknown;
  brief.output = 5, lengthy.output = 21;
  auto truth = [](const Traits& t, int) { return t.output == 5 ? 0.3 : 0.02; };
  Load load;
  for (int round = 0; round < 1'000; ++round) {
    load.run(model, 20, {brief, lengthy}, truth);
    for (int i = 0; i < 10; ++i) model.learn_output(i == 0 ? brief : lengthy);
  }
  auto at = [&](const Traits& traits) { return logit(expected(model, traits, 2)); };
  CHECK(at(brief) - at(lengthy) > 2);
  CHECK(at(unknown) == doctest::Approx(0.1 * at(brief) + 0.9 * at(lengthy)).epsilon(0.1).scale(0));
}

TEST_CASE("whatever is learnt, hazards are chances and ranks are finite") {
  for (bool reused : {false, true}) {
    for (uint32_t blocks : {1u, 1u << 31}) {
      CAPTURE(blocks);
      HazardModel model;
      Traits traits{Traits::kNumKinds - 1, Traits::kMaxLog,  Traits::kMaxLog,
                    Traits::kMaxLog,       Traits::kMaxTurn, Traits::kMaxPace};
      for (int step = 0; step < (blocks == 1 ? 100'000 : 1'000'000); ++step) {
        model.learn(traits, 5, step % HazardModel::kBuckets, reused, blocks);
        if (step % 1000 == 0) model.learn_output(traits);
      }
      for (int b = 0; b <= kLast; ++b) {
        double hazard = expected(model, traits, b, 5);
        CHECK((reused ? 1 - hazard : hazard) <= 0.001);
        auto [start, end] = model.ranks(traits, 5, b);
        CHECK(std::isfinite(start));
        CHECK(start >= 0);
        CHECK(std::isfinite(end));
        CHECK(end >= 0);
      }
    }
  }
}

TEST_CASE("a cohort is due at its bucket's end, and not before") {
  Cohorts cohorts(3);
  const int64_t made_us = 5'000'000;
  CohortId id = cohorts.make(made_us, 1);
  for (int b = 0; b < kLast; ++b) {
    int64_t end_us = made_us + HazardModel::edge_us(b + 1);
    CHECK(cohorts.due(b, end_us - 1) == kNoCohort);
    REQUIRE(cohorts.due(b, end_us) == id);
    cohorts.advance(id);
    CHECK(cohorts.due(b, std::numeric_limits<int64_t>::max()) == kNoCohort);
  }
  CHECK(cohorts.due(kLast, std::numeric_limits<int64_t>::max() - 1) == kNoCohort);
}

TEST_CASE("near the last time that there is, a cohort is not yet due") {
  Cohorts cohorts(2);
  const int64_t last_us = std::numeric_limits<int64_t>::max();
  cohorts.make(last_us - 10, 1);
  CHECK(cohorts.due(0, last_us - 5) == kNoCohort);
}

TEST_CASE("cohorts come due in the order of their times, and records are used again") {
  constexpr size_t kMost = 64;
  Cohorts cohorts(kMost);
  std::mt19937_64 random(2);
  std::vector<CohortId> alive;  // the oldest first
  int64_t now_us = 0;
  for (int step = 0; step < 20'000; ++step) {
    now_us += static_cast<int64_t>(random() % 50'000);
    if (alive.size() == kMost || (!alive.empty() && random() % 3 == 0)) {
      auto gone = alive.begin() + static_cast<ptrdiff_t>(random() % alive.size());
      cohorts.free(*gone);
      alive.erase(gone);
    }
    alive.push_back(cohorts.make(now_us, 1));
    auto oldest = std::find_if(alive.begin(), alive.end(),
                               [&](CohortId id) { return cohorts[id].bucket == 0; });
    bool is_due = cohorts[*oldest].time_us + HazardModel::edge_us(1) <= now_us;
    REQUIRE(cohorts.due(0, now_us) == (is_due ? *oldest : kNoCohort));
    if (is_due) cohorts.advance(*oldest);
  }
  CHECK(cohorts.size() <= kMost + 1);
}

}  // namespace
}  // namespace kvcore

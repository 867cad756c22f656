#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "doctest/doctest.h"
#include "store/batch.h"
#include "store/disk_store.h"
#include "store/envelope.h"
#include "store/memory_store.h"
#include "store/slot_index.h"
#include "store/thread_engine.h"

using namespace kvcore;
using namespace std::chrono_literals;

namespace {

constexpr Fingerprint kFingerprint{1, 2, 3};

BlockHash hash_of(uint64_t number) {
  BlockHash hash;
  std::memcpy(hash.bytes.data(), &number, sizeof(number));
  return hash;
}

std::vector<std::byte> value_of(uint64_t number, size_t bytes) {
  std::mt19937_64 random(number);
  std::vector<std::byte> value(bytes);
  for (std::byte& byte : value) byte = static_cast<std::byte>(random());
  return value;
}

Batch::Clock::time_point soon() { return Batch::Clock::now() + 30s; }

// A directory that goes with its test.
class Directory {
 public:
  Directory() {
    std::string name = std::filesystem::temp_directory_path() / "kvcore-test-XXXXXX";
    REQUIRE(mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~Directory() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Several threads put and get the same few values; nobody sees another one's bytes.
void play(Store& store, size_t value_bytes) {
  auto work = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    std::vector<std::byte> memory(4 * value_bytes);
    for (int step = 0; step < 100; ++step) {
      std::vector<BlockHash> keys;
      std::vector<std::byte*> places;
      std::vector<uint64_t> numbers;
      for (size_t i = 0; i < 4; ++i) {
        numbers.push_back(random() % 12);
        keys.push_back(hash_of(numbers[i]));
        places.push_back(memory.data() + i * value_bytes);
        std::ranges::copy(value_of(numbers[i], value_bytes), places[i]);
      }
      const std::vector<const std::byte*> sources(places.begin(), places.end());
      auto put = store.put_from(keys, sources, soon());
      put->wait();
      REQUIRE(put->wait_quiet(soon()));
      std::ranges::fill(memory, std::byte{0});
      auto batch = store.get_into(keys, places, soon());
      batch->wait();
      REQUIRE(batch->wait_quiet(soon()));
      const auto outcomes = batch->outcomes();
      for (size_t i = 0; i < 4; ++i) {
        if (outcomes[i] != Outcome::kDone) continue;
        const auto expected = value_of(numbers[i], value_bytes);
        REQUIRE(std::equal(expected.begin(), expected.end(), places[i]));
      }
      if (step % 10 == 0) store.remove(std::span(keys).first(1), soon());
    }
  };
  std::vector<std::jthread> threads;
  for (uint64_t seed = 0; seed < 3; ++seed) threads.emplace_back(work, seed);
}

}  // namespace

TEST_CASE("an envelope verifies its value and no other") {
  std::array<std::byte, kEnvelopeBytes> envelope;
  std::vector<std::byte> value = value_of(7, 1000);
  seal(envelope, kFingerprint, hash_of(7), value);
  BlockHash hash;
  CHECK(read_envelope(envelope, kFingerprint, 1000, hash));
  CHECK(hash == hash_of(7));
  CHECK(verify(envelope, kFingerprint, hash_of(7), value));
  CHECK_FALSE(verify(envelope, kFingerprint, hash_of(8), value));
  CHECK_FALSE(verify(envelope, Fingerprint{}, hash_of(7), value));
  CHECK_FALSE(verify(envelope, kFingerprint, hash_of(7), std::span(value).first(999)));
  for (size_t bit = 0; bit < 8 * envelope.size(); ++bit) {
    envelope[bit / 8] ^= std::byte{1} << (bit % 8);
    CHECK_FALSE(read_envelope(envelope, kFingerprint, 1000, hash));
    CHECK_FALSE(verify(envelope, kFingerprint, hash_of(7), value));
    envelope[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  for (size_t bit = 0; bit < 8 * value.size(); ++bit) {
    value[bit / 8] ^= std::byte{1} << (bit % 8);
    CHECK_FALSE(verify(envelope, kFingerprint, hash_of(7), value));
    value[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

TEST_CASE("random bytes are no envelope") {
  for (uint64_t seed = 0; seed < 10'000; ++seed) {
    const auto bytes = value_of(seed, kEnvelopeBytes);
    BlockHash hash;
    CHECK_FALSE(
        read_envelope(ConstEnvelopeSpan(bytes.data(), kEnvelopeBytes), kFingerprint, 1000, hash));
  }
}

// What is on disks today must be understood tomorrow.
TEST_CASE("the bytes of an envelope stay") {
  std::array<std::byte, kEnvelopeBytes> envelope;
  seal(envelope, kFingerprint, hash_of(0x0102030405060708), std::array{std::byte{'k'}});
  std::string hex;
  for (std::byte byte : envelope) {
    char digits[3];
    std::snprintf(digits, sizeof(digits), "%02x", static_cast<unsigned>(byte));
    hex += digits;
  }
  CHECK(hex ==
        "6b76636f7265010a0100000080000000010203000000000000000000000000000807060504030201"
        "0000000000000000010000000000000004c37d9993e28be6a921e3704fda881d0100000000000000"
        "000000000000000000000000000000000000000000000000000000000000000023d72f6adebbf07c"
        "f8550b290318db58");
}

TEST_CASE("a batch is decided once, and quiet when its memory is back") {
  Batch batch(3, soon());
  CHECK(batch.is_wanted(0));
  CHECK(batch.decide(0, Outcome::kDone) == Outcome::kDone);
  CHECK(batch.decide(0, Outcome::kMiss) == Outcome::kDone);
  CHECK_FALSE(batch.is_wanted(0));
  batch.cancel();
  CHECK(batch.decide(1, Outcome::kDone) == Outcome::kCancelled);
  CHECK(batch.outcomes() == std::vector{Outcome::kDone, Outcome::kCancelled, Outcome::kCancelled});
  CHECK_FALSE(batch.is_quiet());
  batch.let_go(2);
  CHECK_FALSE(batch.wait_quiet(Batch::Clock::now()));
  batch.let_go();
  CHECK(batch.wait_quiet(Batch::Clock::now()));
  batch.wait();
}

TEST_CASE("a batch is decided at its deadline, whoever asks") {
  Batch batch(2, Batch::Clock::now());
  CHECK_FALSE(batch.is_wanted(0));
  CHECK(batch.decide(0, Outcome::kDone) == Outcome::kTimedOut);
  CHECK(batch.outcomes() == std::vector{Outcome::kTimedOut, Outcome::kTimedOut});
  CHECK_FALSE(batch.is_quiet());
}

TEST_CASE("a slot that is taken goes to nobody else") {
  SlotIndex index(2);
  const auto a = index.begin_write(hash_of(1)), b = index.begin_write(hash_of(2));
  REQUIRE(a);
  REQUIRE(b);
  CHECK_FALSE(a->is_used);
  CHECK_FALSE(index.begin_write(hash_of(3)));
  CHECK(index.is_known(hash_of(1)));
  CHECK_FALSE(index.contains(hash_of(1)));
  CHECK_FALSE(index.begin_read(hash_of(1)));
  CHECK_FALSE(index.end_write(a->slot, true));
  CHECK_FALSE(index.end_write(b->slot, false));
  CHECK(index.num_values() == 1);
  CHECK(index.begin_read(hash_of(1)) == a->slot);
  const auto c = index.begin_write(hash_of(3));
  REQUIRE(c);
  CHECK(c->is_used);
  CHECK_FALSE(index.begin_write(hash_of(4)));  // one is read, the other written
  CHECK_FALSE(index.remove(hash_of(1)));       // later
  CHECK_FALSE(index.contains(hash_of(1)));
  CHECK_FALSE(index.begin_write(hash_of(4)));
  CHECK(index.end_read(a->slot));
  CHECK_FALSE(index.begin_write(hash_of(4)));
  index.end_wipe(a->slot);
  CHECK(index.begin_write(hash_of(4))->slot == a->slot);
}

TEST_CASE("a late reader of what was condemned takes nothing from who came after it") {
  SlotIndex index(2);
  const uint32_t old = index.begin_write(hash_of(1))->slot;
  index.end_write(old, true);
  index.begin_read(hash_of(1));
  index.begin_read(hash_of(1));
  index.condemn(old);
  CHECK_FALSE(index.end_read(old));
  index.end_write(index.begin_write(hash_of(1))->slot, true);
  index.condemn(old);
  CHECK(index.end_read(old));
  CHECK(index.contains(hash_of(1)));
  CHECK(index.num_values() == 1);
  index.end_wipe(old);
  CHECK(index.begin_write(hash_of(2))->slot == old);
}

TEST_CASE("memory behind a device that hangs comes back") {
  class Hanging final : public SlotStore {
   public:
    Hanging() : SlotStore(kFingerprint, 8, 8, 4) {
      open(std::make_unique<ThreadEngine>(*this, 1, [this](uint32_t, const SlotTask& task) {
        if (task.kind == SlotTask::Kind::kRead) hangs_.wait(true);
        return Outcome::kDone;
      }));
    }
    ~Hanging() override {
      go_on();
      close();
    }
    void go_on() {
      hangs_ = false;
      hangs_.notify_all();
    }

   private:
    std::atomic<bool> hangs_{true};
  };
  Hanging store;
  std::array<std::byte, 32> memory{};
  const std::vector keys{hash_of(1), hash_of(2), hash_of(3)};
  const std::vector<const std::byte*> sources(3, memory.data());
  auto put = store.put_from(keys, sources, soon());
  REQUIRE(put->wait_quiet(soon()));
  const auto late = Batch::Clock::now() + std::chrono::milliseconds(20);
  auto first = store.get_into(std::vector{keys[0]}, std::vector{memory.data()}, late);
  auto second = store.get_into(std::vector{keys[1], keys[2]},
                               std::vector{memory.data() + 8, memory.data() + 16}, late);
  first->wait();
  second->wait();
  CHECK(second->outcomes() == std::vector(2, Outcome::kTimedOut));
  CHECK(store.match(keys) == 3);
  CHECK(second->is_quiet());
  CHECK_FALSE(first->is_quiet());
  store.go_on();
  CHECK(first->wait_quiet(soon()));
}

TEST_CASE("what was used gets a second chance") {
  SlotIndex index(3);
  for (uint64_t i = 0; i < 3; ++i) index.end_write(index.begin_write(hash_of(i))->slot, true);
  index.end_read(*index.begin_read(hash_of(0)));
  index.end_write(index.begin_write(hash_of(3))->slot, true);
  CHECK(index.contains(hash_of(0)));
  CHECK_FALSE(index.contains(hash_of(1)));
  CHECK(index.evictions() == 1);
}

// Wherever a process is killed while it writes B over A, the next one has A, B or nothing, whole.
TEST_CASE("a write that stops leaves whole values only") {
  constexpr size_t kBytes = 10'000;
  const auto a = value_of(1, kBytes), b = value_of(2, kBytes);
  for (uint32_t steps = 0; steps <= 3; ++steps) {
    Directory directory;
    const DiskStoreOptions options{.path = directory.path(),
                                   .fingerprint = kFingerprint,
                                   .value_bytes = kBytes,
                                   .max_bytes = DiskFiles::slot_bytes_of(kBytes)};
    {
      DiskStore store(options);
      store.put_from(std::array{hash_of(1)}, std::array{a.data()}, soon())->wait();
    }
    {
      DiskFiles files(directory.path(), kFingerprint, kBytes, options.max_bytes, false);
      DiskOperation operation(files, kFingerprint, kBytes, false);
      std::vector<std::byte> memory = b;
      operation.begin({.kind = SlotTask::Kind::kWrite,
                       .is_used = true,
                       .slot = 0,
                       .hash = hash_of(2),
                       .memory = memory.data()});
      int64_t result = 0;
      for (uint32_t step = 0; step < steps; ++step) {
        const DiskOperation::Io* io = operation.next(result);
        REQUIRE(io != nullptr);
        result = pwritev(io->fd, io->parts.data(), static_cast<int>(io->num_parts),
                         static_cast<off_t>(io->offset));
        REQUIRE(result == static_cast<int64_t>(io->bytes()));
      }
    }
    DiskStore store(options);
    const std::array keys{hash_of(1), hash_of(2)};
    std::vector<std::byte> first(kBytes), second(kBytes);
    auto batch = store.get_into(keys, std::array{first.data(), second.data()}, soon());
    batch->wait();
    const auto miss = Outcome::kMiss, done = Outcome::kDone;
    CHECK(batch->outcomes() == std::vector{steps == 0 ? done : miss, steps == 3 ? done : miss});
    if (steps == 0) CHECK(first == a);
    if (steps == 3) CHECK(second == b);
    CHECK(store.stats().corrupt == 0);
  }
}

TEST_CASE("threads share a store in memory") {
  MemoryStore store(kFingerprint, 500, 8 * 628);
  play(store, 500);
  const StoreStats stats = store.stats();
  CHECK(stats.num_values <= 8);
  CHECK(stats.corrupt == 0);
}

TEST_CASE("threads share a store on disk") {
  for (DiskIo io : {DiskIo::kThreads, DiskIo::kAuto}) {
    Directory directory;
    DiskStoreOptions options{.path = directory.path(),
                             .fingerprint = kFingerprint,
                             .value_bytes = 500,
                             .max_bytes = 8 * 8192,
                             .depth = 4,
                             .io = io};
    {
      DiskStore store(options);
      play(store, 500);
      CHECK(store.stats().corrupt == 0);
    }
    DiskStore store(options);
    CHECK(store.stats().num_values <= 8);
  }
}

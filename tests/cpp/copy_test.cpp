#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#include "copy/copy_pool.h"
#include "copy/host_paths.h"
#include "doctest/doctest.h"

using namespace kvcore;
using namespace std::chrono_literals;

namespace {

struct Memory {
  std::vector<std::byte> paged;
  std::vector<std::byte> slab;
  std::shared_ptr<const TransferPlan> plan;
};

constexpr uint32_t kLayers = 3, kPlanes = 6, kBlocks = 11;

// Every byte of memory is part of the copy, so that a sanitizer sees one too many.
Memory new_memory(uint64_t run_bytes, uint32_t copied, uint64_t seed) {
  Memory memory;
  std::mt19937_64 random(seed);
  memory.paged.resize(kPlanes * kBlocks * run_bytes);
  memory.slab.resize(kBlocks * kPlanes * run_bytes);
  for (std::byte& byte : memory.paged) byte = static_cast<std::byte>(random());
  std::vector<uint64_t> bases;
  for (uint64_t plane = 0; plane < kPlanes; ++plane) {
    bases.push_back(reinterpret_cast<uint64_t>(memory.paged.data()) + plane * kBlocks * run_bytes);
  }
  std::vector<uint32_t> ids(kBlocks), places(kBlocks);
  std::iota(ids.begin(), ids.end(), 0);
  std::iota(places.begin(), places.end(), 0);
  std::shuffle(ids.begin(), ids.end(), random);
  std::shuffle(places.begin(), places.end(), random);
  ids.resize(copied);
  places.resize(copied);
  memory.plan = std::make_shared<const TransferPlan>(
      PagedLayout(bases, kLayers, kBlocks, run_bytes, run_bytes),
      SlabSpan{reinterpret_cast<uint64_t>(memory.slab.data()), kPlanes * run_bytes, kBlocks}, ids,
      places);
  return memory;
}

std::vector<std::byte> gathered(const Memory& memory) {
  std::vector<std::byte> slab(memory.slab.size());
  const CopyView view = memory.plan->view();
  for (uint32_t i = 0; i < view.num_blocks; ++i) {
    for (uint32_t plane = 0; plane < view.num_planes; ++plane) {
      const Run run = run_of(view, i, plane);
      std::memcpy(slab.data() + (run.slab - view.slab), reinterpret_cast<void*>(run.paged),
                  view.run_bytes);
    }
  }
  return slab;
}

// Whether the slab has all of a layer, while others may be on their way.
bool is_there(const Memory& memory, const std::vector<std::byte>& expected, uint32_t layer) {
  const CopyView view = memory.plan->view(layer, 1), all = memory.plan->view();
  for (uint32_t i = 0; i < view.num_blocks; ++i) {
    const auto* slab = reinterpret_cast<const std::byte*>(run_of(view, i, 0).slab);
    const uint64_t at = run_of(view, i, 0).slab - all.slab;
    if (std::memcmp(slab, expected.data() + at, view.num_planes * view.run_bytes) != 0)
      return false;
  }
  return true;
}

}  // namespace

TEST_CASE("every path copies every byte, and none beside") {
  for (const HostPath& path : native_paths()) {
    for (uint64_t run_bytes : {1, 31, 64, 65, 127, 640, 4096, 16'384, 16'447, 70'001}) {
      for (uint32_t copied : {1u, 3u, 4u, 7u, kBlocks}) {
        for (bool streamed : {false, true}) {
          Memory memory = new_memory(run_bytes, copied, run_bytes);
          const auto expected = gathered(memory);
          const uint64_t bytes = memory.plan->bytes();
          const uint64_t middle = bytes / 3;
          const CopyView view = memory.plan->view();
          copy_on_host(path, view, Direction::kGather, 0, middle, streamed);
          copy_on_host(path, view, Direction::kGather, middle, bytes, streamed);
          REQUIRE(memory.slab == expected);
          const auto before = memory.paged;
          for (uint32_t i = 0; i < view.num_blocks; ++i) {
            for (uint32_t plane = 0; plane < view.num_planes; ++plane) {
              std::memset(reinterpret_cast<void*>(run_of(view, i, plane).paged), 0, run_bytes);
            }
          }
          copy_on_host(path, view, Direction::kScatter, 0, bytes, streamed);
          REQUIRE(memory.paged == before);
        }
      }
    }
  }
}

TEST_CASE("threads copy layer after layer") {
  CopyPool pool(3);
  std::vector<std::jthread> users;
  for (uint64_t user = 0; user < 3; ++user) {
    users.emplace_back([&pool, user] {
      for (uint64_t step = 0; step < 20; ++step) {
        Memory memory = new_memory(50'000, kBlocks, 100 * user + step);
        const auto expected = gathered(memory);
        const auto job = pool.start(memory.plan, Direction::kGather);
        for (uint32_t layer = 0; layer < kLayers; ++layer) {
          REQUIRE(job->wait_layer(layer, CopyJob::Clock::now() + 30s));
          REQUIRE(is_there(memory, expected, layer));
        }
        REQUIRE(job->wait(CopyJob::Clock::now() + 30s));
        REQUIRE_FALSE(job->has_failed());
        REQUIRE(memory.slab == expected);
      }
    });
  }
}

TEST_CASE("a cancelled copy is under way as long as a thread copies") {
  Memory memory = new_memory(50'000, kBlocks, 1);
  CopyJob job(memory.plan, Direction::kGather, 1);
  uint64_t part;
  REQUIRE(job.begin_part(part));
  job.cancel();
  CHECK_FALSE(job.is_done());
  CHECK_FALSE(job.has_failed());
  CHECK_FALSE(job.begin_part(part));
  job.copy_part(host_path(), part);
  CHECK(job.is_done());
  CHECK(job.has_failed());
}

TEST_CASE("threads let go of what is cancelled") {
  for (int step = 0; step < 50; ++step) {
    Memory memory = new_memory(50'000, kBlocks, 1);
    CopyPool pool(2);
    const auto job = pool.start(memory.plan, Direction::kGather);
    if (step % 2 == 0) job->cancel();
    if (step % 3 == 0) REQUIRE(job->wait(CopyJob::Clock::now() + 30s));
  }
}

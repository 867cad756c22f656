#include "copy/cuda/cuda_transfer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "doctest/doctest.h"
#include "fake_cuda/fake_cuda.h"

// The host code of device copies, over a device that does its work as late and in as strange an
// order as streams and events allow.
namespace kvcore {
namespace {

using Bytes = std::vector<uint8_t>;
constexpr uint32_t kSeeds = 20;

struct Shape {
  uint32_t num_layers = 4;
  uint32_t planes_a_layer = 2;
  uint32_t run_bytes = 4096;
  uint32_t num_blocks = 5;
  uint32_t slab_gap = 0;
  cudaMemoryType slab = cudaMemoryTypeHost;
};
// More chunks than the ring has slots.
constexpr Shape kLarge{.num_layers = 3, .run_bytes = 1 << 20, .num_blocks = 13, .slab_gap = 64};

class Memory {
 public:
  explicit Memory(const Shape& shape, uint32_t seed) : shape_(shape), random_(seed) {
    fake_cuda::reset(seed);
    const uint32_t paged_blocks = shape.num_blocks + 2, slab_blocks = shape.num_blocks + 1;
    const uint64_t plane_bytes = uint64_t{paged_blocks} * shape.run_bytes;
    paged = random_bytes(num_planes() * plane_bytes);
    slab = random_bytes(slab_blocks * slab_stride());
    fake_cuda::place(paged.data(), paged.size(), cudaMemoryTypeDevice);
    fake_cuda::place(slab.data(), slab.size(), shape.slab);
    for (uint32_t plane = 0; plane < num_planes(); ++plane) {
      bases_.push_back(reinterpret_cast<uint64_t>(paged.data()) + plane * plane_bytes);
    }
    paged_ids_ = shuffled(paged_blocks);
    slab_ids_ = shuffled(slab_blocks);
  }
  // Work that is left would come back to this memory.
  ~Memory() { fake_cuda::run_all(); }

  std::unique_ptr<CudaTransfer> transfer(std::optional<DevicePath> path) {
    const auto paged_blocks = static_cast<uint32_t>(paged_ids_.size());
    PagedLayout layout(bases_, shape_.num_layers, paged_blocks, shape_.run_bytes, shape_.run_bytes);
    const SlabSpan span{reinterpret_cast<uint64_t>(slab.data()), slab_stride(),
                        static_cast<uint32_t>(slab_ids_.size())};
    auto first = [&](const std::vector<uint32_t>& ids) {
      return std::span(ids).first(shape_.num_blocks);
    };
    return std::make_unique<CudaTransfer>(
        std::make_shared<CudaDevice>(0),
        TransferPlan(std::move(layout), span, first(paged_ids_), first(slab_ids_)), path, 0);
  }

  // Whether some layers agree in both memories.
  bool agree(uint32_t first_layer, uint32_t num_layers) const {
    const uint32_t first_plane = first_layer * shape_.planes_a_layer;
    for (uint32_t i = 0; i < shape_.num_blocks; ++i) {
      for (uint32_t plane = first_plane; plane < first_plane + num_layers * shape_.planes_a_layer;
           ++plane) {
        const auto* in_paged = reinterpret_cast<const uint8_t*>(bases_[plane]) +
                               uint64_t{paged_ids_[i]} * shape_.run_bytes;
        const auto* in_slab =
            slab.data() + slab_ids_[i] * slab_stride() + uint64_t{plane} * shape_.run_bytes;
        if (std::memcmp(in_paged, in_slab, shape_.run_bytes) != 0) return false;
      }
    }
    return true;
  }
  bool agree() const { return agree(0, shape_.num_layers); }

  Bytes random_bytes(uint64_t size) {
    Bytes bytes(size);
    const uint64_t first = std::min<uint64_t>(size, 1 << 16);
    for (uint64_t i = 0; i < first; ++i) bytes[i] = static_cast<uint8_t>(random_());
    // Repeated, each time by one place further.
    for (uint64_t i = first; i < size; i += first) {
      std::copy_n(bytes.begin(), std::min(first, size - i), bytes.begin() + static_cast<long>(i));
      bytes[i] = static_cast<uint8_t>(i >> 16);
    }
    return bytes;
  }

  Bytes paged;
  Bytes slab;

 private:
  uint32_t num_planes() const { return shape_.num_layers * shape_.planes_a_layer; }
  uint64_t slab_stride() const {
    return uint64_t{num_planes()} * shape_.run_bytes + shape_.slab_gap;
  }
  std::vector<uint32_t> shuffled(uint32_t count) {
    std::vector<uint32_t> ids(count);
    for (uint32_t i = 0; i < count; ++i) ids[i] = i;
    std::ranges::shuffle(ids, random_);
    return ids;
  }

  Shape shape_;
  std::mt19937 random_;
  std::vector<uint64_t> bases_;
  std::vector<uint32_t> paged_ids_;
  std::vector<uint32_t> slab_ids_;
};

constexpr std::array kPaths = {DevicePath::kLoadStore, DevicePath::kBulk, DevicePath::kBatch,
                               DevicePath::kStaged};

cudaStream_t new_stream() {
  cudaStream_t stream = nullptr;
  cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  return stream;
}

bool wait_long(const CudaHandle& handle) {
  return handle.wait(std::chrono::steady_clock::now() + std::chrono::minutes(1));
}

TEST_CASE("device copies take their place in the order of a stream") {
  for (DevicePath path : kPaths) {
    for (uint32_t seed = 0; seed < kSeeds; ++seed) {
      Memory memory({}, seed);
      auto transfer = memory.transfer(path);
      const cudaStream_t stream = seed % 3 == 0 ? nullptr : new_stream();
      const Bytes other = memory.random_bytes(memory.paged.size());
      bool gathered = false, scattered = false;
      fake_cuda::enqueue(stream, [&] { memory.paged = other; });
      transfer->copy(Direction::kGather, stream, 1 + seed % 4);
      fake_cuda::enqueue(stream, [&] {
        gathered = memory.agree() && memory.paged == other;
        std::ranges::fill(memory.paged, 0);
      });
      const auto handle = transfer->copy(Direction::kScatter, stream, 1 + seed % 5);
      fake_cuda::enqueue(stream, [&] { scattered = memory.agree(); });
      REQUIRE(wait_long(*handle));
      CHECK(handle->is_done());
      fake_cuda::run_all();
      CHECK(gathered);
      CHECK(scattered);
    }
  }
}

TEST_CASE("staged copies go round their ring") {
  for (Direction direction : {Direction::kGather, Direction::kScatter}) {
    for (uint32_t layers_a_step : {1u, 2u, 3u}) {
      Memory memory(kLarge, layers_a_step);
      auto transfer = memory.transfer(DevicePath::kStaged);
      CHECK(wait_long(*transfer->copy(direction, new_stream(), layers_a_step)));
      CHECK(memory.agree());
    }
  }
}

TEST_CASE("staged copies on several streams follow one another") {
  for (Direction first_way : {Direction::kGather, Direction::kScatter}) {
    for (uint32_t seed = 0; seed < 3; ++seed) {
      Memory memory(kLarge, seed);
      auto transfer = memory.transfer(DevicePath::kStaged);
      const Bytes before = first_way == Direction::kGather ? memory.paged : memory.slab;
      const auto first = transfer->copy(first_way, new_stream(), 3);
      const auto second = transfer->copy(Direction::kGather, new_stream(), 1);
      CHECK(wait_long(*second));
      CHECK(first->is_done());
      CHECK(memory.agree());
      CHECK((first_way == Direction::kGather ? memory.paged : memory.slab) == before);
    }
  }
}

TEST_CASE("a stream that is held by a layer finds it in place") {
  for (DevicePath path : kPaths) {
    for (uint32_t seed = 0; seed < kSeeds; ++seed) {
      const Shape shape;
      Memory memory(shape, seed);
      auto transfer = memory.transfer(path);
      const auto way = seed % 2 == 0 ? Direction::kGather : Direction::kScatter;
      const uint32_t layers_a_step = 1 + seed % 3;
      const auto handle = transfer->copy(way, new_stream(), layers_a_step);
      const cudaStream_t reader = new_stream();
      uint32_t right = 0;
      for (uint32_t layer = 0; layer < shape.num_layers; ++layer) {
        handle->hold(reader, layer);
        fake_cuda::enqueue(reader, [&, layer] { right += memory.agree(layer, 1) ? 1 : 0; });
      }
      const auto soon = std::chrono::steady_clock::now() + std::chrono::minutes(1);
      CHECK(handle->wait_layer(seed % shape.num_layers, soon));
      CHECK(memory.agree(seed % shape.num_layers, 1));
      fake_cuda::run_all();
      CHECK(right == shape.num_layers);
    }
  }
}

TEST_CASE("a graph replays the copies that it captured") {
  for (const Shape& shape : {Shape{}, kLarge}) {
    for (DevicePath path : kPaths) {
      Memory memory(shape, 3);
      auto transfer = memory.transfer(path);
      // What is under way when the capture begins is no part of it.
      const auto before = transfer->copy(Direction::kScatter, new_stream(), 1);
      const cudaStream_t stream = new_stream();
      bool gathered = false;
      fake_cuda::begin_capture(stream);
      const auto handle = transfer->copy(Direction::kGather, stream, 2);
      fake_cuda::enqueue(stream, [&] {
        gathered = memory.agree();
        std::ranges::fill(memory.paged, 0);
      });
      handle->hold(stream, 0);
      transfer->copy(Direction::kScatter, stream, 3);
      fake_cuda::end_capture(stream);
      CHECK(wait_long(*before));
      fake_cuda::run_all();
      for (uint8_t byte : {1, 2}) {
        gathered = false;
        std::ranges::for_each(memory.paged, [=](uint8_t& old) { old ^= byte; });
        fake_cuda::replay();
        CHECK(gathered);
        CHECK(memory.agree());
      }
      CHECK_THROWS_AS(handle->is_done(), CudaError);
      CHECK(wait_long(*transfer->copy(Direction::kGather, new_stream(), 1)));
    }
  }
}

TEST_CASE("a transfer that dies waits for all that it has under way") {
  for (DevicePath path : kPaths) {
    for (uint32_t seed = 0; seed < kSeeds; ++seed) {
      Memory memory({}, seed);
      auto transfer = memory.transfer(path);
      // Nobody keeps the handles, and the last copy may be done long before the first, whose stream
      // is slow.
      const cudaStream_t slow = new_stream();
      int steps = 0;
      for (int i = 0; i < 30; ++i) fake_cuda::enqueue(slow, [&] { ++steps; });
      transfer->copy(Direction::kGather, slow, 2);
      for (int i = 0; i < 3; ++i) transfer->copy(Direction::kGather, new_stream(), 2);
      transfer.reset();
      CHECK(steps == 30);
      CHECK(memory.agree());
    }
  }
}

TEST_CASE("copies in the long run make no new events") {
  for (DevicePath path : kPaths) {
    Memory memory({}, 1);
    auto transfer = memory.transfer(path);
    size_t early = 0;
    for (int round = 0; round < 100; ++round) {
      wait_long(*transfer->copy(Direction::kGather, nullptr, 1));
      if (round == 9) early = fake_cuda::num_events();
    }
    CHECK(fake_cuda::num_events() == early);
  }
}

TEST_CASE("a copy that is not over is told so") {
  Memory memory({}, 1);
  auto transfer = memory.transfer(std::nullopt);
  const cudaStream_t stream = new_stream();
  fake_cuda::stop(stream);
  const auto handle = transfer->copy(Direction::kGather, stream, 1);
  CHECK(!handle->is_done());
  CHECK(!handle->wait(std::chrono::steady_clock::now()));
  CHECK(!handle->wait_layer(0, std::chrono::steady_clock::now()));
  fake_cuda::go_on(stream);
  CHECK(wait_long(*handle));
}

TEST_CASE("the copy engine gets a batch, or one copy after another from an old driver") {
  for (bool known : {true, false}) {
    Memory memory({}, 3);
    fake_cuda::set_batch_calls(known);
    auto transfer = memory.transfer(DevicePath::kBatch);
    CHECK(wait_long(*transfer->copy(Direction::kGather, new_stream(), 1)));
    CHECK(memory.agree());
    CHECK(fake_cuda::num_batch_calls() == (known ? 4 : 0));
  }
}

TEST_CASE("nothing to copy is done at once") {
  Memory memory({.num_blocks = 0}, 1);
  for (auto path : {std::optional<DevicePath>(), std::optional(DevicePath::kStaged)}) {
    auto transfer = memory.transfer(path);
    CHECK(wait_long(*transfer->copy(Direction::kScatter, new_stream(), 1)));
  }
}

TEST_CASE("memory in the wrong place and paths that cannot are refused") {
  auto check = [](const Shape& shape, std::optional<DevicePath> path, const char* message) {
    Memory memory(shape, 1);
    CHECK_THROWS_WITH_AS(memory.transfer(path), message, std::invalid_argument);
  };
  check({.slab = cudaMemoryTypeUnregistered}, std::nullopt,
        "slab must lie in the memory of CUDA device 0 or in pinned host memory, "
        "got host memory that is not pinned");
  check({.slab = cudaMemoryTypeManaged}, std::nullopt,
        "slab must lie in the memory of CUDA device 0 or in pinned host memory, "
        "got managed memory");
  check({.slab = cudaMemoryTypeDevice}, DevicePath::kStaged,
        "path must be one that can do this copy, got 'staged', which needs a slab in pinned host "
        "memory");
  check({.run_bytes = 4100}, DevicePath::kBulk,
        "path must be one that can do this copy, got 'bulk', which needs 16-byte alignment and "
        "compute capability 9.0 or newer");
  Memory memory({}, 1);
  fake_cuda::place(memory.paged.data(), memory.paged.size(), cudaMemoryTypeDevice, 1);
  CHECK_THROWS_WITH_AS(
      memory.transfer(std::nullopt),
      "layers must lie in the memory of CUDA device 0, got memory of CUDA device 1",
      std::invalid_argument);
}

}  // namespace
}  // namespace kvcore

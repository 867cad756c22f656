#include "fake_cuda/fake_cuda.h"

#include <cuda.h>

#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "common/check.h"
#include "copy/cuda/kernels.h"

struct FakeEvent {
  std::set<uint64_t> captured;      // records that are part of a capture
  uint64_t recorded = 0;            // how often so far
  std::set<uint64_t> passed = {0};  // which of these; streams may reach them in another order
  bool has_passed() const { return passed.contains(recorded); }
};

struct FakeStream {
  struct Step {
    std::function<void()> work;
    FakeEvent* waits = nullptr;
    FakeEvent* records = nullptr;
    uint64_t number = 0;  // of the record
  };
  std::deque<Step> steps;
  bool is_stopped = false;
  bool is_captured = false;
  std::deque<Step> kept;  // by the capture
};

namespace fake_cuda {
namespace {

struct Place {
  uint64_t end;
  cudaMemoryType type;
  int device;
};

struct Device {
  std::mt19937 random;
  // Events and streams outlive their end, since work under way may still name them.
  std::vector<std::unique_ptr<FakeEvent>> events;
  std::vector<std::unique_ptr<FakeStream>> streams;
  FakeStream legacy;
  std::map<uint64_t, Place> places;
  bool batch_calls_are_known = true;
  size_t batch_calls = 0;

  FakeStream& of(cudaStream_t stream) {
    return stream == nullptr || stream == cudaStreamLegacy ? legacy : *stream;
  }
  void push(cudaStream_t to, FakeStream::Step step) {
    FakeStream& stream = of(to);
    (stream.is_captured ? stream.kept : stream.steps).push_back(std::move(step));
  }
  // One step of some stream; false when there is none that can be done.
  bool run_one() {
    std::vector<FakeStream*> ready;
    auto consider = [&](FakeStream& stream) {
      if (stream.steps.empty() || stream.is_stopped) return;
      const auto& step = stream.steps.front();
      if (step.waits == nullptr || step.waits->passed.contains(step.number))
        ready.push_back(&stream);
    };
    for (const auto& stream : streams) consider(*stream);
    consider(legacy);
    if (ready.empty()) return false;
    FakeStream& stream = *ready[random() % ready.size()];
    const auto step = std::move(stream.steps.front());
    stream.steps.pop_front();
    if (step.work) step.work();
    if (step.records != nullptr) step.records->passed.insert(step.number);
    return true;
  }
  void run_until(const std::function<bool()>& is_over) {
    while (!is_over()) KV_CHECK(run_one());
  }
};

Device device;

}  // namespace

void reset(uint32_t seed) {
  run_all();
  device = Device{};
  device.random.seed(seed);
}

void run_all() {
  while (device.run_one()) {
  }
  for (const auto& stream : device.streams) KV_CHECK(stream->steps.empty());
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
  device.push(stream, {.work = std::move(work)});
}

void begin_capture(cudaStream_t stream) { device.of(stream).is_captured = true; }

void end_capture(cudaStream_t stream) {
  std::set<std::pair<FakeEvent*, uint64_t>> waited_for;
  for (const auto& each : device.streams) {
    for (const auto& step : each->kept) {
      if (step.waits != nullptr) waited_for.insert({step.waits, step.number});
    }
  }
  for (const auto& each : device.streams) {
    if (!each->is_captured) continue;
    each->is_captured = false;
    const auto& last = each->kept.back();
    KV_CHECK(each.get() == stream || waited_for.contains({last.records, last.number}));
  }
}

// On streams and with events of its own, as a graph has neither.
void replay() {
  std::map<std::pair<FakeEvent*, uint64_t>, FakeEvent*> events;
  auto event_of = [&](FakeEvent* event, uint64_t number) -> FakeEvent* {
    if (event == nullptr) return nullptr;
    FakeEvent*& own = events[{event, number}];
    if (own == nullptr) cudaEventCreateWithFlags(&own, cudaEventDisableTiming);
    return own;
  };
  const size_t num_streams = device.streams.size();
  for (size_t i = 0; i < num_streams; ++i) {
    const auto kept = device.streams[i]->kept;
    cudaStream_t own = nullptr;
    cudaStreamCreateWithFlags(&own, cudaStreamNonBlocking);
    for (const auto& step : kept) {
      own->steps.push_back(
          {step.work, event_of(step.waits, step.number), event_of(step.records, step.number), 1});
    }
  }
  run_all();
}

void stop(cudaStream_t stream) { device.of(stream).is_stopped = true; }
void go_on(cudaStream_t stream) { device.of(stream).is_stopped = false; }

void place(const void* data, size_t bytes, cudaMemoryType type, int number) {
  const auto start = reinterpret_cast<uint64_t>(data);
  device.places[start] = {start + bytes, type, number};
}

void set_batch_calls(bool known) { device.batch_calls_are_known = known; }
size_t num_batch_calls() { return device.batch_calls; }
size_t num_events() { return device.events.size(); }

namespace {

CUresult copy_batch(CUdeviceptr* to, CUdeviceptr* from, size_t* bytes, size_t count,
                    CUmemcpyAttributes*, size_t*, size_t, size_t*, CUstream stream) {
  KV_CHECK(stream != nullptr && stream != cudaStreamLegacy && !stream->is_captured);
  ++device.batch_calls;
  for (size_t i = 0; i < count; ++i) {
    cudaMemcpyAsync(reinterpret_cast<void*>(to[i]), reinterpret_cast<void*>(from[i]), bytes[i],
                    cudaMemcpyDefault, stream);
  }
  return CUDA_SUCCESS;
}

}  // namespace
}  // namespace fake_cuda

using fake_cuda::device;

cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return "name"; }
const char* cudaGetErrorString(cudaError_t) { return "text"; }
cudaError_t cudaGetDevice(int* number) { return *number = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = 4, cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const auto address = reinterpret_cast<uint64_t>(pointer);
  *attributes = {cudaMemoryTypeUnregistered, 0, nullptr};
  auto after = device.places.upper_bound(address);
  if (after == device.places.begin()) return cudaSuccess;
  const auto& place = std::prev(after)->second;
  if (address < place.end) {
    *attributes = {place.type, place.device, const_cast<void*>(pointer)};
  }
  return cudaSuccess;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** call, unsigned version,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool is_known =
      device.batch_calls_are_known && version == 12080 && std::string(name) == "cuMemcpyBatchAsync";
  *call = is_known ? reinterpret_cast<void*>(&fake_cuda::copy_batch) : nullptr;
  *found = is_known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = device.events.emplace_back(std::make_unique<FakeEvent>()).get();
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const uint64_t number = ++event->recorded;
  if (device.of(stream).is_captured) event->captured.insert(number);
  device.push(stream, {.records = event, .number = number});
  return cudaSuccess;
}
// Time passes while somebody asks.
cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event->captured.contains(event->recorded)) return cudaErrorInvalidValue;
  for (uint32_t i = device.random() % 4; i > 0; --i) device.run_one();
  return event->has_passed() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  device.run_until([=] { return event->has_passed(); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = device.streams.emplace_back(std::make_unique<FakeStream>()).get();
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  device.run_until([=] { return device.of(stream).steps.empty(); });
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  FakeStream& waiting = device.of(stream);
  if (event->captured.contains(event->recorded)) waiting.is_captured = true;
  KV_CHECK(!waiting.is_captured || event->captured.contains(event->recorded));
  device.push(stream, {.waits = event, .number = event->recorded});
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      device.of(stream).is_captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps*) {
  return *pool = nullptr, cudaSuccess;
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t) { return cudaSuccess; }
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
cudaError_t cudaMallocFromPoolAsync(void** data, size_t bytes, cudaMemPool_t, cudaStream_t) {
  return *data = new std::byte[bytes], cudaSuccess;
}
cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  fake_cuda::enqueue(stream, [=] { delete[] static_cast<std::byte*>(data); });
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (kind == cudaMemcpyHostToDevice) {
    // Pageable memory is read before the call returns.
    const auto* source = static_cast<const std::byte*>(from);
    const std::vector<std::byte> read(source, source + bytes);
    fake_cuda::enqueue(stream, [=] { std::memcpy(to, read.data(), read.size()); });
  } else {
    fake_cuda::enqueue(stream, [=] { std::memcpy(to, from, bytes); });
  }
  return cudaSuccess;
}

// In place of kernels.cu: the naive copy, which reads its arrays when its turn comes.
namespace kvcore {

cudaError_t launch_load_store(const CopyView& view, Direction direction, uint32_t word_bytes,
                              uint32_t thread_blocks, cudaStream_t stream) noexcept {
  KV_CHECK(thread_blocks > 0 && view.run_bytes % word_bytes == 0);
  fake_cuda::enqueue(stream, [=] {
    for (uint32_t i = 0; i < view.num_blocks; ++i) {
      for (uint32_t plane = 0; plane < view.num_planes; ++plane) {
        const Run run = run_of(view, i, plane);
        auto* paged = reinterpret_cast<void*>(run.paged);
        auto* slab = reinterpret_cast<void*>(run.slab);
        if (direction == Direction::kGather) std::memcpy(slab, paged, view.run_bytes);
        if (direction == Direction::kScatter) std::memcpy(paged, slab, view.run_bytes);
      }
    }
  });
  return cudaSuccess;
}

cudaError_t launch_bulk(const CopyView& view, Direction direction, uint32_t thread_blocks,
                        cudaStream_t stream) noexcept {
  return launch_load_store(view, direction, 16, thread_blocks, stream);
}

cudaError_t load_kernels() noexcept { return cudaSuccess; }
cudaError_t prepare_bulk() noexcept { return cudaSuccess; }

}  // namespace kvcore

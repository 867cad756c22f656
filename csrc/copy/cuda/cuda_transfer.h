#pragma once

#include <cuda_runtime_api.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "copy/cuda/copy_engine.h"
#include "copy/cuda/cuda_device.h"
#include "copy/cuda/resources.h"
#include "copy/cuda/staged_copy.h"
#include "copy/device_path.h"
#include "copy/transfer_plan.h"

namespace kvcore {

// A copy that was enqueued. Layer i is in place where its event has passed. A copy that a stream
// captured can be waited for by streams of the same capture alone. Thread safe.
class CudaHandle {
 public:
  CudaHandle(std::shared_ptr<const std::vector<Event>> events, int device, uint32_t num_layers,
             uint32_t layers_a_step)
      : events_(std::move(events)),
        device_(device),
        num_layers_(num_layers),
        layers_a_step_(layers_a_step) {}

  uint32_t num_layers() const noexcept { return num_layers_; }
  // What is enqueued on `stream` later finds layer `layer` in place. Does not block.
  void hold(cudaStream_t stream, uint32_t layer) const;
  bool is_done() const;
  // Blocks until all layers are in place, to `until` at most; whether they are.
  bool wait(std::chrono::steady_clock::time_point until) const;
  bool wait_layer(uint32_t layer, std::chrono::steady_clock::time_point until) const;

 private:
  std::shared_ptr<const std::vector<Event>> events_;
  int device_;
  uint32_t num_layers_;
  uint32_t layers_a_step_;
};

// Copies between a paged cache in the memory of a device and a slab in that memory or in pinned
// host memory. Made once and used often: ids, bases and whatever a path needs are allocated here,
// so copy() allocates nothing on the device, waits for nothing, and may be captured in a graph.
// (A staged copy that is replayed must not overlap with other copies of its transfer: they share
// one ring. A captured copy by the copy engine is made by the load/store kernel.)
//
// Owns its device arrays, events and ring, and none of the memory that it copies. Dying waits for
// copies under way, which replays are not. Thread safe; copies of one transfer run one after
// another.
class CudaTransfer {
 public:
  // Throws std::invalid_argument where memory is not where it has to be or the path cannot do the
  // copy, CudaError where CUDA fails. `max_thread_blocks` 0 leaves it to us.
  CudaTransfer(std::shared_ptr<CudaDevice> device, TransferPlan plan,
               std::optional<DevicePath> path, uint32_t max_thread_blocks);
  ~CudaTransfer();
  CudaTransfer(const CudaTransfer&) = delete;
  CudaTransfer& operator=(const CudaTransfer&) = delete;

  // Enqueues a copy on `stream`, of `layers_a_step` layers at a time; each step has an event.
  std::unique_ptr<CudaHandle> copy(Direction direction, cudaStream_t stream,
                                   uint32_t layers_a_step);

  const TransferPlan& plan() const noexcept { return plan_; }
  DevicePath path() const noexcept { return path_; }
  uint32_t thread_blocks() const noexcept { return thread_blocks_; }
  int device() const noexcept { return device_->number(); }

 private:
  void find_places();
  void choose(std::optional<DevicePath> path, uint32_t max_thread_blocks);
  void upload();
  CopyView device_view(uint32_t first_layer, uint32_t num_layers) const noexcept;
  std::shared_ptr<std::vector<Event>> unused_events(size_t count);
  cudaStream_t enqueue(Direction direction, uint32_t first_layer, uint32_t num_layers,
                       cudaStream_t stream);

  const std::shared_ptr<CudaDevice> device_;
  const TransferPlan plan_;
  bool host_slab_ = false;
  uint64_t slab_alias_ = 0;  // the slab as kernels see it
  uint32_t word_bytes_ = 1;
  DevicePath path_ = DevicePath::kLoadStore;
  uint32_t thread_blocks_ = 0;
  std::optional<DeviceMemory> arrays_;  // plane bases, paged blocks, slab blocks
  std::optional<BatchedCopy> batched_;
  std::optional<StagedCopy> staged_;

  std::mutex mutex_;  // guards the following, and enqueuing as a whole
  std::vector<std::shared_ptr<std::vector<Event>>> events_;
  std::shared_ptr<const std::vector<Event>> latest_;  // not of captured copies
};

}  // namespace kvcore

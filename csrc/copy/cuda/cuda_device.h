#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "copy/cuda/resources.h"

namespace kvcore {

// What all transfers of a device share: memory for their arrays and rings, from a pool of our own,
// since cudaMalloc and cudaFree would wait for all that the engine has under way. The pool keeps
// what it once had. Owns the pool and a stream. Thread safe.
class CudaDevice {
 public:
  explicit CudaDevice(int number);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  int number() const noexcept { return number_; }
  uint32_t num_multiprocessors() const noexcept { return num_multiprocessors_; }
  bool has_bulk() const noexcept { return has_bulk_; }
  cudaMemPool_t pool() const noexcept { return pool_; }
  cudaStream_t stream() const noexcept { return stream_->get(); }

 private:
  int number_;
  uint32_t num_multiprocessors_ = 0;
  bool has_bulk_ = false;
  cudaMemPool_t pool_ = nullptr;
  std::unique_ptr<Stream> stream_;
};

// Memory of a device, for use by any stream. When it dies nothing may use it any more.
class DeviceMemory {
 public:
  DeviceMemory(std::shared_ptr<CudaDevice> device, size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  // Returns when the bytes are on the device.
  void write(size_t offset, const void* from, size_t bytes);

  std::byte* data() const noexcept { return data_; }
  uint64_t address() const noexcept { return reinterpret_cast<uint64_t>(data_); }

 private:
  std::shared_ptr<CudaDevice> device_;
  std::byte* data_ = nullptr;
};

}  // namespace kvcore

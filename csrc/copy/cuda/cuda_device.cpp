#include "copy/cuda/cuda_device.h"

#include "copy/cuda/kernels.h"

namespace kvcore {

CudaDevice::CudaDevice(int number) : number_(number) {
  DeviceGuard guard(number);
  int multiprocessors = 0;
  KV_CUDA(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, number));
  num_multiprocessors_ = static_cast<uint32_t>(multiprocessors);
  check_cuda(load_kernels(), "loading the kernels");
  const cudaError_t bulk = prepare_bulk();
  if (bulk != cudaErrorNotSupported) check_cuda(bulk, "bulk kernels");
  has_bulk_ = bulk == cudaSuccess;
  stream_ = std::make_unique<Stream>();
  cudaMemPoolProps of_device{};
  of_device.allocType = cudaMemAllocationTypePinned;
  of_device.location = {cudaMemLocationTypeDevice, number};
  KV_CUDA(cudaMemPoolCreate(&pool_, &of_device));
  uint64_t everything = UINT64_MAX;
  const cudaError_t error =
      cudaMemPoolSetAttribute(pool_, cudaMemPoolAttrReleaseThreshold, &everything);
  if (error != cudaSuccess) cudaMemPoolDestroy(pool_);
  check_cuda(error, "cudaMemPoolSetAttribute");
}

CudaDevice::~CudaDevice() { cudaMemPoolDestroy(pool_); }

DeviceMemory::DeviceMemory(std::shared_ptr<CudaDevice> device, size_t bytes)
    : device_(std::move(device)) {
  void* data = nullptr;
  KV_CUDA(cudaMallocFromPoolAsync(&data, bytes, device_->pool(), device_->stream()));
  data_ = static_cast<std::byte*>(data);
  // Until then only our stream may use it.
  KV_CUDA(cudaStreamSynchronize(device_->stream()));
}

DeviceMemory::~DeviceMemory() { cudaFreeAsync(data_, device_->stream()); }

void DeviceMemory::write(size_t offset, const void* from, size_t bytes) {
  KV_CUDA(cudaMemcpyAsync(data_ + offset, from, bytes, cudaMemcpyHostToDevice, device_->stream()));
  KV_CUDA(cudaStreamSynchronize(device_->stream()));
}

}  // namespace kvcore

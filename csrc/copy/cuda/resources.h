#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

// What the CUDA runtime lends, given back when its owner dies.
namespace kvcore {

class CudaError : public std::runtime_error {
 public:
  CudaError(const char* call, cudaError_t error)
      : std::runtime_error(std::string(call) + ": " + cudaGetErrorString(error) + " (" +
                           cudaGetErrorName(error) + ")") {}
};

inline void check_cuda(cudaError_t error, const char* call) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // the next call shall not find it again
  throw CudaError(call, error);
}
#define KV_CUDA(call) ::kvcore::check_cuda(call, #call)

// Makes a device the current one of this thread for a while.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    KV_CUDA(cudaGetDevice(&before_));
    if (before_ != device) KV_CUDA(cudaSetDevice(device));
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
};

// While any thread captures a graph, calls that might have belonged into it are refused to all
// threads, and spoil it. Ours never belong there.
class BesideCaptures {
 public:
  BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~BesideCaptures() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  BesideCaptures(const BesideCaptures&) = delete;
  BesideCaptures& operator=(const BesideCaptures&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// An event without times, of the device that was current when it was made.
class Event {
 public:
  Event() { KV_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;

  cudaEvent_t get() const noexcept { return event_; }
  void record(cudaStream_t stream) const { KV_CUDA(cudaEventRecord(event_, stream)); }
  bool is_pending() const {
    const cudaError_t error = cudaEventQuery(event_);
    if (error != cudaErrorNotReady) check_cuda(error, "cudaEventQuery");
    cudaGetLastError();
    return error == cudaErrorNotReady;
  }
  // What is enqueued on `stream` later runs after the last record of this event.
  void hold(cudaStream_t stream) const { KV_CUDA(cudaStreamWaitEvent(stream, event_, 0)); }

 private:
  cudaEvent_t event_ = nullptr;
};

// A stream that waits for no other.
class Stream {
 public:
  Stream() { KV_CUDA(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream_); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const noexcept { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

inline bool is_capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  KV_CUDA(cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

}  // namespace kvcore

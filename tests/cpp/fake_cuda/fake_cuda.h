#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <functional>

// A device without hardware: streams are queues of work, which is done by and by, in any order that
// streams and events allow, drawn anew for each seed. Memory that was freed is gone, so that a
// sanitizer sees who comes too late. One thread alone.
namespace fake_cuda {

// Forgets all streams, events and places. All work has to be done.
void reset(uint32_t seed);
void run_all();
void enqueue(cudaStream_t stream, std::function<void()> work);
// Between the two, what is enqueued on `stream`, and on streams that wait for it, is kept and not
// done; replay() does it. Whoever waits in there for something outside, or does not join again, is
// caught.
void begin_capture(cudaStream_t stream);
void end_capture(cudaStream_t stream);
void replay();
// A stream that is stopped does nothing until it goes on.
void stop(cudaStream_t stream);
void go_on(cudaStream_t stream);

void place(const void* data, size_t bytes, cudaMemoryType type, int device = 0);
// Whether the driver knows cuMemcpyBatchAsync.
void set_batch_calls(bool known);
// Of such calls so far.
size_t num_batch_calls();
// That were ever made since reset().
size_t num_events();

}  // namespace fake_cuda

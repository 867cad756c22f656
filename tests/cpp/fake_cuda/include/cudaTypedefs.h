#pragma once

#include <cuda.h>

// See cuda_runtime_api.h.
using PFN_cuMemcpyBatchAsync_v12080 = CUresult (*)(CUdeviceptr*, CUdeviceptr*, size_t*, size_t,
                                                   CUmemcpyAttributes*, size_t*, size_t, size_t*,
                                                   CUstream);

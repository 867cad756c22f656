#pragma once

#include <cuda_runtime_api.h>

// See cuda_runtime_api.h.
#define CUDA_VERSION 13000

using CUdeviceptr = unsigned long long;
using CUstream = cudaStream_t;
enum CUresult { CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE };
enum { CU_MEMCPY_SRC_ACCESS_ORDER_STREAM = 1 };
struct CUmemcpyAttributes {
  int srcAccessOrder;
};

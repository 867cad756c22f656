#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  kvcore::KVCORE_FUZZ_TARGET({data, size});
  return 0;
}

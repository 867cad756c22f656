#if defined(__x86_64__)

#define KVCORE_LANES 16
#include "copy/quantize_loops.h"

namespace kvcore {

constinit const QuantizePath kAvx512QuantizePath{"avx512", kAllLoops};

}  // namespace kvcore

#endif

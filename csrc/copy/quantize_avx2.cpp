#if defined(__x86_64__)

#define KVCORE_LANES 8
#include "copy/quantize_loops.h"

namespace kvcore {

constinit const QuantizePath kAvx2QuantizePath{"avx2", kAllLoops};

}  // namespace kvcore

#endif

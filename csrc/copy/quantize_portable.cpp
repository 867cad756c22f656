#define KVCORE_LANES 4
#include "copy/quantize_loops.h"

namespace kvcore {

constinit const QuantizePath kPortableQuantizePath{"portable", kAllLoops};

}  // namespace kvcore

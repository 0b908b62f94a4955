// Residual stream: sum[i] += x[i], float32.
//
// Shapes   size a multiple of 16. Exact float32 additions, one per element.
// Estimate 3 cycles per 16 elements; 0.2 KB of program. Called by vector_core.cc (also to add slices of K).
#include "message.h"

extern "C" void residual_add(const float *restrict x, int32 size, float *restrict sum) {
    for (int32 i = 0; i < size; i += 16) aie::store_v(sum + i, aie::add(aie::load_v<16>(sum + i), aie::load_v<16>(x + i)));
}

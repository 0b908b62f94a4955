// Adds a normed projection to the residual stream, then norms and quantises the sum for the next matrix.
//   x += y / sqrt(mean(y^2) + EPS) * post_factor
//   h  = x / sqrt(mean(x^2) + EPS) * next_factor;  aq, as = quantise(h) in groups of 32
// x float [M][HIDDEN] read and written, y float [M][HIDDEN], factors float [HIDDEN] (Gemma's 1 + w),
// aq, as: include/activation_layout.glsl. The float32 stream is never rounded: Gemma 3's overflows fp16.
// Grid (M): one workgroup a row. Limits: HIDDEN a multiple of 32, at most 16384 - 512 (shared memory).
// Caller: target/plan.py, twice a layer: after o (post-attention norm, pre-feedforward norm) and after down
// (post-feedforward norm, next layer's input norm or the final norm).
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 256, local_size_x_id = 2) in;
layout(constant_id = 0) const uint HIDDEN = 640;
layout(constant_id = 1) const float EPS = 1e-6;
layout(constant_id = 2) const uint THREADS = 256;  // 64 or 256: fixes the order of the sums
layout(binding = 0, std430) restrict buffer Residual { vec4 x[]; };
layout(binding = 1, std430) readonly restrict buffer Projection { vec4 y[]; };
layout(binding = 2, std430) readonly restrict buffer PostFactor { vec4 post_factor[]; };
layout(binding = 3, std430) readonly restrict buffer NextFactor { vec4 next_factor[]; };
#define ACTIVATION_BINDING 4
const uint REDUCE_SIDE = THREADS == 256u ? 16u : 8u;
#include "include/activation.glsl"
#include "include/reduce.glsl"
#include "include/norm_row.glsl"

vec4 stream[HELD];
vec4 post[HELD];
vec4 next[HELD];

void main() {
    const uint row = gl_WorkGroupID.x;
    for (uint j = 0u; j < HELD; ++j) {
        const uint quad = quad_of(j);
        if (quad < NUM_QUADS) {  // all loads at once: their latencies overlap
            held[j] = y[row * NUM_QUADS + quad];
            stream[j] = x[row * NUM_QUADS + quad];
            post[j] = post_factor[quad];
            next[j] = next_factor[quad];
        }
    }
    const float inverse_y = inverse_rms();
    for (uint j = 0u; j < HELD; ++j) {
        precise vec4 normed = held[j] * inverse_y;
        held[j] = fma(normed, post[j], stream[j]);
        if (quad_of(j) < NUM_QUADS) x[row * NUM_QUADS + quad_of(j)] = held[j];
    }
    const float inverse_x = inverse_rms();
    for (uint j = 0u; j < HELD; ++j) held[j] = held[j] * inverse_x * next[j];
    quantise_held(row);
}

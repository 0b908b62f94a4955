// RMS norm and quantisation of the residual stream: the first layer's input norm.
//   h = x / sqrt(mean(x^2) + EPS) * factor;  aq, as = quantise(h) in groups of 32 (include/activation.glsl)
// x float [M][HIDDEN], factor float [HIDDEN] (Gemma's 1 + w), aq, as: include/activation_layout.glsl.
// Grid (M): one workgroup a row. Limits: HIDDEN a multiple of 32, <= 16384 - 512 (shared memory).
// Caller: target/plan.py, once a pass, after embed.
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 256, local_size_x_id = 2) in;
layout(constant_id = 0) const uint HIDDEN = 640;
layout(constant_id = 1) const float EPS = 1e-6;
layout(constant_id = 2) const uint THREADS = 256;  // 64 or 256: fixes the order of the sums
layout(binding = 0, std430) readonly restrict buffer Residual { vec4 x[]; };
layout(binding = 1, std430) readonly restrict buffer Factor { vec4 factor[]; };
#define ACTIVATION_BINDING 2
const uint REDUCE_SIDE = THREADS == 256u ? 16u : 8u;
#include "include/activation.glsl"
#include "include/reduce.glsl"
#include "include/norm_row.glsl"

void main() {
    const uint row = gl_WorkGroupID.x;
    for (uint j = 0u; j < HELD; ++j)
        if (quad_of(j) < NUM_QUADS) held[j] = x[row * NUM_QUADS + quad_of(j)];
    const float inverse = inverse_rms();
    for (uint j = 0u; j < HELD; ++j)
        if (quad_of(j) < NUM_QUADS) held[j] = held[j] * inverse * factor[quad_of(j)];
    quantise_held(row);
}

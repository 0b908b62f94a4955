#version 460
// Joins a row's partial attention over its chunks, ascending, and quantises the head outputs for the o matrix.
//   m = max m_c; w_c = exp(m_c - m); out[d] = (sum_c w_c a_c[d]) / (sum_c w_c l_c);  aq, as = quantise(out), groups of 32
// partial a float [M][NUM_HEADS][max_chunks][D], (m, l) float2 [M][NUM_HEADS][max_chunks] of attention.comp;
// aq [M][NUM_HEADS D / 4], as [M][NUM_HEADS D / 32]. Inactive rows get zeros.
// Grid (NUM_HEADS, M). Limits: D a multiple of 32, at most 256. Caller: target/plan.py, after attention.comp.
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint HEAD_DIM = 256;
layout(constant_id = 1) const uint NUM_HEADS = 4;
layout(constant_id = 3) const uint CHUNK = 64;
layout(push_constant) uniform Push { uint window; uint max_chunks; } cache;
#include "include/step.glsl"
#include "include/math.glsl"
#include "include/visible.glsl"
layout(binding = 1, std430) readonly restrict buffer Partials { vec4 partials[]; };
layout(binding = 2, std430) readonly restrict buffer Summary { vec2 summary[]; };
#define ACTIVATION_BINDING 3
#include "include/activation.glsl"

const uint UNITS = HEAD_DIM / 4u;

shared float quad_largest[64];

// Four dims of the head's output.
vec4 joined(uint head, uint chunks, uint unit) {
    const uint base = head * cache.max_chunks;
    float largest = summary[base].x;
    for (uint c = 1u; c < chunks; ++c) largest = max(largest, summary[base + c].x);
    precise float total = 0.0;
    precise vec4 sum = vec4(0.0);
    for (uint c = 0u; c < chunks; ++c) {
        const vec2 m_l = summary[base + c];
        const float w = exp_fixed(m_l.x - largest);
        total = fma(w, m_l.y, total);
        sum = fma(vec4(w), partials[(base + c) * UNITS + unit], sum);
    }
    return sum / total;
}

void main() {
    const uint thread = gl_LocalInvocationIndex;
    const uint row = gl_WorkGroupID.y;
    const uint head = row * NUM_HEADS + gl_WorkGroupID.x;
    const uint position = position_of(row);
    vec4 v = vec4(0.0);
    if (position != INACTIVE && thread < UNITS) {
        const uint chunks = last_chunk(position) - first_chunk(position, cache.window) + 1u;
        v = joined(head, chunks, thread);
    }
    quad_largest[thread] = largest(v);
    barrier();
    float amax = 0.0;
    for (uint i = 0u; i < 8u; ++i) amax = max(amax, quad_largest[(thread & ~7u) + i]);
    if (thread < UNITS) store_quantised(row, NUM_HEADS * UNITS, gl_WorkGroupID.x * UNITS + thread, v, amax);
}

// Joins a row's partial attention over its chunks and quantises the head outputs for the o matrix.
//   m = max m_c; w_c = exp(m_c - m); out[d] = (sum_c w_c a_c[d]) / (sum_c w_c l_c);  aq, as = quantise(out), groups of 32
// partial a float [M][NUM_HEADS][max_chunks][D], (m, l) float2 [M][NUM_HEADS][max_chunks] of attention.comp;
// aq, as: rows of NUM_HEADS D columns, include/activation_layout.glsl. Inactive rows get zeros.
// Thread = (4 dims, slice); slice s of SLICES = 4 CHUNK / D takes the row's chunks s, s + SLICES, ... ascending, then the
// slices are summed ascending: an order that depends on the row's own chunks alone.
// Grid (NUM_HEADS, M). Limits: D 32, 64, 128 or 256, CHUNK >= D / 4. Caller: target/plan.py, after attention.comp.
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 64, local_size_x_id = 3) in;
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

const uint SLICES = CHUNK / UNITS;

shared vec2 slice_summary[SLICES];  // largest score, weighted sum of l
shared vec4 slice_sums[CHUNK];
shared float quad_largest[UNITS];

void main() {
    const uint thread = gl_LocalInvocationIndex;
    const uint unit = thread % UNITS;
    const uint slice = thread / UNITS;
    const uint row = gl_WorkGroupID.y;
    const uint base = (row * NUM_HEADS + gl_WorkGroupID.x) * cache.max_chunks;
    const uint position = position_of(row);
    uint chunks = 0u;
    if (position != INACTIVE) chunks = last_chunk(position) - first_chunk(position, cache.window) + 1u;

    float largest_seen = -3.0e38;
    for (uint c = slice; c < chunks; c += SLICES) largest_seen = max(largest_seen, summary[base + c].x);
    if (unit == 0u) slice_summary[slice].x = largest_seen;
    barrier();
    for (uint s = 0u; s < SLICES; ++s) largest_seen = max(largest_seen, slice_summary[s].x);

    precise float total = 0.0;
    precise vec4 sum = vec4(0.0);
    for (uint c = slice; c < chunks; c += SLICES) {
        const vec2 m_l = summary[base + c];
        const float w = exp_fixed(m_l.x - largest_seen);
        total = fma(w, m_l.y, total);
        sum = fma(vec4(w), partials[(base + c) * UNITS + unit], sum);
    }
    if (unit == 0u) slice_summary[slice].y = total;
    slice_sums[thread] = sum;
    barrier();
    for (uint s = 1u; s < SLICES; ++s) sum += slice_sums[s * UNITS + unit];
    total = slice_summary[0].y;
    for (uint s = 1u; s < SLICES; ++s) total += slice_summary[s].y;
    const vec4 v = chunks > 0u ? sum / total : vec4(0.0);  // right in slice 0, whose own sum comes first
    if (thread < UNITS) quad_largest[unit] = largest(v);
    barrier();
    float amax = 0.0;
    for (uint i = 0u; i < 8u; ++i) amax = max(amax, quad_largest[(unit & ~7u) + i]);
    if (thread < UNITS) store_quantised(row, NUM_HEADS * UNITS, gl_WorkGroupID.x * UNITS + unit, v, amax);
}

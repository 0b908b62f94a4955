// Splits the qkv projection into heads: q and k RMS-normed, rotated (RoPE), q scaled and kept; k and v into the cache.
//   n = h / sqrt(mean(h^2) + EPS) * factor;  (a, b) = (n[i], n[i + D/2]);  (a cos - b sin, b cos + a sin)
// y float [M][(NUM_HEADS + 2 NUM_KV_HEADS) D] in the order q, k, v; factors float [D]; rope (cos, sin) [context][D/2];
// q out float [M][NUM_HEADS][D], scaled by QUERY_SCALE; cache fp16, or int8 with KV_INT8 1, layout in include/kv_layout.glsl.
// Grid (NUM_HEADS + 2 NUM_KV_HEADS, M): one workgroup a head of a row. Limits: D 32, 64, 128 or 256.
// Inactive rows leave cache and q alone. Caller: target/plan.py, once a layer, after the qkv product.
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint HEAD_DIM = 256;
layout(constant_id = 1) const uint NUM_HEADS = 4;
layout(constant_id = 2) const uint NUM_KV_HEADS = 1;
layout(constant_id = 3) const float EPS = 1e-6;
layout(constant_id = 4) const float QUERY_SCALE = 0.0625;
layout(push_constant) uniform Push { uint ring; } cache;
const uint REDUCE_SIDE = 8u;
#include "include/step.glsl"
#include "include/reduce.glsl"
#include "include/half.glsl"
#include "include/kv_layout.glsl"
layout(binding = 1, std430) readonly restrict buffer Projection { float y[]; };
layout(binding = 2, std430) readonly restrict buffer QueryFactor { float q_factor[]; };
layout(binding = 3, std430) readonly restrict buffer KeyFactor { float k_factor[]; };
layout(binding = 4, std430) readonly restrict buffer Rope { vec2 rope[]; };
layout(binding = 5, std430) writeonly restrict buffer Queries { float q[]; };

const uint HALF = HEAD_DIM / 2u;
const uint HELD = (HALF + 63u) / 64u;  // pairs (i, i + D/2) a thread holds

shared float head[HEAD_DIM];
#define KEY_BINDING 6
#define VALUE_BINDING 7
#include "include/kv_write.glsl"

// Norms and rotates the head that starts at y[base]; the result is in `head` after the barrier of the caller.
void norm_and_rotate(uint base, uint position, bool is_query) {
    const uint thread = gl_LocalInvocationIndex;
    precise float squares = 0.0;
    for (uint j = 0u; j < HELD; ++j) {
        const uint i = thread + 64u * j;
        if (i < HALF) {
            const float a = y[base + i];
            const float b = y[base + HALF + i];
            squares = fma(b, b, fma(a, a, squares));
        }
    }
    precise float mean = workgroup_sum(squares) / float(HEAD_DIM) + EPS;
    const float inverse = inversesqrt(mean);
    const float scale = is_query ? QUERY_SCALE : 1.0;
    for (uint j = 0u; j < HELD; ++j) {
        const uint i = thread + 64u * j;
        if (i < HALF) {
            precise float a = y[base + i] * inverse * (is_query ? q_factor[i] : k_factor[i]);
            precise float b = y[base + HALF + i] * inverse * (is_query ? q_factor[HALF + i] : k_factor[HALF + i]);
            const vec2 turn = rope[position * HALF + i];
            precise float b_sin = b * turn.y;
            precise float a_sin = a * turn.y;
            precise float first = fma(a, turn.x, -b_sin) * scale;
            precise float second = fma(b, turn.x, a_sin) * scale;
            head[i] = first;
            head[HALF + i] = second;
        }
    }
}

void main() {
    const uint part = gl_WorkGroupID.x;
    const uint row = gl_WorkGroupID.y;
    const uint thread = gl_LocalInvocationIndex;
    const uint position = position_of(row);
    if (position == INACTIVE) return;
    const uint base = (row * (NUM_HEADS + 2u * NUM_KV_HEADS) + part) * HEAD_DIM;
    const bool is_value = part >= NUM_HEADS + NUM_KV_HEADS;
    if (is_value)
        for (uint d = thread; d < HEAD_DIM; d += 64u) head[d] = y[base + d];
    else
        norm_and_rotate(base, position, part < NUM_HEADS);
    barrier();
    if (part < NUM_HEADS) {
        for (uint d = thread; d < HEAD_DIM; d += 64u) q[(row * NUM_HEADS + part) * HEAD_DIM + d] = head[d];
        return;
    }
    const uint kv_head = (part - NUM_HEADS) % NUM_KV_HEADS;
    const uint head_row = head_row_of(slot_of(row), kv_head, cache.ring);
    const uint index = position % cache.ring;
    write_head(is_value, head_row, index);
}

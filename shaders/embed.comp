// Residual stream of each row = its token's embedding x sqrt(hidden size), dequantised from the tiled matrix.
//   x[r][k] = (value x scale) x normalizer.  BITS 8: int8, BITS 4: nibble - 8 (layout: specdec/weights.py).
// The matrix may be cut into parts of whole 32-row tiles (128 MiB a binding): one dispatch a part, which serves the
// rows whose token lies in [first_row, first_row + num_rows); no barrier is needed between parts. Inactive rows
// become 0 in the part that starts at row 0.
// packed uvec4: BITS 8 ((tile G + g) 2 + half) 32 + row, BITS 4 (tile G + g) 32 + row; scales fp16 (tile G + g) 32 + row.
// x float [M][HIDDEN]. Grid (ceil(HIDDEN/32 / 64), M): one thread a group of 32 columns. Caller: target/plan.py.
#version 460
#extension GL_GOOGLE_include_directive : require
#ifndef BITS
#define BITS 8
#endif
layout(local_size_x = 64) in;
layout(constant_id = 0) const uint HIDDEN = 640;
layout(push_constant) uniform Push { uint first_row; uint num_rows; float normalizer; } part;
#include "include/step.glsl"
layout(binding = 1, std430) readonly restrict buffer Packed { uvec4 packed[]; };
layout(binding = 2, std430) readonly restrict buffer Scales { uint scales[]; };
layout(binding = 3, std430) writeonly restrict buffer Residual { vec4 x[]; };

const uint GROUPS = HIDDEN / 32u;

vec4 signed_bytes(uint word) {
    const int v = int(word);
    return vec4(bitfieldExtract(v, 0, 8), bitfieldExtract(v, 8, 8), bitfieldExtract(v, 16, 8), bitfieldExtract(v, 24, 8));
}

vec4 nibbles(uint word) {  // one nibble in the low half of every byte
    return vec4(word & 15u, (word >> 8) & 15u, (word >> 16) & 15u, (word >> 24) & 15u) - 8.0;
}

void main() {
    const uint row = gl_WorkGroupID.y;
    const uint group = gl_GlobalInvocationID.x;
    if (group >= GROUPS) return;
    const uint out_quad = (row * GROUPS + group) * 8u;
    if (position_of(row) == INACTIVE) {
        if (part.first_row == 0u)
            for (uint i = 0u; i < 8u; ++i) x[out_quad + i] = vec4(0.0);
        return;
    }
    const uint local_row = token_of(row) - part.first_row;  // wraps to a huge number below the part
    if (local_row >= part.num_rows) return;
    const uint tile_group = (local_row >> 5) * GROUPS + group;
    const uint lane = local_row & 31u;
    const uint scale_index = tile_group * 32u + lane;
    const vec2 pair = unpackHalf2x16(scales[scale_index >> 1]);
    const float scale = (scale_index & 1u) == 0u ? pair.x : pair.y;
    for (uint i = 0u; i < 4u; ++i) {
#if BITS == 8
        const uvec4 words = packed[(tile_group * 2u + (i >> 1)) * 32u + lane];
        const vec4 low = signed_bytes((i & 1u) == 0u ? words.x : words.z);
        const vec4 high = signed_bytes((i & 1u) == 0u ? words.y : words.w);
#else
        const uvec4 words = packed[tile_group * 32u + lane];
        const vec4 low = nibbles(words[i]);
        const vec4 high = nibbles(words[i] >> 4);
#endif
        x[out_quad + 2u * i] = (low * scale) * part.normalizer;
        x[out_quad + 2u * i + 1u] = (high * scale) * part.normalizer;
    }
}

// What every matrix product shares: arithmetic, layouts, constants, arguments and inputs.
//   y[m][n] = sum over slices s ascending of acc_s;  acc_s = fma(float(dot_g), d_w[n][g] * d_a[m][g], acc_s)
//   for groups g = s, s + SLICES, ... ascending;  dot_g = sum over the 32 columns k of group g of w[n][k] * a[m][k]
// dot_g is an exact integer below 2^24, so its own order is free. Nothing else has freedom: all classes, block sizes M,
// rows of a block, tile counts and workgroup sizes give the same bits; SLICES alone (the numerics id) changes them.
//
// Weights (layouts of specdec/weights.py): tiles of 32 rows, groups of 32 columns, G = K / 32.
//   BITS 4: uvec4 [(tile G + g) 32 + row]; word j, byte b: low nibble column 8j + b, high nibble 8j + 4 + b; w = nibble - 8
//   BITS 8: uvec4 [((tile G + g) 2 + half) 32 + row]; word j, byte b: column 16 half + 4j + b, signed
//   scales d_w: fp16 [(tile G + g) 32 + row]
// Activations: aq int8, -127 .. 127, and d_a float, by blocks of 16 rows (include/activation_layout.glsl). In the
// matrix class M is a power of two up to 16, in the panel class a multiple of 16.
// Grid: x = blocks of M rows (prefill: many; a pass: one), y = tiles / TILES rounded up.
//
// A class, gemm_lanes.glsl (integer or float multiplies) or gemm_dot.glsl (integer dot products), has ACTIVATION and
//   multiply()          computes the workgroup's sums
//   first_tile()        first of the TILES tiles whose results this cluster of 8 lanes can see
//   share_sums(first)   hands the sums of ROUND rows of the block round, from `first` on; every lane must call it
//   FIRST_TOKEN .. < ROUND, += TOKEN_STEP    which of these rows this cluster finishes
//   result(t, m)        of block row m, a row of the round: rows 4 quad() .. 4 quad() + 3 of tile first_tile() + t
// and an epilogue (gemm.comp, gemm_geglu.comp, gemm_argmax.comp) has main().
// Limits: K a multiple of 32; TILES a multiple of 2 for geglu; subgroups of 8 lanes or more, full ones.
#ifndef GEMM_GLSL
#define GEMM_GLSL
#include "activation_layout.glsl"
layout(constant_id = 0) const uint M = 1;       // rows (tokens) of a block, 1 .. 16, more in a panel
layout(constant_id = 1) const uint SLICES = 1;  // slices of K
layout(constant_id = 2) const uint TILES = 1;   // weight tiles of a cluster (lanes) or workgroup
layout(push_constant) uniform Push {
    uint groups;     // G
    uint tiles;      // weight tiles in the bound range
    uint first_row;  // row of the whole matrix at the start of the bound range, a multiple of 32 TILES
    uint stride;     // of the output: elements per block row (see the epilogue)
    uint num_rows;   // argmax: rows of the bound range that exist, the rest being padding
} push;
layout(binding = 0, std430) readonly restrict buffer Weights { uvec4 weights[]; };
layout(binding = 1, std430) readonly restrict buffer Scales { uvec2 scales[]; };            // of four rows
layout(binding = 2, std430) readonly restrict buffer Activations { ACTIVATION activations[]; };  // uint or uvec4
layout(binding = 3, std430) readonly restrict buffer Factors { float factors[]; };          // d_a

uint first_token() { return gl_WorkGroupID.x * M; }
uint activation_of(uint m, uint g) { return activation_group(first_token() + m, g, push.groups); }
// the lane's place in its cluster of 8, and the cluster's in the workgroup
uint quad() { return gl_SubgroupInvocationID & 7u; }
uint cluster() { return (gl_SubgroupID * gl_SubgroupSize + gl_SubgroupInvocationID) >> 3; }

// dot_g from a sum of integer products that began at SUM_START: the sum's bits are a float of 1.5 x 2^23 and more, whose
// last place is 1. Nibbles are multiplied in the upper half of a byte, 16 times as large. Every step is exact.
#if BITS == 4
const float SUM_UNIT = 0.0625;
#else
const float SUM_UNIT = 1.0;
#endif
const int SUM_START = 0x4B400000;
float dot_of(int sum) { return fma(intBitsToFloat(sum), SUM_UNIT, -12582912.0 * SUM_UNIT); }

// Eight nibbles as signed bytes 16 times as large: columns 8j .. 8j + 3, and 8j + 4 .. 8j + 7.
uvec4 low_nibbles(uvec4 words) { return words << 4 & 0xF0F0F0F0u ^ 0x80808080u; }
uvec4 high_nibbles(uvec4 words) { return words & 0xF0F0F0F0u ^ 0x80808080u; }

float accumulate(float dot_g, float d_w, float d_a, float sum) {
    precise const float d = d_w * d_a;
    precise const float result_ = fma(dot_g, d, sum);
    return result_;
}

// a tile past the end is computed from the last one and not written
uint real_tile(uint tile) { return min(tile, push.tiles - 1u); }
#endif

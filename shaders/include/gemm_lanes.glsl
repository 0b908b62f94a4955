// Class of matrix product for devices without fast integer dot products, first of all lavapipe: a cluster of 8 lanes
// owns TILES tiles, a lane 4 rows of each. Weights are unpacked once and multiplied for every token of the block.
// Lane l holds columns 4l .. 4l + 3 of a group of activations; a column reaches the others by a shuffle with a constant
// index (an instruction or two on lavapipe, where loading one address in all lanes is a loop over the lanes).
//   BITS 4: 32-bit integer products serve two tokens at once: (a0 + 65536 a1) w. Each half of a group's sum fits
//           16 signed bits (|dot| <= 32 x 127 x 8 = 32512) and sums wrap, so the nibbles' offset of 8 can be taken off
//           in one go.
//   BITS 8: float products of small integers, exact.
// Workgroup: WIDTH lanes = WIDTH / 8 clusters, each with its own tiles.
// Limits: M x TILES <= 32 (beyond, Mesa 22.3 compiles for minutes). On lavapipe 16 rows cost less as two blocks of 8: M x
// TILES > 16 spills what the shuffles hand round.
#define ACTIVATION uint
#include "gemm.glsl"
layout(constant_id = 3) const uint WIDTH = 8;
layout(local_size_x = 8, local_size_x_id = 3) in;

#if BITS == 4
#define NUMBER int
const uint SHARE = 2;  // tokens in a product
#else
#define NUMBER float
const uint SHARE = 1;
#endif
const uint HELD = (M + SHARE - 1) / SHARE;
#define ROUND M
const uint FIRST_TOKEN = 0;
const uint TOKEN_STEP = 1;

NUMBER held[HELD * 4];  // columns 4l + b of tokens p SHARE .. at 4p + b
#if BITS == 4
int start[HELD];        // what the sum of a group starts from: -8 times the sum of the activations
#endif
float d_a[M];
float dots[M];          // of the group with one weight row
float slice_sums[M * TILES * 4];
float sums[M * TILES * 4];

uint first_tile() { return (gl_WorkGroupID.y * (WIDTH / 8u) + cluster()) * TILES; }

void share_sums(uint first) {}  // a lane holds what it finishes

vec4 result(uint t, uint m) {
    const uint i = (m * TILES + t) * 4;
    return vec4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
}

NUMBER from_lane(NUMBER value, uint lane) {
    return subgroupShuffle(value, (gl_SubgroupInvocationID & ~7u) + lane);
}

ivec4 signed_bytes(uint word) { return ivec4(word << 24, word << 16, word << 8, word) >> 24; }

ivec4 activation_columns(uint m, uint g) {
    return signed_bytes(activations[activation_of(m, g) * 8u + quad()]);
}

void load_activations(uint g) {
    [[unroll]] for (uint p = 0; p < HELD; ++p) {
        ivec4 columns = activation_columns(p * SHARE, g);
#if BITS == 4
        if (p * 2 + 1 < M) columns += activation_columns(p * 2 + 1, g) << 16;
        int sum = (columns.x + columns.y) + (columns.z + columns.w);
        sum += from_lane(sum, quad() ^ 1u);
        sum += from_lane(sum, quad() ^ 2u);
        sum += from_lane(sum, quad() ^ 4u);
        start[p] = sum * -8;
#endif
        [[unroll]] for (uint b = 0; b < 4; ++b) held[p * 4 + b] = NUMBER(columns[b]);
    }
    // lane l loads d_a of tokens l and 8 + l
    [[unroll]] for (uint first = 0; first < M; first += 8) {
        const float mine = factors[activation_of(min(first + quad(), M - 1u), g)];
        [[unroll]] for (uint m = first; m < min(first + 8, M); ++m)
            d_a[m] = subgroupShuffle(mine, (gl_SubgroupInvocationID & ~7u) + m - first);
    }
}

// One group of one weight row times every token, into dots.
void multiply_row(uint tile_group, uint r) {
#if BITS == 4
    int total[HELD];
    [[unroll]] for (uint p = 0; p < HELD; ++p) total[p] = start[p];
    const uvec4 packed = weights[tile_group * 32u + 4u * quad() + r];
    [[unroll]] for (uint j = 0; j < 4; ++j)
        [[unroll]] for (uint c = 0; c < 8; ++c) {
            const int w = int(packed[j] >> (8 * (c & 3) + 4 * (c >> 2)) & 15u);
            [[unroll]] for (uint p = 0; p < HELD; ++p)
                total[p] += w * from_lane(held[p * 4 + (c & 3)], 2 * j + (c >> 2));
        }
    [[unroll]] for (uint m = 0; m < M; ++m)
        dots[m] = float((m & 1) == 0 ? total[m / 2] << 16 >> 16 : total[m / 2] + 32768 >> 16);
#else
    [[unroll]] for (uint m = 0; m < M; ++m) dots[m] = 0.0;
    [[unroll]] for (uint half_ = 0; half_ < 2; ++half_) {
        const uvec4 packed = weights[tile_group * 64u + half_ * 32u + 4u * quad() + r];
        [[unroll]] for (uint j = 0; j < 4; ++j) {
            const ivec4 columns = signed_bytes(packed[j]);
            [[unroll]] for (uint b = 0; b < 4; ++b)
                [[unroll]] for (uint m = 0; m < M; ++m)
                    dots[m] += float(columns[b]) * from_lane(held[m * 4 + b], 4 * half_ + j);
        }
    }
#endif
}

void multiply_group(uint g) {
    load_activations(g);
    [[unroll]] for (uint t = 0; t < TILES; ++t) {
        const uint tile_group = real_tile(first_tile() + t) * push.groups + g;
        const uvec2 halves = scales[tile_group * 8u + quad()];
        const vec4 d_w = vec4(unpackHalf2x16(halves.x), unpackHalf2x16(halves.y));
        [[unroll]] for (uint r = 0; r < 4; ++r) {
            multiply_row(tile_group, r);
            [[unroll]] for (uint m = 0; m < M; ++m) {
                const uint i = (m * TILES + t) * 4 + r;
                slice_sums[i] = accumulate(dots[m], d_w[r], d_a[m], slice_sums[i]);
            }
        }
    }
}

void multiply() {
    [[unroll]] for (uint i = 0; i < M * TILES * 4; ++i) sums[i] = 0.0;
    for (uint s = 0; s < SLICES; ++s) {
        [[unroll]] for (uint i = 0; i < M * TILES * 4; ++i) slice_sums[i] = 0.0;
        for (uint g = s; g < push.groups; g += SLICES) multiply_group(g);
        [[unroll]] for (uint i = 0; i < M * TILES * 4; ++i) sums[i] += slice_sums[i];
    }
}

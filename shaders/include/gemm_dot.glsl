// Class of matrix product for devices with fast packed 4 x 8-bit integer dot products: a workgroup owns TILES tiles, its
// threads are WIDTH lanes along rows x SLICES slices of K. A subgroup reads 16 bytes a lane, 512 consecutive bytes of
// a tile; the activations are the same for all its lanes (scalar loads or one broadcast). Slices meet in shared memory.
// WIDTH divides 32 TILES; 32 TILES / WIDTH rows of a lane share an activation load. The weights of UNROLL groups are on
// their way at any time.
// Limits: M x SLICES x 32 TILES floats of shared memory (32 KiB), WIDTH x SLICES lanes (1024).
#extension GL_EXT_spirv_intrinsics : require
#extension GL_KHR_shader_subgroup_ballot : require
#define ACTIVATION uvec4
#include "gemm.glsl"
layout(constant_id = 3) const uint WIDTH = 32;
layout(constant_id = 4) const uint UNROLL = 1;
layout(local_size_x = 32, local_size_x_id = 3, local_size_y_id = 1) in;

// OpSDot of two packed words (format 0: 4 x 8 bit), as the compiler's GLSL has no name for it
spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int packed_dot(int a, int b, spirv_literal int format);

const uint ROWS = 32 * TILES;
const uint HELD = ROWS / WIDTH;  // rows of a lane
const uint WORDS = BITS / 4;     // of 16 bytes, in a group of a row
#define ROUND M
const uint TOKEN_STEP = WIDTH * SLICES / 8;
#define FIRST_TOKEN cluster()

uvec4 packed[UNROLL * HELD * WORDS];
uvec2 four_scales[UNROLL * HELD];
float slice_sums[HELD * M];
shared float shared_sums[SLICES * M * ROWS];

uint first_tile() { return gl_WorkGroupID.y * TILES; }

void share_sums(uint first) {
    [[unroll]] for (uint i = 0; i < HELD; ++i)
        [[unroll]] for (uint m = 0; m < M; ++m)
            shared_sums[(gl_LocalInvocationID.y * M + m) * ROWS + i * WIDTH + gl_LocalInvocationID.x] = slice_sums[i * M + m];
    barrier();
}

vec4 result(uint t, uint m) {
    precise vec4 total = vec4(0.0);
    for (uint s = 0; s < SLICES; ++s) {
        const uint i = (s * M + m) * ROWS + t * 32u + 4u * quad();
        total += vec4(shared_sums[i], shared_sums[i + 1], shared_sums[i + 2], shared_sums[i + 3]);
    }
    return total;
}

void read_group(uint slot, uint g) {
    [[unroll]] for (uint i = 0; i < HELD; ++i) {
        const uint row = i * WIDTH + gl_LocalInvocationID.x;
        const uint tile_group = real_tile(first_tile() + row / 32u) * push.groups + g;
        [[unroll]] for (uint h = 0; h < WORDS; ++h)
            packed[(slot * HELD + i) * WORDS + h] = weights[(tile_group * WORDS + h) * 32u + (row & 31u)];
        four_scales[slot * HELD + i] = scales[tile_group * 8u + (row & 31u) / 4u];
    }
}

float row_scale(uvec2 four, uint row) {
    const vec2 pair = unpackHalf2x16((row & 2u) == 0u ? four.x : four.y);
    return (row & 1u) == 0u ? pair.x : pair.y;
}

// a group's dot product with a row of activations whose columns are in the order of `low`, then of `high`
int packed_dots(uvec4 w_low, uvec4 w_high, uvec4 a_low, uvec4 a_high) {
    int sum = SUM_START;
    [[unroll]] for (uint j = 0; j < 4; ++j) sum += packed_dot(int(w_low[j]), int(a_low[j]), 0);
    [[unroll]] for (uint j = 0; j < 4; ++j) sum += packed_dot(int(w_high[j]), int(a_high[j]), 0);
    return sum;
}

void multiply_group(uint slot, uint g) {
    uvec4 w_low[HELD];
    uvec4 w_high[HELD];
    float d_w[HELD];
    [[unroll]] for (uint i = 0; i < HELD; ++i) {
        const uint at = (slot * HELD + i) * WORDS;
#if BITS == 4
        w_low[i] = low_nibbles(packed[at]);
        w_high[i] = high_nibbles(packed[at]);
#else
        w_low[i] = packed[at];
        w_high[i] = packed[at + 1];
#endif
        d_w[i] = row_scale(four_scales[slot * HELD + i], i * WIDTH + gl_LocalInvocationID.x);
    }
    [[unroll]] for (uint m = 0; m < M; ++m) {
        const uint at = activation_of(m, g);
        const uvec4 first = activations[2u * at];
        const uvec4 second = activations[2u * at + 1u];
#if BITS == 4
        const uvec4 a_low = uvec4(first.xz, second.xz);  // of the low nibbles, then of the high ones
        const uvec4 a_high = uvec4(first.yw, second.yw);
#else
        const uvec4 a_low = first;
        const uvec4 a_high = second;
#endif
        const float d_a = factors[at];
        [[unroll]] for (uint i = 0; i < HELD; ++i) {
            const float dot_g = dot_of(packed_dots(w_low[i], w_high[i], a_low, a_high));
            slice_sums[i * M + m] = accumulate(dot_g, d_w[i], d_a, slice_sums[i * M + m]);
        }
    }
}

#include "gemm_ring.glsl"

void multiply() {
    uint slice = gl_LocalInvocationID.y;
    if (WIDTH % gl_SubgroupSize == 0) slice = subgroupBroadcastFirst(slice);  // tells the compiler it is uniform
    [[unroll]] for (uint i = 0; i < HELD * M; ++i) slice_sums[i] = 0.0;
    multiply_slice(slice);
}

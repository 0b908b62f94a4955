// Class of matrix product for devices with fast packed 4 x 8-bit integer dot products: a workgroup owns TILES tiles, its
// threads are WIDTH lanes along rows x SLICES slices of K. A subgroup reads 16 bytes a lane, 512 consecutive bytes of
// a tile; the activations are the same for all its lanes (scalar loads or one broadcast). Slices meet in shared memory.
// WIDTH divides 32 TILES; 32 TILES / WIDTH rows of a lane share an activation load. UNROLL groups are in flight.
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
const uint TOKEN_STEP = WIDTH * SLICES / 8;
#define FIRST_TOKEN cluster()

float slice_sums[HELD * M];
shared float shared_sums[SLICES * M * ROWS];

uint first_tile() { return gl_WorkGroupID.y * TILES; }

vec4 result(uint t, uint m) {
    precise vec4 total = vec4(0.0);
    for (uint s = 0; s < SLICES; ++s) {
        const uint i = (s * M + m) * ROWS + t * 32u + 4u * quad();
        total += vec4(shared_sums[i], shared_sums[i + 1], shared_sums[i + 2], shared_sums[i + 3]);
    }
    return total;
}

// The 32 weights of a row and group, four signed bytes a word, in the order of the columns.
void load_weights(uint tile_group, uint row, out int words[8]) {
#if BITS == 4
    const uvec4 packed = weights[tile_group * 32u + row];
    [[unroll]] for (uint j = 0; j < 4; ++j) {
        // nibble - 8 as a byte, without a carry into the next one: n + 0x78 with its top bit flipped
        words[2 * j] = int((packed[j] & 0x0F0F0F0Fu) + 0x78787878u ^ 0x80808080u);
        words[2 * j + 1] = int((packed[j] >> 4 & 0x0F0F0F0Fu) + 0x78787878u ^ 0x80808080u);
    }
#else
    [[unroll]] for (uint h = 0; h < 2; ++h) {
        const uvec4 packed = weights[tile_group * 64u + h * 32u + row];
        [[unroll]] for (uint j = 0; j < 4; ++j) words[4 * h + j] = int(packed[j]);
    }
#endif
}

float row_scale(uint tile_group, uint row) {
    const uvec2 four = scales[tile_group * 8u + row / 4u];
    const vec2 pair = unpackHalf2x16((row & 2u) == 0u ? four.x : four.y);
    return (row & 1u) == 0u ? pair.x : pair.y;
}

void multiply_group(uint g) {
    int words[HELD][8];
    float d_w[HELD];
    [[unroll]] for (uint i = 0; i < HELD; ++i) {
        const uint row = i * WIDTH + gl_LocalInvocationID.x;
        const uint tile_group = real_tile(first_tile() + row / 32u) * push.groups + g;
        load_weights(tile_group, row & 31u, words[i]);
        d_w[i] = row_scale(tile_group, row & 31u);
    }
    [[unroll]] for (uint m = 0; m < M; ++m) {
        const uint at = (first_token() + m) * push.groups + g;
        const uvec4 low = activations[2u * at];
        const uvec4 high = activations[2u * at + 1u];
        const float d_a = factors[at];
        [[unroll]] for (uint i = 0; i < HELD; ++i) {
            int dot_ = 0;
            [[unroll]] for (uint j = 0; j < 4; ++j) dot_ += packed_dot(words[i][j], int(low[j]), 0);
            [[unroll]] for (uint j = 0; j < 4; ++j) dot_ += packed_dot(words[i][4 + j], int(high[j]), 0);
            slice_sums[i * M + m] = accumulate(float(dot_), d_w[i], d_a, slice_sums[i * M + m]);
        }
    }
}

void multiply() {
    uint slice = gl_LocalInvocationID.y;
    if (WIDTH % gl_SubgroupSize == 0) slice = subgroupBroadcastFirst(slice);  // tells the compiler it is uniform
    [[unroll]] for (uint i = 0; i < HELD * M; ++i) slice_sums[i] = 0.0;
    uint g = slice;
    for (; g + (UNROLL - 1) * SLICES < push.groups; g += UNROLL * SLICES)
        [[unroll]] for (uint u = 0; u < UNROLL; ++u) multiply_group(g + u * SLICES);
    for (; g < push.groups; g += SLICES) multiply_group(g);
    [[unroll]] for (uint i = 0; i < HELD; ++i)
        [[unroll]] for (uint m = 0; m < M; ++m)
            shared_sums[(slice * M + m) * ROWS + i * WIDTH + gl_LocalInvocationID.x] = slice_sums[i * M + m];
    barrier();
}

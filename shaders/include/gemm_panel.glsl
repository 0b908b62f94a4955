// Class of matrix product for many rows on devices with cooperative matrices of 8-bit integers, 16 x 8 x 32: a workgroup
// multiplies TILES tiles with the M rows of a block. A subgroup of 32 lanes takes one tile and M TILES 32 / WIDTH rows, all
// of K, slice after slice: sums of the slice at hand and of those before are in registers. Stages of UNROLL groups, weights
// unpacked, go through shared memory while the next stage is on its way; each byte of it serves a whole side of the panel.
// What the elements of a product are, and the order of a tile's rows: include/gemm_matrix.glsl.
// Workgroup: WIDTH lanes. Grid as in gemm.glsl.
// Limits: M a multiple of 16; subgroups of exactly 32 lanes, as many as TILES and UNROLL divide, with whole eights of rows
// each; (M + 32 TILES) (2 UNROLL + 1) 16 + M UNROLL 4 + TILES UNROLL 64 bytes of shared memory, (8 TILES + 1) 256 at least.
#extension GL_KHR_shader_subgroup_ballot : require
#define ACTIVATION uvec4
#include "gemm.glsl"
layout(constant_id = 3) const uint WIDTH = 128;  // lanes of the workgroup
layout(constant_id = 4) const uint UNROLL = 2;   // groups of a stage
layout(local_size_x = 32, local_size_x_id = 3) in;

const uint ROWS = 32 * TILES;
const uint SUBGROUPS = WIDTH / 32;
const uint EIGHTS = M * TILES / SUBGROUPS / 8;  // of a subgroup's rows of the block
const uint WORDS = BITS / 4;                    // of 16 bytes, in a group of a row
const uint ROUND = 16;                         // divides M
const uint TOKEN_STEP = WIDTH / 8;
#define FIRST_TOKEN cluster()

// A stage: the rows of the tiles, then those of the block, as bytes; an odd line a row keeps 8 rows in different banks. In
// the end the sums of ROUND rows of the block.
const uint PITCH = 2 * UNROLL + 1;
const uint SUM_PITCH = ROWS / 4 + 1;
const uint LINES = (ROWS + M) * PITCH > ROUND * SUM_PITCH ? (ROWS + M) * PITCH : ROUND * SUM_PITCH;
shared uvec4 lines[LINES];
shared uvec2 stage_scales[TILES * UNROLL * 8];  // [tile][group][row / 4]
shared vec2 stage_factors[UNROLL * M / 2];      // [group][row / 2]

// Reading a stage: a subgroup reads its group of every STEP-th tile and 16 rows of the block.
const uint STEP = SUBGROUPS / UNROLL;
const uint TILE_READS = (TILES + STEP - 1) / STEP;
const uint BLOCK_READS = (M / 16 + STEP - 1) / STEP;
uvec4 next_weights[TILE_READS * WORDS];
uvec2 next_scales[TILE_READS];
uvec4 next_rows[BLOCK_READS];
vec2 next_factors[BLOCK_READS];

uint lane;
uint subgroup;
vec4 slice_sums[EIGHTS * 2];  // of rows 4 (lane / 4) .. + 3 and row 8 n + 2 (lane % 4) + i of the subgroup's, at 2 n + i
vec4 sums[EIGHTS * 2];        // of the slices before

#include "coop_matrix.glsl"

uint first_tile() { return gl_WorkGroupID.y * TILES; }
uint my_tile() { return SUBGROUPS == TILES ? subgroup : subgroup % TILES; }
uint my_first_row() { return SUBGROUPS == TILES ? 0u : subgroup / TILES * (EIGHTS * 8u); }

// The group multiplied after g: the slice's next, or the first of the next slice.
uint group_after(uint g) { return g + SLICES < push.groups ? g + SLICES : g % SLICES + 1u; }

void read_stage(uint group) {
    const uint g = min(group, push.groups - 1u);
    [[unroll]] for (uint i = 0; i < TILE_READS; ++i) {
        const uint tile = min(subgroup / UNROLL + i * STEP, TILES - 1u);
        const uint at = real_tile(first_tile() + tile) * push.groups + g;
        const uint row = (lane & 7u) * 4u + (lane >> 3);  // row `lane` of the products
        [[unroll]] for (uint h = 0; h < WORDS; ++h) next_weights[i * WORDS + h] = weights[(at * WORDS + h) * 32u + row];
        next_scales[i] = scales[at * 8u + (lane & 7u)];
    }
    [[unroll]] for (uint i = 0; i < BLOCK_READS; ++i) {
        const uint block = min(subgroup / UNROLL + i * STEP, M / 16u - 1u);
        const uint at = activation_group(first_token() + 16u * block, g, push.groups);
        next_rows[i] = activations[at * 2u + lane];
        next_factors[i] = vec2(factors[at + 2u * (lane & 7u)], factors[at + 2u * (lane & 7u) + 1u]);
    }
}

void lay_out_stage() {
    const uint slot = subgroup % UNROLL;
    [[unroll]] for (uint i = 0; i < TILE_READS; ++i) {
        const uint tile = subgroup / UNROLL + i * STEP;
        if (TILES % STEP != 0 && tile >= TILES) continue;
        const uint line = (tile * 32u + lane) * PITCH + 2u * slot;
#if BITS == 4
        const uvec4 low = low_nibbles(next_weights[i]);
        const uvec4 high = high_nibbles(next_weights[i]);
        lines[line] = uvec4(low.x, high.x, low.y, high.y);
        lines[line + 1u] = uvec4(low.z, high.z, low.w, high.w);
#else
        lines[line] = next_weights[2 * i];
        lines[line + 1u] = next_weights[2 * i + 1];
#endif
        if (lane < 8u) stage_scales[(tile * UNROLL + slot) * 8u + lane] = next_scales[i];
    }
    [[unroll]] for (uint i = 0; i < BLOCK_READS; ++i) {
        const uint block = subgroup / UNROLL + i * STEP;
        if (M / 16 % STEP != 0 && block >= M / 16u) continue;
        lines[(ROWS + block * 16u + (lane >> 1)) * PITCH + 2u * slot + (lane & 1u)] = next_rows[i];
        if (lane < 8u) stage_factors[slot * (M / 2u) + block * 8u + lane] = next_factors[i];
    }
}

void multiply_group(uint slot) {
    const uvec2 halves = stage_scales[(my_tile() * UNROLL + slot) * 8u + (lane >> 2)];
    const vec4 d_w = vec4(unpackHalf2x16(halves.x), unpackHalf2x16(halves.y));
    const uint tile_line = my_tile() * 32u * PITCH + 2u * slot;
    Left left[2];
    LOAD_LEFT(left[0], lines, tile_line, PITCH);
    LOAD_LEFT(left[1], lines, tile_line + 16u * PITCH, PITCH);
    [[unroll]] for (uint n = 0; n < EIGHTS; ++n) {
        const uint row = my_first_row() + 8u * n;
        const vec2 d_a = stage_factors[slot * (M / 2u) + row / 2u + (lane & 3u)];
        Right right;
        LOAD_RIGHT(right, lines, (ROWS + row) * PITCH + 2u * slot, PITCH);
        [[unroll]] for (uint h = 0; h < 2; ++h) {
            const Integers dots = MULTIPLY(left[h], right, SUM_START);
            [[unroll]] for (uint e = 0; e < 4; ++e) {
                const uint i = 2 * n + (e & 1), r = 2 * h + (e >> 1);
                slice_sums[i][r] = accumulate(dot_of(dots[e]), d_w[r], d_a[e & 1], slice_sums[i][r]);
            }
        }
    }
}

void end_slice() {
    [[unroll]] for (uint i = 0; i < EIGHTS * 2; ++i) {
        precise const vec4 sum = sums[i] + slice_sums[i];
        sums[i] = sum;
        slice_sums[i] = vec4(0.0);
    }
}

void multiply() {
    lane = gl_LocalInvocationIndex & 31u;
    subgroup = subgroupBroadcastFirst(gl_LocalInvocationIndex >> 5);
    [[unroll]] for (uint i = 0; i < EIGHTS * 2; ++i) sums[i] = slice_sums[i] = vec4(0.0);
    uint next = 0u;
    for (uint i = 0; i < subgroup % UNROLL; ++i) next = group_after(next);
    read_stage(next);
    uint g = 0u;
    for (uint first = 0u; first < push.groups; first += UNROLL) {
        barrier();  // the stage before has been multiplied
        lay_out_stage();
        barrier();
        [[unroll]] for (uint i = 0; i < UNROLL; ++i) next = group_after(next);
        read_stage(next);
        [[unroll]] for (uint slot = 0; slot < UNROLL; ++slot)
            if (first + slot < push.groups) {
                multiply_group(slot);
                if (g + SLICES >= push.groups) end_slice();
                g = group_after(g);
            }
    }
}

void share_sums(uint first) {
    barrier();  // the lines have been read
    [[unroll]] for (uint n = 0; n < EIGHTS; ++n) {
        const uint row = my_first_row() + 8u * n - first;
        if (row < ROUND)
            [[unroll]] for (uint i = 0; i < 2; ++i)
                lines[(row + 2u * (lane & 3u) + i) * SUM_PITCH + my_tile() * 8u + (lane >> 2)] = floatBitsToUint(sums[2 * n + i]);
    }
    barrier();
}

vec4 result(uint t, uint m) { return uintBitsToFloat(lines[(m % ROUND) * SUM_PITCH + t * 8u + quad()]); }

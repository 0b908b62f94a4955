// Class of matrix product for devices with cooperative matrices of 8-bit integers, 16 x 8 x 32 with 32-bit sums: a subgroup of
// 32 lanes is one slice of K for TILES tiles. Per group it lays 32 rows a tile out as bytes in shared memory, multiplies them
// with the activations of all rows of the block and scales the exact integers in registers; slices meet in shared memory.
// Row r of a tile is row r / 4 + 8 (r % 4) of its two products: a lane's sums are then four neighbouring rows, whose scales
// are one load. That takes the elements of a lane l to be rows l / 4 and l / 4 + 8 and columns 2 (l % 4) and + 1, in the order
// (0, 0) (0, 1) (8, 0) (8, 1), as on NVIDIA's devices; target/tuning asks for this class only where tests have shown it.
// Lanes wait for each other between writing and reading their subgroup's lines, without ordering memory: on such devices
// a subgroup's accesses to shared memory keep their order, and a memory barrier would wait for the weights on their way too.
// Workgroup: 32 lanes x SLICES. Grid as in gemm.glsl. The weights of UNROLL groups are on their way at any time.
// Limits: subgroups of exactly 32 lanes; SLICES x max(96, 64 TILES) x 16 bytes of shared memory.
#extension GL_KHR_shader_subgroup_ballot : require
#define ACTIVATION uvec4
#include "coop_matrix.glsl"
#include "gemm.glsl"
layout(constant_id = 4) const uint UNROLL = 1;
layout(local_size_x = 32, local_size_y_id = 1) in;

const uint ROWS = 32 * TILES;
const uint EIGHTS = (M + 7) / 8;  // products side by side
const uint WORDS = BITS / 4;      // of 16 bytes, in a group of a row
const uint ROUND = M < 8 ? M : 8;
const uint TOKEN_STEP = 4 * SLICES;
#define FIRST_TOKEN cluster()

// A slice's lines of 16 bytes: 32 rows of a tile as bytes, a third of each row a gap that keeps 8 rows in different banks;
// in the end the sums of 8 rows of activations, [8][ROWS / 4].
const uint LINES = 96 > 2 * ROWS ? 96 : 2 * ROWS;
shared uvec4 lines[SLICES * LINES];

uint slice;
uint lane;
uvec4 packed[UNROLL * TILES * WORDS];
uvec2 four_scales[UNROLL * TILES];
vec4 slice_sums[TILES * EIGHTS * 2];  // of rows 4 (lane / 4) .. + 3 and block row 8 eighth + 2 (lane % 4) + i, at 2 eighth + i

uint first_tile() { return gl_WorkGroupID.y * TILES; }

void meet() { controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, 0, 0); }

void share_sums(uint first) {
    barrier();  // the lines have been read
    [[unroll]] for (uint t = 0; t < TILES; ++t)
        [[unroll]] for (uint i = 0; i < 2; ++i)
            lines[slice * LINES + ((lane & 3u) * 2u + i) * (ROWS / 4u) + t * 8u + (lane >> 2)] =
                floatBitsToUint(slice_sums[(t * EIGHTS + first / 8u) * 2u + i]);
    barrier();
}

vec4 result(uint t, uint m) {
    precise vec4 total = vec4(0.0);
    for (uint s = 0; s < SLICES; ++s)
        total += uintBitsToFloat(lines[s * LINES + (first_token() + m & 7u) * (ROWS / 4u) + t * 8u + quad()]);
    return total;
}

void read_group(uint slot, uint g) {
    const uint row = (lane & 7u) * 4u + (lane >> 3);  // row `lane` of the products
    [[unroll]] for (uint t = 0; t < TILES; ++t) {
        const uint tile_group = real_tile(first_tile() + t) * push.groups + g;
        [[unroll]] for (uint h = 0; h < WORDS; ++h)
            packed[(slot * TILES + t) * WORDS + h] = weights[(tile_group * WORDS + h) * 32u + row];
        four_scales[slot * TILES + t] = scales[tile_group * 8u + lane / 4u];
    }
}

// Row `lane` of the products as bytes, in the order of the columns.
void lay_out(uint at) {
    const uint line = slice * LINES + lane * 3u;
#if BITS == 4
    const uvec4 low = low_nibbles(packed[at]);
    const uvec4 high = high_nibbles(packed[at]);
    lines[line] = uvec4(low.x, high.x, low.y, high.y);
    lines[line + 1u] = uvec4(low.z, high.z, low.w, high.w);
#else
    lines[line] = packed[at];
    lines[line + 1u] = packed[at + 1];
#endif
}

void multiply_group(uint slot, uint g) {
    const uint at = activation_group(first_token() & ~7u, g, push.groups);  // eights of rows, whatever M is
    Right right[EIGHTS];
    vec2 d_a[EIGHTS];
    [[unroll]] for (uint n = 0; n < EIGHTS; ++n) {
        LOAD_RIGHT(right[n], activations, (at + 8u * n) * 2u, 2);
        const uint mine = at + 8u * n + 2u * (lane & 3u);
        d_a[n] = vec2(factors[mine], factors[mine + 1u]);
    }
    [[unroll]] for (uint t = 0; t < TILES; ++t) {
        const uvec2 halves = four_scales[slot * TILES + t];
        const vec4 d_w = vec4(unpackHalf2x16(halves.x), unpackHalf2x16(halves.y));
        lay_out((slot * TILES + t) * WORDS);
        meet();
        [[unroll]] for (uint h = 0; h < 2; ++h) {  // products of 16 rows
            Left left;
            LOAD_LEFT(left, lines, slice * LINES + 48u * h, 3);
            [[unroll]] for (uint n = 0; n < EIGHTS; ++n) {
                const Integers sums = MULTIPLY(left, right[n], SUM_START);
                [[unroll]] for (uint e = 0; e < 4; ++e) {
                    const uint i = (t * EIGHTS + n) * 2 + (e & 1), r = 2 * h + (e >> 1);
                    slice_sums[i][r] = accumulate(dot_of(sums[e]), d_w[r], d_a[n][e & 1], slice_sums[i][r]);
                }
            }
        }
        meet();
    }
}

#include "gemm_ring.glsl"

void multiply() {
    lane = gl_LocalInvocationID.x;
    slice = subgroupBroadcastFirst(gl_LocalInvocationID.y);
    [[unroll]] for (uint i = 0; i < TILES * EIGHTS * 2; ++i) slice_sums[i] = vec4(0.0);
    multiply_slice(slice);
}

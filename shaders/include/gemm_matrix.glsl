// Class of matrix product for devices with cooperative matrices of 8-bit integers (16 x TOKENS x DEPTH, 32-bit sums): a
// subgroup of 32 lanes is one slice of K for TILES tiles. Per group it unpacks 32 rows a tile into shared memory, multiplies
// them with the activations of TOKENS rows at once, and scales the exact integers in registers; slices meet in shared memory.
//   BITS 4: nibbles stay unsigned (0 .. 15); their offset of 8 is in the products' start, -8 times the sum of the activations.
// Which element of a product a lane holds is the device's secret: lanes read it from a product of indices. ROW_BITS and
// COLUMN_BITS say which bits of an element's index change its row and its column (7: any may), so that what elements
// share is read once; target/tuning finds and checks them.
// Workgroup: 32 lanes x SLICES. Grid as in gemm.glsl; blocks of M <= TOKENS rows.
// Limits: subgroups of exactly 32 lanes; SLICES x (LINES x 16 + (ROWS + 2 TOKENS) x 4) bytes of shared memory.
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int32 : require
#extension GL_EXT_spirv_intrinsics : require
#define ACTIVATION uvec4
#include "gemm.glsl"
layout(constant_id = 4) const uint TOKENS = 16;  // columns of a product: 8 or 16
layout(constant_id = 5) const uint DEPTH = 32;   // columns of K in a product: 16 or 32
layout(constant_id = 6) const uint ROW_BITS = 7;
layout(constant_id = 7) const uint COLUMN_BITS = 7;
layout(local_size_x = 32, local_size_y_id = 1) in;

spirv_instruction(extensions = ["SPV_KHR_integer_dot_product"], capabilities = [6019, 6018], id = 4450)
int packed_dot(int a, int b, spirv_literal int format);

#define Left coopmat<int8_t, gl_ScopeSubgroup, 16, DEPTH, gl_MatrixUseA>
#define Right coopmat<int8_t, gl_ScopeSubgroup, DEPTH, TOKENS, gl_MatrixUseB>
#define Integers coopmat<int32_t, gl_ScopeSubgroup, 16, TOKENS, gl_MatrixUseAccumulator>
#define Floats coopmat<float, gl_ScopeSubgroup, 16, TOKENS, gl_MatrixUseAccumulator>

const uint ROWS = 32 * TILES;
const uint ELEMENTS = TOKENS / 2;  // of a product, in a lane
const uint TOKEN_STEP = 4 * SLICES;
#define FIRST_TOKEN cluster()

// A slice's lines of 16 bytes: unpacked weights [ROWS][3], activations [TOKENS][3] (a third of each row is a gap that keeps
// 8 rows in different banks); in the end its sums [TOKENS][ROWS] of 4 bytes.
const uint TOKEN_LINE = ROWS * 3;
const uint SUM_LINES = TOKENS * ROWS / 4;
const uint LINES = TOKEN_LINE + TOKENS * 3 > SUM_LINES ? TOKEN_LINE + TOKENS * 3 : SUM_LINES;
shared uvec4 lines[SLICES * LINES];
shared float row_factors[SLICES * ROWS];      // d_w
shared float token_factors[SLICES * TOKENS];  // d_a
shared int token_starts[SLICES * TOKENS];

uint slice;
uint row_of[ELEMENTS];
uint column_of[ELEMENTS];
Floats slice_sums[2 * TILES];

// what a lane has read of the next group
uvec4 packed[TILES * BITS / 4];
uvec2 row_scales[TILES];
uvec4 columns;  // 16 of one token: token lane / 2, half lane % 2
float token_scale;

uint first_tile() { return gl_WorkGroupID.y * TILES; }

// Orders the subgroup's use of shared memory alone: loads from buffers stay on their way.
void meet() {
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared, gl_SemanticsAcquireRelease);
}

vec4 result(uint t, uint m) {
    precise vec4 total = vec4(0.0);
    for (uint s = 0; s < SLICES; ++s)
        total += uintBitsToFloat(lines[s * LINES + m * (ROWS / 4) + t * 8u + quad()]);
    return total;
}

void read_group(uint g) {
    const uint lane = gl_LocalInvocationID.x;
    [[unroll]] for (uint t = 0; t < TILES; ++t) {
        const uint tile_group = real_tile(first_tile() + t) * push.groups + g;
#if BITS == 4
        packed[t] = weights[tile_group * 32u + lane];
#else
        packed[2 * t] = weights[tile_group * 64u + lane];
        packed[2 * t + 1] = weights[tile_group * 64u + 32u + lane];
#endif
        row_scales[t] = scales[tile_group * 8u + lane / 4u];
    }
    const uint at = (first_token() + min(lane / 2u, M - 1u)) * push.groups + g;
    columns = activations[2u * at + (lane & 1u)];
    token_scale = factors[at];
}

// Lays a group out for the products: rows, tokens, their scales, and what the products start from.
void share_group() {
    const uint lane = gl_LocalInvocationID.x;
    [[unroll]] for (uint t = 0; t < TILES; ++t) {
        const uint line = slice * LINES + (t * 32u + lane) * 3u;
#if BITS == 4
        const uvec4 low = packed[t] & 0x0F0F0F0Fu;
        const uvec4 high = packed[t] >> 4 & 0x0F0F0F0Fu;
        lines[line] = uvec4(low.x, high.x, low.y, high.y);
        lines[line + 1u] = uvec4(low.z, high.z, low.w, high.w);
#else
        lines[line] = packed[2 * t];
        lines[line + 1u] = packed[2 * t + 1];
#endif
        const vec2 pair = unpackHalf2x16((lane & 2u) == 0u ? row_scales[t].x : row_scales[t].y);
        row_factors[slice * ROWS + t * 32u + lane] = (lane & 1u) == 0u ? pair.x : pair.y;
    }
    const uint token = lane / 2u;
    int sum = 0;
    [[unroll]] for (uint j = 0; j < 4; ++j) sum = sum + packed_dot(int(columns[j]), 0x01010101, 0);
    sum += subgroupShuffle(sum, lane ^ 1u);
    if (token < TOKENS) {
        lines[slice * LINES + TOKEN_LINE + token * 3u + (lane & 1u)] = columns;
        token_factors[slice * TOKENS + token] = token_scale;
        token_starts[slice * TOKENS + token] = BITS == 4 ? sum * -8 : 0;
    }
}

void multiply_group() {
    Right right[32 / DEPTH];
    [[unroll]] for (uint d = 0; d < 32 / DEPTH; ++d)
        coopMatLoad(right[d], lines, slice * LINES + TOKEN_LINE + d, 3, gl_CooperativeMatrixLayoutColumnMajor);
    int start[ELEMENTS];
    float d_a[ELEMENTS];
    [[unroll]] for (uint e = 0; e < ELEMENTS; ++e)
        if ((e & COLUMN_BITS) == e) {
            start[e] = token_starts[slice * TOKENS + column_of[e]];
            d_a[e] = token_factors[slice * TOKENS + column_of[e]];
        }
    [[unroll]] for (uint i = 0; i < 2 * TILES; ++i) {
        Integers dots;
        [[unroll]] for (uint e = 0; e < ELEMENTS; ++e) dots[e] = start[e & COLUMN_BITS];
        [[unroll]] for (uint d = 0; d < 32 / DEPTH; ++d) {
            Left left;
            coopMatLoad(left, lines, slice * LINES + i * 48 + d, 3, gl_CooperativeMatrixLayoutRowMajor);
            dots = coopMatMulAdd(left, right[d], dots);
        }
        float d_w[ELEMENTS];
        [[unroll]] for (uint e = 0; e < ELEMENTS; ++e)
            if ((e & ROW_BITS) == e) d_w[e] = row_factors[slice * ROWS + i * 16 + row_of[e]];
        [[unroll]] for (uint e = 0; e < ELEMENTS; ++e)
            slice_sums[i][e] = accumulate(float(dots[e]), d_w[e & ROW_BITS], d_a[e & COLUMN_BITS], slice_sums[i][e]);
    }
}

// Which row and column each element of this lane has: loaded like a product, a matrix of indices tells.
void find_elements() {
    const uint lane = gl_LocalInvocationID.x;
    for (uint i = lane; i < 4 * TOKENS; i += 32) lines[slice * LINES + i] = 4u * i + uvec4(0, 1, 2, 3);
    meet();
    Integers indices;
    coopMatLoad(indices, lines, slice * LINES, TOKENS / 4, gl_CooperativeMatrixLayoutRowMajor);
    [[unroll]] for (uint e = 0; e < ELEMENTS; ++e) {
        row_of[e] = uint(indices[e]) / TOKENS;
        column_of[e] = uint(indices[e]) % TOKENS;
    }
    meet();
}

void multiply() {
    slice = subgroupBroadcastFirst(gl_LocalInvocationID.y);
    [[unroll]] for (uint i = 0; i < 2 * TILES; ++i) slice_sums[i] = Floats(0.0);
    read_group(min(slice, push.groups - 1u));
    find_elements();
    for (uint g = slice; g < push.groups; g += SLICES) {
        share_group();
        meet();
        read_group(min(g + SLICES, push.groups - 1u));  // on its way while this one is multiplied
        multiply_group();
        meet();
    }
    [[unroll]] for (uint i = 0; i < 2 * TILES; ++i)
        coopMatStore(slice_sums[i], lines, slice * LINES + i * 4, ROWS / 4, gl_CooperativeMatrixLayoutColumnMajor);
    barrier();
}

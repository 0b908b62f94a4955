// The head: logits of every token, reduced at once to the best of each TILES tiles; no logit is stored.
//   values[m][p], ids[m][p] = the largest logit among rows 32 TILES p .. 32 TILES (p + 1) - 1 and its row (token id),
//   the lowest id at a tie; (-infinity, 0xFFFFFFFF) where none is comparable.
// The product is that of include/gemm.glsl, bit for bit that of gemm.comp. values float, ids uint, both [rows][stride];
// a part of the head writes its partials in place: p counts from the matrix's first row (push.first_row). Rows from
// push.num_rows of the part on are padding.
// Defines: BITS 4 or 8; INTEGER_DOT 0 .. 3 (class, include/gemm_class.glsl). Caller: target/plan.py, before choose.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/gemm_class.glsl"
layout(binding = 4, std430) writeonly restrict buffer Values { float values[]; };
layout(binding = 5, std430) writeonly restrict buffer Ids { uint ids[]; };

struct Best {
    float value;
    uint id;
};

Best better(Best a, Best b) {
    if (b.value > a.value || (b.value == a.value && b.id < a.id)) return b;
    return a;
}

void main() {
    multiply();
    [[unroll]] for (uint first = 0; first < M; first += ROUND) {
        share_sums(first);
        [[unroll]] for (uint m = first + FIRST_TOKEN; m < first + ROUND; m += TOKEN_STEP) {
            Best best = Best(uintBitsToFloat(0xFF800000u), 0xFFFFFFFFu);  // -infinity
            [[unroll]] for (uint t = 0; t < TILES; ++t) {
                const vec4 logits = result(t, m);
                [[unroll]] for (uint r = 0; r < 4; ++r) {
                    const uint row = (first_tile() + t) * 32u + 4u * quad() + r;
                    if (row < push.num_rows) best = better(best, Best(logits[r], push.first_row + row));
                }
            }
            [[unroll]] for (uint step = 1; step < 8; step <<= 1) {
                const uint other = gl_SubgroupInvocationID ^ step;
                best = better(best, Best(subgroupShuffle(best.value, other), subgroupShuffle(best.id, other)));
            }
            const uint partial = (push.first_row / 32u + first_tile()) / TILES;
            if (first_tile() < push.tiles && quad() == 0u) {
                values[(first_token() + m) * push.stride + partial] = best.value;
                ids[(first_token() + m) * push.stride + partial] = best.id;
            }
        }
    }
}

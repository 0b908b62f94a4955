#version 460
// The head: logits of every token, reduced at once to the best of each TILES tiles; no logit is stored.
//   values[m][p], ids[m][p] = the largest logit among rows 32 TILES p .. 32 TILES (p + 1) - 1 and its row (token id),
//   the lowest id at a tie; (-infinity, 0xFFFFFFFF) where none is comparable.
// The product is that of include/gemm.glsl, bit for bit that of gemm.comp. values float, ids uint, both [rows][stride];
// a part of the head writes its partials in place: p counts from the matrix's first row (push.first_row). Rows from
// push.num_rows of the part on are padding.
// Defines: BITS 4 or 8; INTEGER_DOT 0 or 1 (class). Caller: target/plan.py, before choose.
#extension GL_GOOGLE_include_directive : require
#include "include/gemm_class.glsl"
layout(binding = 4, std430) writeonly restrict buffer Values { float values[]; };
layout(binding = 5, std430) writeonly restrict buffer Ids { uint ids[]; };

void take(inout float best, inout uint best_id, float value, uint id) {
    const bool better = value > best || (value == best && id < best_id);
    best = better ? value : best;
    best_id = better ? id : best_id;
}

void main() {
    multiply();
    [[unroll]] for (uint m = FIRST_TOKEN; m < M; m += TOKEN_STEP) {
        float best = uintBitsToFloat(0xFF800000u);  // -infinity
        uint best_id = 0xFFFFFFFFu;
        [[unroll]] for (uint t = 0; t < TILES; ++t) {
            const vec4 logits = result(t, m);
            [[unroll]] for (uint r = 0; r < 4; ++r) {
                const uint row = (first_tile() + t) * 32u + 4u * quad() + r;
                if (row < push.num_rows) take(best, best_id, logits[r], push.first_row + row);
            }
        }
        [[unroll]] for (uint step = 1; step < 8; step <<= 1) {
            const float value = subgroupShuffle(best, gl_SubgroupInvocationID ^ step);
            const uint id = subgroupShuffle(best_id, gl_SubgroupInvocationID ^ step);
            take(best, best_id, value, id);
        }
        const uint partial = (push.first_row / 32u + first_tile()) / TILES;
        if (first_tile() < push.tiles && quad() == 0u) {
            values[(first_token() + m) * push.stride + partial] = best;
            ids[(first_token() + m) * push.stride + partial] = best_id;
        }
    }
}

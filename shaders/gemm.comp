// Matrix product of quantised weights and activations, float32 out: qkv, o, down, and full logits of the head.
//   y[m][n] = w[n] . a[m], the arithmetic and layouts of include/gemm.glsl
// y float [rows][stride]: row n of the weights goes to column push.first_row + n. Whole tiles are written, padding rows
// too (as 0): stride is at least the padded N.
// Defines: BITS 4 or 8; INTEGER_DOT 0 .. 3 (class, include/gemm_class.glsl). Caller: target/plan.py.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/gemm_class.glsl"
layout(binding = 4, std430) writeonly restrict buffer Output { vec4 y[]; };

void main() {
    multiply();
    [[unroll]] for (uint first = 0; first < M; first += ROUND) {
        share_sums(first);
        [[unroll]] for (uint m = first + FIRST_TOKEN; m < first + ROUND; m += TOKEN_STEP) {
            const uint row = (first_token() + m) * push.stride + push.first_row;
            [[unroll]] for (uint t = 0; t < TILES; ++t) {
                const uint tile = first_tile() + t;
                if (tile < push.tiles) y[row / 4u + tile * 8u + quad()] = result(t, m);
            }
        }
    }
}

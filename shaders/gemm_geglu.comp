// gate_up product, gated GELU and quantisation in one: the activations of `down`.
//   h[m][n] = gelu(gate[n] . a[m]) * (up[n] . a[m]);  aq, as = quantise(h) in groups of 32 (include/activation.glsl)
// Weight tile 2i holds rows 32i .. 32i + 31 of gate, tile 2i + 1 those of up: one output group. The product is that of
// include/gemm.glsl. aq, as: include/activation_layout.glsl; stride = intermediate size / 32 = groups of a row.
// Defines: BITS 4 or 8; INTEGER_DOT 0 .. 3 (class, include/gemm_class.glsl). TILES is even. Caller: target/plan.py, once a layer.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "include/gemm_class.glsl"
#define ACTIVATION_BINDING 4
#include "include/activation.glsl"
#include "include/math.glsl"

float gated(float gate, float up) {
    precise const float h = gelu_tanh(gate) * up;
    return h;
}

void main() {
    multiply();
    [[unroll]] for (uint first = 0; first < M; first += ROUND) {
        share_sums(first);
        [[unroll]] for (uint m = first + FIRST_TOKEN; m < first + ROUND; m += TOKEN_STEP)
            [[unroll]] for (uint t = 0; t < TILES; t += 2) {
                const vec4 gate = result(t, m);
                const vec4 up = result(t + 1, m);
                const vec4 h = vec4(gated(gate.x, up.x), gated(gate.y, up.y), gated(gate.z, up.z), gated(gate.w, up.w));
                float amax = largest(h);
                [[unroll]] for (uint step = 1; step < 8; step <<= 1)
                    amax = max(amax, subgroupShuffle(amax, gl_SubgroupInvocationID ^ step));
                const uint tile = first_tile() + t;
                if (tile < push.tiles)
                    store_quantised(first_token() + m, push.stride * 8u, tile * 4u + quad(), h, amax);
            }
    }
}

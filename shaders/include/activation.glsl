// How quantised activations are written: 8-bit integers in groups of 32 along K with one float32 scale each.
//   scale = amax * (1 / 127), q = roundEven(x * (127 / amax)); both 0 where amax is below 2^-100.
// Layout: include/activation_layout.glsl; byte b of a group's word w is its column 4w + b.
// Define ACTIVATION_BINDING first: aq is there, as at the next binding.
#ifndef ACTIVATION_GLSL
#define ACTIVATION_GLSL
#include "activation_layout.glsl"
layout(binding = ACTIVATION_BINDING, std430) writeonly restrict buffer ActivationValues { uint activation_values[]; };
layout(binding = ACTIVATION_BINDING + 1, std430) writeonly restrict buffer ActivationScales { float activation_scales[]; };

float largest(vec4 v) {
    const vec4 a = abs(v);
    return max(max(a.x, a.y), max(a.z, a.w));
}

const float MIN_AMAX = 7.888609052210118e-31;  // 2^-100: keeps 127 / amax finite

// Writes columns 4 word .. 4 word + 3 of `row`; amax is the largest magnitude of their group of 32.
void store_quantised(uint row, uint words_per_row, uint word, vec4 v, float amax) {
    const bool is_zero = amax < MIN_AMAX;
    const float inverse = is_zero ? 0.0 : 127.0 / amax;
    const vec4 q = roundEven(v * inverse);
    const uvec4 b = uvec4(ivec4(q)) & 255u;
    const uint at = activation_group(row, word >> 3, words_per_row >> 3);
    activation_values[at * 8u + (word & 7u)] = b.x | (b.y << 8) | (b.z << 16) | (b.w << 24);
    if ((word & 7u) == 0u) activation_scales[at] = is_zero ? 0.0 : amax * (1.0 / 127.0);
}
#endif

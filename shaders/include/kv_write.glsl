// Writes the key or value in the shared array `head` (float [HEAD_DIM]) into the cache, by a workgroup of 64 threads.
// Whatever comes in, what is cached is finite: another row multiplies it by a weight of zero.
// Needs kv_layout.glsl, half.glsl, the shared array, KEY_BINDING and VALUE_BINDING.
layout(binding = KEY_BINDING, std430) writeonly buffer Keys { uvec4 keys[]; };
#if KV_INT8
layout(binding = VALUE_BINDING, std430) writeonly buffer Values { uint values[]; };
layout(binding = KEY_BINDING, std430) writeonly buffer KeyScales { float key_scales[]; };
layout(binding = VALUE_BINDING, std430) writeonly buffer ValueScales { float value_scales[]; };

float finite(float v) { return abs(v) <= 65504.0 ? v : v < 0.0 ? -65504.0 : 65504.0; }

float largest_of_group(uint group) {
    float amax = 0.0;
    for (uint i = 0u; i < 32u; ++i) amax = max(amax, abs(finite(head[group * 32u + i])));
    return amax;
}

uint quantised_word(uint d, float inverse) {
    uint word = 0u;
    for (uint b = 0u; b < 4u; ++b)
        word |= (uint(int(roundEven(finite(head[d + b]) * inverse))) & 255u) << (8u * b);
    return word;
}

void write_head(bool is_value, uint head_row, uint index) {
    const uint unit = gl_LocalInvocationIndex;  // 16 dims
    if (unit < HEAD_DIM / 16u) {
        const uint group = unit / 2u;
        const float amax = largest_of_group(group);
        const float inverse = amax < 1e-30 ? 0.0 : 127.0 / amax;
        const float scale = amax < 1e-30 ? 0.0 : amax * (1.0 / 127.0);
        const uvec4 words = uvec4(quantised_word(unit * 16u, inverse), quantised_word(unit * 16u + 4u, inverse),
                                  quantised_word(unit * 16u + 8u, inverse), quantised_word(unit * 16u + 12u, inverse));
        const uint value_at = value_word(head_row, index);
        if (is_value) {
            for (uint w = 0u; w < 4u; ++w) values[value_at + unit * 4u + w] = words[w];
            if ((unit & 1u) == 0u) value_scales[value_at + HEAD_DIM / 4u + group] = scale;
        } else {
            keys[key_unit(head_row, index) + unit * 32u] = words;
            if ((unit & 1u) == 0u) key_scales[key_scale(head_row, index) + group * 32u] = scale;
        }
    }
}
#else
layout(binding = VALUE_BINDING, std430) writeonly buffer Values { uvec4 values[]; };

void write_head(bool is_value, uint head_row, uint index) {
    const uint d = gl_LocalInvocationIndex * 8u;
    if (d < HEAD_DIM) {
        const uvec4 words = uvec4(half_pair(head[d], head[d + 1u]), half_pair(head[d + 2u], head[d + 3u]),
                                  half_pair(head[d + 4u], head[d + 5u]), half_pair(head[d + 6u], head[d + 7u]));
        if (is_value)
            values[(value_word(head_row, index) + d / 2u) / 4u] = words;
        else
            keys[key_unit(head_row, index) + d * 4u] = words;
    }
}
#endif

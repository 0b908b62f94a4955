// Reads cached keys and values as floats. Needs kv_layout.glsl, KEY_BINDING and VALUE_BINDING.
layout(binding = KEY_BINDING, std430) readonly buffer Keys { uvec4 keys[]; };
#if KV_INT8
layout(binding = KEY_BINDING, std430) readonly buffer KeyScales { float key_scales[]; };
layout(binding = VALUE_BINDING, std430) readonly buffer Values { uint values[]; };
layout(binding = VALUE_BINDING, std430) readonly buffer ValueScales { float value_scales[]; };

vec4 signed_bytes(uint word) {
    const int v = int(word);
    return vec4(bitfieldExtract(v, 0, 8), bitfieldExtract(v, 8, 8), bitfieldExtract(v, 16, 8), v >> 24);
}

// Four dims, 4 quad .. 4 quad + 3, of the value that starts at word `at`.
vec4 value_quad(uint at, uint quad) {
    return signed_bytes(values[at + quad]) * value_scales[at + HEAD_DIM / 4u + quad / 8u];
}
#else
layout(binding = VALUE_BINDING, std430) readonly buffer Values { uvec2 values[]; };

vec4 value_quad(uint at, uint quad) {
    const uvec2 words = values[at / 2u + quad];
    return vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y));
}
#endif

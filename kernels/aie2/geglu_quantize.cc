// Gated GELU of Gemma's feed-forward, quantised: h = gelu_tanh(gate) * up as INT8 with a scale per group of 32.
//
// Formula  gelu_tanh(g) = g / (1 + 2^(-2 log2(e) sqrt(2/pi) (g + 0.044715 g^3))).
// Shapes   gate_up float [groups][32 gate, 32 up]; values int8 [32 groups]; scales bf16 high and low [groups].
// Steps    products of split bfloat16, 2^x by a polynomial of degree 4 (relative error 5e-5), the quotient by Newton.
// Estimate 200 cycles per 16 outputs, then quantize_row; 1.2 KB of program; the outputs of a call wait in the caller's buffer.
// Rounding conv_even. Called by vector_core.cc.
#include "float_math.h"
#include "kernels.h"

static inline float16_lanes gated(const float16_lanes &gate, const float16_lanes &up) {
    const split_lanes g = split(gate);
    const float16_lanes cubic = multiply(split(multiply(multiply(g, g), spread(0.044715f))), g);
    const float16_lanes exponent = multiply(aie::add(gate, cubic), spread(-2.3022082f));
    const float16_lanes limited = aie::sub(spread(0.0f), aie::max(aie::sub(spread(0.0f), exponent), spread(-99.0f)));
    const float16_lanes sigmoid = reciprocal(aie::add(power_of_two(limited), spread(1.0f)));
    return multiply(multiply(g, split(sigmoid)), up);
}

// `scratch` holds the 32 * num_groups outputs.
extern "C" void geglu_quantize(const float *restrict gate_up, int32 num_groups, float *restrict scratch,
                               int8 *restrict values, bfloat16 *restrict scale_high, bfloat16 *restrict scale_low) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    for (int32 g = 0; g < num_groups; g++, gate_up += 2 * group_size) {
        for (int half = 0; half < group_size; half += 16)
            aie::store_v(scratch + group_size * g + half,
                         gated(aie::load_v<16>(gate_up + half), aie::load_v<16>(gate_up + group_size + half)));
    }
    quantize_row(scratch, group_size * num_groups, values, scale_high, scale_low);
}

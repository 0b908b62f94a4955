// RMS norm of a float32 row, and INT8 activations with one scale per group of 32.
//
// Formula  out = x * 1/sqrt(mean(x^2) + eps) * factor; then per group: scale = amax/127, value = rint(x * 127/amax).
// Shapes   norm: size a multiple of 16; quantisation: a multiple of 32. A group of zeros has scale 0.
// Steps    squares of split bfloat16 summed in 16 lanes, which a halving tree adds; scales leave as bf16 high and low
//          (16 of 24 bits), values are rounded to nearest even and saturated.
// Estimate norm 55 cycles, quantisation 60 cycles per 16 elements; 1.5 KB of program; local buffer: 128 bytes.
// Rounding conv_even, saturation on. Called by vector_core.cc.
#include "float_math.h"
#include "message.h"

static inline float16_lanes magnitude(const float16_lanes &x) { return aie::max(x, aie::sub(spread(0.0f), x)); }

extern "C" void rms_norm(const float *x, const float *restrict factor, int32 size, float inverse_size, float eps,
                         float *out) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    aie::accum<accfloat, 16> squares(spread(0.0f));
    for (int32 i = 0; i < size; i += 16) {
        const split_lanes value = split(aie::load_v<16>(x + i));
        squares = aie::mac(squares, value.high, value.high);
        squares = aie::mac(squares, value.low, value.high);
        squares = aie::mac(squares, value.high, value.low);
    }
    const float sum = aie::reduce_add(squares.to_vector<float>());
    const float16_lanes mean = multiply(spread(sum), spread(inverse_size));
    const split_lanes inverse = split(reciprocal_root(aie::add(mean, spread(eps))));
    for (int32 i = 0; i < size; i += 16) {
        const float16_lanes normed = multiply(split(aie::load_v<16>(x + i)), inverse);
        aie::store_v(out + i, multiply(normed, aie::load_v<16>(factor + i)));
    }
}

extern "C" void quantize_row(const float *restrict x, int32 size, int8 *restrict values, bfloat16 *restrict scale_high,
                             bfloat16 *restrict scale_low) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    aie::set_saturation(aie::saturation_mode::saturate);
    alignas(64) float amax[16], inverse[16];
    alignas(64) bfloat16 high[16], low[16];
    const int32 num_groups = size / group_size;
    for (int32 first = 0; first < num_groups; first += 16) {  // the divisions of 16 groups at once
        const int32 count = num_groups - first < 16 ? num_groups - first : 16;
        aie::store_v(amax, aie::zeros<float, 16>());
        for (int32 i = 0; i < count; i++) {
            const float *group = x + group_size * (first + i);
            amax[i] = aie::reduce_max(aie::max(magnitude(aie::load_v<16>(group)), magnitude(aie::load_v<16>(group + 16))));
        }
        const float16_lanes greatest = aie::load_v<16>(amax);
        const float16_lanes divisor = aie::max(greatest, spread(0x1p-100f));
        aie::store_v(inverse, multiply(reciprocal(divisor), spread(127.0f)));
        const split_lanes scale = split(multiply(greatest, spread(1.0f / 127.0f)));
        aie::store_v(high, scale.high);
        aie::store_v(low, scale.low);
        for (int32 i = 0; i < count; i++) {
            const split_lanes factor = split(spread(inverse[i]));
            for (int32 j = group_size * (first + i); j < group_size * (first + i + 1); j += 16) {
                aie::vector<int32, 16> integers;
                round_to_integer(multiply(split(aie::load_v<16>(x + j)), factor), integers);
                aie::store_v(values + j, aie::accum<acc32, 16>(integers).to_vector<int8>(0));
            }
            scale_high[first + i] = high[i];
            scale_low[first + i] = low[i];
        }
    }
}

// Float arithmetic on bfloat16 multipliers, 16 lanes; it knows no kernels.
//
// AIE2 multiplies bfloat16 only. A float is split in two of them, x = high + low (16 of 24 bits), and a product keeps
// three of the four partial products: high*high + low*high + high*low, added in this order, so its relative error is
// at most 2^-15. Rounding mode must be conv_even (the core floors after power-up).
#pragma once

#include <aie_api/aie.hpp>

using float16_lanes = aie::vector<float, 16>;

struct split_lanes {
    aie::vector<bfloat16, 16> high, low;
};

inline float16_lanes spread(float value) { return aie::broadcast<float, 16>(value); }

inline split_lanes split(const float16_lanes &x) {
    split_lanes r;
    const aie::accum<accfloat, 16> wide(x);
    r.high = wide.to_vector<bfloat16>();
    const float16_lanes rest = aie::sub(x, aie::accum<accfloat, 16>(r.high).to_vector<float>());
    r.low = aie::accum<accfloat, 16>(rest).to_vector<bfloat16>();
    return r;
}

inline float16_lanes multiply(const split_lanes &a, const split_lanes &b) {
    aie::accum<accfloat, 16> sum = aie::mul(a.high, b.high);
    sum = aie::mac(sum, a.low, b.high);
    sum = aie::mac(sum, a.high, b.low);
    return sum.to_vector<float>();
}

inline float16_lanes multiply(const float16_lanes &a, const float16_lanes &b) { return multiply(split(a), split(b)); }

// Rounds to the nearest integer, ties to even, for |x| < 2^22; `integers` receives it as int32.
inline float16_lanes round_to_integer(const float16_lanes &x, aie::vector<int32, 16> &integers) {
    const float16_lanes shifted = aie::add(x, spread(12582912.0f));  // 1.5 * 2^23: the fraction falls off
    integers = aie::sub(shifted.cast_to<int32>(), aie::broadcast<int32, 16>(0x4b400000));
    return aie::sub(shifted, spread(12582912.0f));
}

// 1 / x for 2^-100 <= x < 2^100: a first value from the exponent bits, then three Newton steps.
inline float16_lanes reciprocal(const float16_lanes &x) {
    const split_lanes divisor = split(x);
    float16_lanes y = aie::sub(aie::broadcast<int32, 16>(0x7ef311c7), x.cast_to<int32>()).cast_to<float>();
    for (int step = 0; step < 3; step++) {
        const split_lanes now = split(y);
        y = multiply(now, split(aie::sub(spread(2.0f), multiply(divisor, now))));
    }
    return y;
}

// 1 / sqrt(x) for 2^-100 <= x < 2^100, in the same way.
inline float16_lanes reciprocal_root(const float16_lanes &x) {
    const split_lanes half = split(multiply(x, spread(0.5f)));
    const aie::vector<int32, 16> bits = aie::downshift(x.cast_to<int32>(), 1);
    float16_lanes y = aie::sub(aie::broadcast<int32, 16>(0x5f3759df), bits).cast_to<float>();
    for (int step = 0; step < 3; step++) {
        const split_lanes now = split(y);
        const float16_lanes square = multiply(half, split(multiply(now, now)));
        y = multiply(now, split(aie::sub(spread(1.5f), square)));
    }
    return y;
}

// 2^x; exactly 0 from x = -125 down. x at most 125.
inline float16_lanes power_of_two(const float16_lanes &x) {
    const float16_lanes clamped = aie::max(x, spread(-125.0f));
    aie::vector<int32, 16> exponent;
    const float16_lanes whole = round_to_integer(clamped, exponent);
    const split_lanes fraction = split(aie::sub(clamped, whole));  // -0.5 .. 0.5
    float16_lanes sum = spread(0.009618129f);
    constexpr float taylor[] = {0.05550411f, 0.24022651f, 0.6931472f, 1.0f};
    for (float coefficient : taylor) sum = aie::add(multiply(split(sum), fraction), spread(coefficient));
    const aie::vector<int32, 16> scaled = aie::add(sum.cast_to<int32>(), aie::upshift(exponent, 23));
    return aie::sub(scaled.cast_to<float>(), spread(0x1p-125f));
}

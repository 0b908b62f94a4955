// Rounding and saturation of the modelled core, bit for bit: shift-round-saturate and float to bfloat16.
// It knows no vectors. Rules: value shifted right, rounded from sign, last kept bit, half and rest, then saturated.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace aie {

enum class rounding_mode : unsigned {  // the hardware's numbers
    floor = 0,
    ceil = 1,
    symmetric_floor = 2,
    symmetric_ceil = 3,
    negative_inf = 8,
    positive_inf = 9,
    symmetric_zero = 10,
    symmetric_inf = 11,
    conv_even = 12,
    conv_odd = 13
};
enum class saturation_mode : unsigned { none = 0, truncate = 0, saturate = 1, symmetric = 3 };

}  // namespace aie

namespace aie_host {

// A core floors and does not saturate after power-up, and keeps what a kernel sets. Static on purpose: with all
// kernels in one translation unit the compiler sees that no pointer reaches them and drops the checks.
[[maybe_unused]] static aie::rounding_mode rounding = aie::rounding_mode::floor;
[[maybe_unused]] static aie::saturation_mode saturation = aie::saturation_mode::none;

// Does dropping the bits below the last kept one increase the magnitude?
// odd: the last kept bit; half: the bit below it; rest: any bit below that.
inline bool rounds_up(aie::rounding_mode mode, bool negative, bool odd, bool half, bool rest) {
    using enum aie::rounding_mode;
    const bool inexact = half || rest, tie = half && !rest, above_half = half && rest;
    switch (mode) {
        case floor:
            return inexact && negative;
        case ceil:
            return inexact && !negative;
        case symmetric_floor:
            return false;
        case symmetric_ceil:
            return inexact;
        case negative_inf:
            return above_half || (tie && negative);
        case positive_inf:
            return above_half || (tie && !negative);
        case symmetric_zero:
            return above_half;
        case symmetric_inf:
            return half;
        case conv_odd:
            return above_half || (tie && !odd);
        default:  // conv_even
            return above_half || (tie && odd);
    }
}

// From an accumulator lane to a lane of `bits` bits; a negative shift shifts left.
inline int64_t shift_round_saturate(int64_t value, int shift, bool is_signed, int bits) {
    if (shift < 0) {
        value = int64_t(uint64_t(value) << -shift);
    } else if (shift > 0) {
        const bool negative = value < 0;
        const uint64_t magnitude = negative ? 0 - uint64_t(value) : uint64_t(value);
        const uint64_t kept = magnitude >> shift, half = uint64_t(1) << (shift - 1);
        const bool up = rounds_up(rounding, negative, kept & 1, magnitude & half, magnitude & (half - 1));
        value = negative ? -int64_t(kept + up) : int64_t(kept + up);
    }
    if (saturation == aie::saturation_mode::none) return value;
    const int64_t top = (int64_t(1) << (is_signed ? bits - 1 : bits)) - 1;
    const int64_t lowest = saturation == aie::saturation_mode::symmetric ? -top : -top - 1;
    return std::clamp(value, is_signed ? lowest : 0, top);
}

inline uint16_t float_to_bfloat16(uint32_t u, aie::rounding_mode mode) {
    const uint16_t kept = uint16_t(u >> 16);
    if ((u & 0x7f800000) == 0x7f800000) return (u & 0x7fffff) ? kept | 0x40 : kept;  // a NaN stays one
    return kept + rounds_up(mode, u >> 31, kept & 1, u & 0x8000, u & 0x7fff);
}

}  // namespace aie_host

namespace aie {

inline void set_rounding(rounding_mode mode) { aie_host::rounding = mode; }
inline void set_saturation(saturation_mode mode) { aie_host::saturation = mode; }

}  // namespace aie

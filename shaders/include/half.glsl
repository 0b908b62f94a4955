// Float to fp16 bits, rounded to nearest even in integer arithmetic: packHalf2x16 may truncate (lavapipe does).
// The result is always finite: magnitudes above 65504, infinities and NaN become +-65504, because a cached value that
// another row multiplies by a weight of zero must leave that row's sum alone.
#ifndef HALF_GLSL
#define HALF_GLSL
uint half_bits(float value) {
    const uint bits = floatBitsToUint(value);
    const uint magnitude = bits & 0x7FFFFFFFu;
    // normal range: rebias the exponent by 112, round the 13 dropped bits to even
    const uint normal = (magnitude - 0x38000000u + 0x0FFFu + ((magnitude >> 13) & 1u)) >> 13;
    // below 2^-14: the unit is 2^-24; the product is exact or far below half a unit
    const uint subnormal = uint(roundEven(uintBitsToFloat(magnitude) * 16777216.0));
    const uint rounded = magnitude < 0x38800000u ? subnormal : min(normal, 0x7BFFu);
    return rounded | ((bits >> 16) & 0x8000u);
}

uint half_pair(float low, float high) { return half_bits(low) | (half_bits(high) << 16); }
#endif

// Rotary position embedding of one head: pairs (i, i + d/2) turn by the position's angle.
//
// Formula  first' = first*cos - second*sin; second' = second*cos + first*sin.
// Shapes   head float [d] in place; cosines, sines float [d/2] of the position; d a multiple of 32.
// Steps    products of split bfloat16 (float_math.h): relative error of a product 2^-15.
// Estimate 50 cycles per 16 pairs; 0.6 KB of program. Rounding conv_even. Called by vector_core.cc.
#include "float_math.h"
#include "message.h"

extern "C" void rope_head(float *restrict head, const float *restrict cosines, const float *restrict sines,
                          int32 head_size) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    const int32 half = head_size / 2;
    for (int32 i = 0; i < half; i += 16) {
        const split_lanes first = split(aie::load_v<16>(head + i)), second = split(aie::load_v<16>(head + half + i));
        const split_lanes cosine = split(aie::load_v<16>(cosines + i)), sine = split(aie::load_v<16>(sines + i));
        aie::store_v(head + i, aie::sub(multiply(first, cosine), multiply(second, sine)));
        aie::store_v(head + half + i, aie::add(multiply(second, cosine), multiply(first, sine)));
    }
}

// W4A8 matrix-vector product of up to four rows: y[b][n] = sum over groups g of dot(w[n][g], x[b][g]) * d_w[n][g] * d_a[b][g].
//
// Shapes   n: 8 outputs a tile; K a multiple of 32, at most 2048; b: 4 rows, which cost the same weight bytes as one.
// Weights  blocks of 160 bytes, tile by tile, groups ascending: two 16 x 8 int4 matrices (k-major, low nibble first),
//          8 scales as bf16 high, 8 as bf16 low: together exact for a float16 scale.
// x        int8 [K/16][4 rows][16]; its float32 scale per group as bf16 high and low, 8 copies each.
// Steps    S: exact int32, |S| <= 32512, so bf16 high and low hold it exactly (S1, S2).
//          t = S1*w1 + S2*w1 + S1*w2 + S2*w2 (float32, in this order); t1, t2 = bf16 high and low of t;
//          y += t1*a1; y += t2*a1; y += t1*a2. Relative error of a group's term at most 2^-15.
// Estimate about 45 cycles a block (2 mmul, 11 bf16 macs on 2 x 16 lanes, conversions, pipelined): 256 weights x 4 rows,
//          9 GMAC/s a core and row at 1.6 GHz; 1.8 KB of program; no local buffers of its own.
// Rounding conv_even. Called by gemv_core.cc.
#include "float_math.h"
#include "message.h"

static inline aie::accum<accfloat, 16> add_group(aie::accum<accfloat, 16> sum, const aie::vector<int32, 16> &dots,
                                                 const aie::vector<bfloat16, 16> &scale_high,
                                                 const aie::vector<bfloat16, 16> &scale_low,
                                                 const aie::vector<bfloat16, 16> &x_high,
                                                 const aie::vector<bfloat16, 16> &x_low) {
    const split_lanes dot = split(aie::to_float<float>(dots, 0));
    aie::accum<accfloat, 16> term = aie::mul(dot.high, scale_high);
    term = aie::mac(term, dot.low, scale_high);
    term = aie::mac(term, dot.high, scale_low);
    term = aie::mac(term, dot.low, scale_low);
    const split_lanes scaled = split(term.to_vector<float>());
    sum = aie::mac(sum, scaled.high, x_high);
    sum = aie::mac(sum, scaled.low, x_high);
    return aie::mac(sum, scaled.high, x_low);
}

// Takes `num_blocks` blocks; the tile they begin in is in `partial`, `group` of its groups are done. Finished tiles
// go to `tiles`. Returns how many; `group` and `partial` are left for the next call.
extern "C" int32 gemv_w4a8(const uint8 *restrict blocks, int32 num_blocks, int32 num_groups, const int8 *restrict x,
                           const bfloat16 *restrict x_scales, int32 *restrict group, float *restrict partial,
                           float *restrict tiles) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    int32 num_tiles = 0, g = *group;
    while (num_blocks > 0) {
        const int32 stop = g + num_blocks < num_groups ? g + num_blocks : num_groups;
        num_blocks -= stop - g;
        aie::accum<accfloat, 16> sums[2];
        sums[0].from_vector(aie::load_v<16>(partial));
        sums[1].from_vector(aie::load_v<16>(partial + 16));
        for (; g < stop; g++, blocks += block_bytes) {
            aie::mmul<4, 16, 8, int8, int4> dot;
            const int8 *weights = reinterpret_cast<const int8 *>(blocks);
            dot.mul(aie::load_v<64>(x + 128 * g), aie::load_v<64>(weights).cast_to<int4>());
            dot.mac(aie::load_v<64>(x + 128 * g + 64), aie::load_v<64>(weights + 64).cast_to<int4>());
            const aie::vector<int32, 32> dots = dot.to_vector<int32>();
            const auto scales = aie::load_v<16>(reinterpret_cast<const bfloat16 *>(blocks + 128));
            const auto high = scales.extract<8>(0), low = scales.extract<8>(1);
            const auto scale_high = aie::concat(high, high), scale_low = aie::concat(low, low);
            for (int pair = 0; pair < 2; pair++) {  // rows 0 and 1, rows 2 and 3
                const bfloat16 *x_scale = x_scales + 64 * g + 16 * pair;
                sums[pair] = add_group(sums[pair], dots.extract<16>(pair), scale_high, scale_low,
                                       aie::load_v<16>(x_scale), aie::load_v<16>(x_scale + 32));
            }
        }
        const bool is_done = g == num_groups;
        float *out = is_done ? tiles + tile_floats * num_tiles : partial;
        aie::store_v(out, sums[0].to_vector<float>());
        aie::store_v(out + 16, sums[1].to_vector<float>());
        if (is_done) {
            aie::store_v(partial, aie::zeros<float, 16>());
            aie::store_v(partial + 16, aie::zeros<float, 16>());
            num_tiles++;
            g = 0;
        }
    }
    *group = g;
    return num_tiles;
}

// Stores one row's activations (int8 [K], bf16 high [K/32], bf16 low [K/32]) where the GEMV reads them.
extern "C" void gemv_store_row(const int8 *restrict values, int32 row, int32 num_columns, int8 *restrict x,
                               bfloat16 *restrict x_scales) {
    for (int32 k = 0; k < num_columns; k += 16) aie::store_v(x + 4 * k + 16 * row, aie::load_v<16>(values + k));
    const int32 num_groups = num_columns / group_size;
    const bfloat16 *scales = reinterpret_cast<const bfloat16 *>(values + num_columns);
    for (int32 g = 0; g < num_groups; g++) {
        bfloat16 *out = x_scales + 64 * g + 8 * row;
        aie::store_v(out, aie::broadcast<bfloat16, 8>(scales[g]));
        aie::store_v(out + 32, aie::broadcast<bfloat16, 8>(scales[num_groups + g]));
    }
}

// Attention of one token over cached keys and values, in tiles of 16 positions, with a running maximum.
//
// Formula  p = 2^(q.k - peak), mixed = sum p v, total = sum p; a greater peak rescales both; out = mixed / total.
//          q carries its scale and log2(e). Up to 4 query heads share one key head.
// Shapes   q bf16 [d/8][4 heads][8]; d in 64, 128, 256. A tile of 16 positions is 64 d bytes in pieces of 2048:
//          keys bf16 [position/4][d/8][8][4], then values bf16 [d/4][position/8][8][4].
// Steps    mmul<4,8,4> of bf16 (exact products, float32 sums); p is rounded to bf16 before it is summed or multiplied;
//          lanes are added as ((0+1)+(2+3)) over the four blocks, then neighbours. A position that is not visible has
//          weight 0 exactly.
// Estimate d 256: 700 cycles a tile (256 in mmul); its 16 KB take 4200 cycles of DMA; 3.0 KB of program.
// Rounding conv_even. Called by vector_core.cc.
#include "float_math.h"
#include "kernels.h"

constexpr float hidden_score = -1.0e30f;

// Of lanes [4 heads][4]: the greatest of each head in all its four lanes.
static inline float16_lanes greatest_per_head(const float16_lanes &x) {
    const auto pairs = aie::max(aie::filter_even(x, 1), aie::filter_odd(x, 1));
    const auto heads = aie::max(aie::filter_even(pairs, 1), aie::filter_odd(pairs, 1));
    const auto [low, high] = aie::interleave_zip(heads, heads, 1);
    const auto doubled = aie::concat(low, high);
    const auto [first, second] = aie::interleave_zip(doubled, doubled, 1);
    return aie::concat(first, second);
}

static inline float16_lanes sum_per_head(const float16_lanes &x) {
    const auto pairs = aie::add(aie::filter_even(x, 1), aie::filter_odd(x, 1));
    const auto heads = aie::add(aie::filter_even(pairs, 1), aie::filter_odd(pairs, 1));
    const auto [low, high] = aie::interleave_zip(heads, heads, 1);
    const auto doubled = aie::concat(low, high);
    const auto [first, second] = aie::interleave_zip(doubled, doubled, 1);
    return aie::concat(first, second);
}

static inline void raise_peak(const float16_lanes &peak, const float16_lanes &new_peak, vector_memory *memory) {
    const split_lanes correction = split(power_of_two(aie::sub(peak, new_peak)));
    aie::store_v(memory->peak, new_peak);
    aie::store_v(memory->total, multiply(split(aie::load_v<16>(memory->total)), correction));
    for (int32 i = 0; i < max_heads * memory->head_size; i += 16)
        aie::store_v(memory->mixed + i, multiply(split(aie::load_v<16>(memory->mixed + i)), correction));
}

// Turns the scores of 16 positions into weights.
static void update_weights(vector_memory *memory) {
    float16_lanes scores[4];
    for (int i = 0; i < 4; i++) scores[i] = aie::load_v<16>(memory->scores + 16 * i);
    const float16_lanes peak = aie::load_v<16>(memory->peak);
    const float16_lanes greatest = aie::max(aie::max(scores[0], scores[1]), aie::max(scores[2], scores[3]));
    const float16_lanes new_peak = aie::max(peak, greatest_per_head(greatest));
    if (aie::reduce_max(aie::sub(new_peak, peak)) > 0.0f) raise_peak(peak, new_peak, memory);
    aie::vector<bfloat16, 16> weights[4];
    float16_lanes rounded[4];
    for (int i = 0; i < 4; i++) {
        const aie::accum<accfloat, 16> weight(power_of_two(aie::sub(scores[i], new_peak)));
        weights[i] = weight.to_vector<bfloat16>();
        rounded[i] = aie::accum<accfloat, 16>(weights[i]).to_vector<float>();
    }
    const float16_lanes sum = aie::add(aie::add(rounded[0], rounded[1]), aie::add(rounded[2], rounded[3]));
    aie::store_v(memory->total, aie::add(aie::load_v<16>(memory->total), sum_per_head(sum)));
    for (int i = 0; i < 2; i++) {  // [2 blocks][4 heads][4] to [4 heads][8]
        const auto [low, high] = aie::interleave_zip(weights[2 * i], weights[2 * i + 1], 4);
        aie::store_v(memory->weights + 32 * i, aie::concat(low, high));
    }
}

// Slot s is visible iff it lies in the `visible_count` slots from `visible_begin` on, around the ring.
static void hide_scores(int32 slot, vector_memory *memory) {
    for (int32 position = 0; position < positions_per_tile; position++) {
        int32 distance = slot + position - memory->visible_begin;
        if (distance < 0) distance += memory->ring_slots;
        if (distance < memory->visible_count) continue;
        float *scores = memory->scores + 16 * (position / 4) + position % 4;
        for (int head = 0; head < max_heads; head++) scores[4 * head] = hidden_score;
    }
}

// Starts a token: q float [num_heads][d], normed and rotated; `scale` includes log2(e).
extern "C" void attention_begin(const float *restrict q, int32 num_heads, int32 head_size, float scale,
                                vector_memory *restrict memory) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    memory->head_size = head_size;
    memory->num_heads = num_heads;
    const split_lanes factor = split(spread(scale));
    for (int32 head = 0; head < max_heads; head++) {
        for (int32 i = 0; i < head_size; i += 16) {
            aie::vector<bfloat16, 16> values = aie::zeros<bfloat16, 16>();
            if (head < num_heads) {
                const float16_lanes scaled = multiply(split(aie::load_v<16>(q + head * head_size + i)), factor);
                values = aie::accum<accfloat, 16>(scaled).to_vector<bfloat16>();
            }
            aie::store_v(memory->q + 4 * i + 8 * head, values.extract<8>(0));
            aie::store_v(memory->q + 4 * i + 32 + 8 * head, values.extract<8>(1));
        }
    }
    for (int32 i = 0; i < max_heads * head_size; i += 16) aie::store_v(memory->mixed + i, aie::zeros<float, 16>());
    aie::store_v(memory->total, aie::zeros<float, 16>());
    aie::store_v(memory->peak, spread(hidden_score));
}

// One position given as rows k and v, bf16 [d] each: column 0 of a tile of keys, row 0 of a tile of values.
extern "C" void attention_row(const bfloat16 *restrict k, const bfloat16 *restrict v, vector_memory *restrict memory) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    aie::mmul<4, 8, 4, bfloat16, bfloat16> dot(aie::zeros<float, 16>());
    for (int32 i = 0; i < memory->head_size; i += 8) {
        aie::vector<bfloat16, 32> block = aie::zeros<bfloat16, 32>();
        for (int j = 0; j < 8; j++) block.set(k[i + j], 4 * j);
        dot.mac(aie::load_v<32>(memory->q + 4 * i), block);
    }
    for (int i = 16; i < max_heads * positions_per_tile; i += 16) aie::store_v(memory->scores + i, spread(hidden_score));
    aie::store_v(memory->scores, dot.to_vector<float>());
    for (int i = 0; i < 16; i++)
        if (i % 4) memory->scores[i] = hidden_score;
    update_weights(memory);
    for (int32 i = 0; i < memory->head_size; i += 4) {
        aie::vector<bfloat16, 32> block = aie::zeros<bfloat16, 32>();
        for (int j = 0; j < 4; j++) block.set(v[i + j], j);
        aie::mmul<4, 8, 4, bfloat16, bfloat16> sum(aie::load_v<16>(memory->mixed + 4 * i));
        sum.mac(aie::load_v<32>(memory->weights), block);
        aie::store_v(memory->mixed + 4 * i, sum.to_vector<float>());
    }
}

static void score_keys(const bfloat16 *restrict keys, int32 piece, vector_memory *restrict memory) {
    const int32 head_size = memory->head_size, num_blocks = piece_bytes / (8 * head_size);
    for (int32 i = 0; i < num_blocks; i++) {  // 4 positions each
        aie::mmul<4, 8, 4, bfloat16, bfloat16> dot(aie::zeros<float, 16>());
        for (int32 j = 0; j < head_size; j += 8, keys += 32)
            dot.mac(aie::load_v<32>(memory->q + 4 * j), aie::load_v<32>(keys));
        aie::store_v(memory->scores + 16 * (piece * num_blocks + i), dot.to_vector<float>());
    }
}

static void mix_values(const bfloat16 *restrict values, int32 piece, vector_memory *restrict memory) {
    const auto first = aie::load_v<32>(memory->weights), second = aie::load_v<32>(memory->weights + 32);
    float *mixed = memory->mixed + 256 * piece;  // a piece holds 64 of the d values of 16 positions
    for (int32 i = 0; i < 16; i++, mixed += 16, values += 64) {
        aie::mmul<4, 8, 4, bfloat16, bfloat16> sum(aie::load_v<16>(mixed));
        sum.mac(first, aie::load_v<32>(values));
        sum.mac(second, aie::load_v<32>(values + 32));
        aie::store_v(mixed, sum.to_vector<float>());
    }
}

// The next piece of the cached tiles, the first of which begins at slot `first_slot`.
extern "C" void attention_piece(const bfloat16 *restrict piece, vector_memory *restrict memory) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    const int32 key_pieces = memory->head_size / 64;
    const int32 tile = memory->piece / (2 * key_pieces), place = memory->piece % (2 * key_pieces);
    memory->piece++;
    if (place >= key_pieces) return mix_values(piece, place - key_pieces, memory);
    score_keys(piece, place, memory);
    if (place < key_pieces - 1) return;
    hide_scores(memory->first_slot + positions_per_tile * tile, memory);
    update_weights(memory);
}

// out float [num_heads][d].
extern "C" void attention_finish(vector_memory *restrict memory, float *restrict out) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    const split_lanes inverse = split(reciprocal(aie::load_v<16>(memory->total)));
    const int32 head_size = memory->head_size;
    for (int32 i = 0; i < head_size; i += 4) {
        const float16_lanes mean = multiply(split(aie::load_v<16>(memory->mixed + 4 * i)), inverse);
        for (int32 head = 0; head < memory->num_heads; head++)
            aie::store_v(out + head * head_size + i, mean.extract<4>(head));
    }
}

// Running top 8 of the head: keeps, for each of 4 batch rows, the 8 greatest logits a core has seen, and their ids.
//
// Shapes   tile float [4][8] as the GEMV makes it; values float [4][8] descending, ids int32 [4][8].
// Order    a later logit must be greater to enter, so equal ones keep the lower id.
// Estimate 12 cycles a row where nothing enters, 90 per entry (rare after the first tiles); 0.7 KB of program.
// Called by gemv_core.cc after each tile of the head.
#include "message.h"

extern "C" void head_top_k_clear(float *restrict values, int32 *restrict ids) {
    for (int i = 0; i < tile_floats; i += 16) {
        aie::store_v(values + i, aie::broadcast<float, 16>(-3.0e38f));
        aie::store_v(ids + i, aie::broadcast<int32, 16>(-1));
    }
}

// The tile holds output rows first_id .. first_id + 7, of which those at or beyond num_ids are padding.
extern "C" void head_top_k(const float *restrict tile, int32 first_id, int32 num_ids, float *restrict values,
                           int32 *restrict ids) {
    const int32 valid = num_ids - first_id < 8 ? num_ids - first_id : 8;
    for (int row = 0; row < 4; row++, tile += 8, values += 8, ids += 8) {
        if (!(aie::reduce_max(aie::load_v<8>(tile)) > values[7])) continue;
        for (int32 i = 0; i < valid; i++) {
            if (!(tile[i] > values[7])) continue;
            int place = 7;
            for (; place > 0 && tile[i] > values[place - 1]; place--) {
                values[place] = values[place - 1];
                ids[place] = ids[place - 1];
            }
            values[place] = tile[i];
            ids[place] = first_id + i;
        }
    }
}

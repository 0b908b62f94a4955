// The program of a core that multiplies: takes activation rows and weights from its stream and hands out tiles.
//
// Called by the worker's loop (kernels/designs) for every element: step, then emit once per waiting tile.
// Both cores of a pair see every element of a message of weights; the first takes even ones, the second odd ones.
// Estimate 0.8 KB of program; memory: struct gemv_memory, 18944 bytes.
#include "kernels.h"

enum weights_parameter { NUM_GROUPS, NUM_TILES, MODE, FIRST_ROW, NUM_ROWS };

// The head keeps its best 8 instead of sending tiles; at the end it sends two: values and ids.
static void keep_best(gemv_memory *memory, int32 num_tiles, int32 second) {
    const message_state &message = memory->message;
    const int32 last = memory->tile_index + num_tiles;
    const float *tile = memory->tiles;
    for (; memory->tile_index < last; memory->tile_index++, tile += tile_floats)
        head_top_k(tile, parameter(message, FIRST_ROW) + 8 * second + 32 * memory->tile_index,
                   parameter(message, NUM_ROWS), memory->top_values, memory->top_ids);
    if (num_tiles == 0 || memory->tile_index < parameter(message, NUM_TILES)) return;
    for (int i = 0; i < tile_floats; i += 16) {
        aie::store_v(memory->tiles + i, aie::load_v<16>(memory->top_values + i));
        aie::store_v(memory->tiles + tile_floats + i, aie::load_v<16>(memory->top_ids + i).cast_to<float>());
    }
    memory->num_tiles = 2;
}

static void take_weights(gemv_memory *memory, const int32 *element, int32 second) {
    const message_state &message = memory->message;
    if (message.index == 0) {
        memory->group = memory->tile_index = 0;
        aie::store_v(memory->partial, aie::zeros<float, 16>());
        aie::store_v(memory->partial + 16, aie::zeros<float, 16>());
        head_top_k_clear(memory->top_values, memory->top_ids);
    }
    if ((message.index & 1) != second) return;
    const int32 num_groups = parameter(message, NUM_GROUPS);
    const int32 left = parameter(message, NUM_TILES) * num_groups - message.index / 2 * blocks_per_element;
    const int32 num_blocks = left < blocks_per_element ? left : blocks_per_element;
    const uint8 *blocks = reinterpret_cast<const uint8 *>(element + tag_words);
    const int32 num_tiles = gemv_w4a8(blocks, num_blocks, num_groups, memory->x, memory->x_scales, &memory->group,
                                      memory->partial, memory->tiles);
    if (parameter(message, MODE) == 0)
        memory->num_tiles = num_tiles;
    else
        keep_best(memory, num_tiles, second);
}

extern "C" void gemv_core_step(const int32 *element, gemv_memory *memory, int32 second) {
    message_state &message = memory->message;
    memory->num_tiles = memory->num_sent = 0;
    next_element(message, element, second);
    if (!message.is_mine) return;
    if (message.tag[TAG_OPERATION] == SET_ROW)
        gemv_store_row(reinterpret_cast<const int8 *>(element + tag_words), parameter(message, 0),
                       parameter(message, 1), memory->x, memory->x_scales);
    else if (message.tag[TAG_OPERATION] == WEIGHTS)
        take_weights(memory, element, second);
}

extern "C" void gemv_core_emit(gemv_memory *memory, float *tile) {
    const float *from = memory->tiles + tile_floats * memory->num_sent++;
    aie::store_v(tile, aie::load_v<16>(from));
    aie::store_v(tile + 16, aie::load_v<16>(from + 16));
}

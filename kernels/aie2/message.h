// The elements that stream through the array and the memory of a core between them; it knows no arithmetic.
//
// An element is 64 bytes of tag and 2560 of payload. A message is `num_elements` of them on one channel; the tag of
// the first says what it is, for which core of the pair, and carries the run-time parameters, so that one array
// configuration serves every shape. Cores skip what is not addressed to them. Floats in tags are bit casts.
#pragma once

#include <aie_api/aie.hpp>

constexpr int tag_words = 16, payload_words = 640, element_words = tag_words + payload_words;
constexpr int group_size = 32;          // weights and activations share one scale per group along K
constexpr int block_bytes = 160;        // 32 x 8 int4 weights, 8 scales as bf16 high and low
constexpr int blocks_per_element = 16;
constexpr int max_columns = 2048;       // K of one GEMV
constexpr int max_hidden = 640, max_head_size = 256, max_heads = 4;
constexpr int tile_floats = 32;         // 4 batch rows x 8 output rows
constexpr int positions_per_tile = 16;  // of keys and values
constexpr int piece_bytes = 2048;       // of such a tile, in one element

enum operation : int32 {
    SET_ROW = 1,
    WEIGHTS,
    LOAD_HIDDEN,
    NORM_QUANTIZE,
    POSITION,
    ROPE,
    ATTEND,
    FINISH,
    RESIDUAL,
    GEGLU,
    STORE_HIDDEN,
    KV_ROW
};

enum tag_field { TAG_OPERATION, TAG_TARGET, TAG_NUM_ELEMENTS, TAG_PARAMETERS };
constexpr int first_core = 1, second_core = 2;

// What a core needs of the message it is in. `index` is the element's place in it.
struct message_state {
    int32 tag[tag_words];
    int32 index, is_mine;
};

inline float parameter_float(const message_state &message, int parameter) {
    float value;
    __builtin_memcpy(&value, &message.tag[TAG_PARAMETERS + parameter], sizeof value);
    return value;
}

inline int32 parameter(const message_state &message, int parameter) { return message.tag[TAG_PARAMETERS + parameter]; }

// Call on every element; afterwards `message` describes the message the element belongs to.
inline void next_element(message_state &message, const int32 *element, int32 second) {
    message.index++;
    if (message.index < message.tag[TAG_NUM_ELEMENTS]) return;
    for (int i = 0; i < tag_words; i++) message.tag[i] = element[i];
    message.index = 0;
    message.is_mine = (message.tag[TAG_TARGET] & (second ? second_core : first_core)) != 0;
}

// Memory of the GEMV in every core. The first word is what the worker's loop reads: tiles waiting to be sent.
struct gemv_memory {
    int32 num_tiles, num_sent, group, tile_index;
    message_state message;
    alignas(64) float partial[tile_floats];
    alignas(64) float top_values[tile_floats];
    alignas(64) int32 top_ids[tile_floats];
    alignas(64) float tiles[blocks_per_element * tile_floats];
    alignas(64) int8 x[4 * max_columns];                      // [K/16][4 rows][16]
    alignas(64) bfloat16 x_scales[2 * max_columns];           // [K/32][high, low][4 rows][8 copies]
};

// Memory of a vector core besides. The first word: rows (elements) waiting to be sent, 0 or 1.
struct vector_memory {
    int32 num_rows, head_size, num_heads, piece;
    int32 visible_begin, visible_count, ring_slots, first_slot;
    message_state message;
    alignas(64) int32 out[element_words];
    alignas(64) float hidden[max_hidden];
    alignas(64) float rotation[max_head_size];                // cos [d/2], sin [d/2]
    alignas(64) float factors[max_hidden];                    // of a residual's norm; or q_norm and k_norm
    alignas(64) float row[(max_heads + 2) * max_head_size];   // q, k, v; a sum of slices; attention's output
    alignas(64) bfloat16 q[max_heads * max_head_size];        // [d/8][4 heads][8]
    alignas(64) float mixed[max_heads * max_head_size];       // [d/4][4 heads][4]
    alignas(64) float scores[max_heads * positions_per_tile]; // [position/4][4 heads][4]
    alignas(64) bfloat16 weights[max_heads * positions_per_tile];  // [position/8][4 heads][8]
    alignas(64) float peak[16], total[16];                    // per head, in the lanes of a block: [4 heads][4]
};

static_assert(sizeof(gemv_memory) == 18944 && sizeof(vector_memory) == 21696, "kernels/designs counts on these");

// Where a cached key or value lives. A layer's cache holds, for every (slot, kv head), `ring` positions (a multiple
// of 32, at least CHUNK); a position's index is position % ring: a ring as long as the context is a full cache.
// Keys lie in tiles of 32 positions, so that lane = position reads 16 bytes beside its neighbour's; values lie position
// by position, so that lane = dim reads coalesced. KV_INT8 picks the format, 2 D or 9 D / 8 bytes a key or value:
//   fp16   key tile: uvec4 [D / 8][32] of 8 dims;                value: fp16 [D]
//   int8   key tile: uvec4 [D / 16][32] of 16 dims,              value: int8 [D], float scale [D / 32]
//          then float scale [D / 32][32]; one scale per 32 dims, as amax / 127
// Needs the constants HEAD_DIM and NUM_KV_HEADS. All indices fit 32 bits.
#ifndef KV_LAYOUT_GLSL
#define KV_LAYOUT_GLSL
#ifndef KV_INT8
#define KV_INT8 0
#endif
#if KV_INT8
const uint DIMS_PER_UNIT = 16u;
const uint KEY_TILE = HEAD_DIM * 9u / 4u;  // uvec4 a tile
const uint VALUE_WORDS = HEAD_DIM * 9u / 32u;  // u32 a value
#else
const uint DIMS_PER_UNIT = 8u;
const uint KEY_TILE = HEAD_DIM * 4u;
const uint VALUE_WORDS = HEAD_DIM / 2u;
#endif

uint head_row_of(uint slot, uint kv_head, uint ring) { return (slot * NUM_KV_HEADS + kv_head) * ring; }

// First uvec4 of a key; its next unit of dims is 32 further on.
uint key_unit(uint head_row, uint index) { return ((head_row + index) >> 5) * KEY_TILE + (index & 31u); }

// First scale of a key (int8), counted in u32; that of the next 32 dims is 32 further on.
uint key_scale(uint head_row, uint index) {
    return (((head_row + index) >> 5) * KEY_TILE + HEAD_DIM * 2u) * 4u + (index & 31u);
}

// First u32 of a value; int8: its scales begin D / 4 further on.
uint value_word(uint head_row, uint index) { return (head_row + index) * VALUE_WORDS; }
#endif

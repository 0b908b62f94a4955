// Where a cached key or value lives. A layer's cache holds, for every (slot, kv head), `ring` positions (a multiple
// of 32, at least CHUNK); a position's index is position % ring: a ring as long as the context is a full cache.
//   K: tiles of 32 positions, so that lane = position reads 16 consecutive bytes beside its neighbour's:
//      unit of 8 dims (uvec4 of fp16) at ((head_row / 32 + index / 32) (D / 8) + d / 8) 32 + index % 32
//   V: [index][D], so that lane = dim reads coalesced.      head_row = (slot NUM_KV_HEADS + kv head) ring
// Needs the constants HEAD_DIM and NUM_KV_HEADS.
#ifndef KV_LAYOUT_GLSL
#define KV_LAYOUT_GLSL
uint head_row_of(uint slot, uint kv_head, uint ring) { return (slot * NUM_KV_HEADS + kv_head) * ring; }

// Index of the first uvec4 (8 dims) of a key; the next 8 dims are 32 further on.
uint key_unit(uint head_row, uint index) {
    return ((head_row + (index & ~31u)) >> 5) * (HEAD_DIM / 8u) * 32u + (index & 31u);
}

// Index of the first uvec4 (8 dims) of a value.
uint value_unit(uint head_row, uint index) { return (head_row + index) * (HEAD_DIM / 8u); }
#endif

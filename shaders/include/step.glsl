// The step buffer: what the host writes before every pass. It knows no layer and no shape.
//   u32 step[8 + 4 M]: header {num_rows, 7 reserved}, then per row {token_id, slot, position, segment_start_row}.
// Rows of one segment are consecutive rows of one slot at consecutive positions; segment_start_row is the first of
// them. A padding row has position INACTIVE: it must neither write KV nor enter any other row's result.
// Include after: nothing. Define STEP_BINDING first when the buffer is not at binding 0.
#ifndef STEP_GLSL
#define STEP_GLSL
#ifndef STEP_BINDING
#define STEP_BINDING 0
#endif
layout(binding = STEP_BINDING, std430) readonly restrict buffer Step { uint step_words[]; };

const uint INACTIVE = 0xFFFFFFFFu;

uint num_rows() { return step_words[0]; }
uint token_of(uint row) { return step_words[8u + 4u * row]; }
uint slot_of(uint row) { return step_words[9u + 4u * row]; }
uint position_of(uint row) { return step_words[10u + 4u * row]; }
uint segment_start_of(uint row) { return step_words[11u + 4u * row]; }
#endif

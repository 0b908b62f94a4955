// Where a group of 32 columns of a row of quantised activations lies: by blocks of 16 rows, then by groups, so that a
// product finds a group of all its rows in consecutive lines of memory (read row by row, they were its bottleneck).
//   aq int8 [row / 16][group][row % 16][32], as float [row / 16][group][row % 16]; whole blocks of 16 rows are allocated.
#ifndef ACTIVATION_LAYOUT_GLSL
#define ACTIVATION_LAYOUT_GLSL
uint activation_group(uint row, uint group, uint groups) {
    return ((row >> 4) * groups + group) * 16u + (row & 15u);
}
#endif

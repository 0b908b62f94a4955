// Sum over a workgroup in a fixed order that no subgroup size and no row count can change.
// Needs the constant REDUCE_SIDE: the workgroup has REDUCE_SIDE^2 threads (8: 64, 16: 256).
// Column t = partial t, t + SIDE, t + 2 SIDE, ... ascending; the sum = columns 0 .. SIDE - 1 ascending.
#ifndef REDUCE_GLSL
#define REDUCE_GLSL
shared float reduce_partials[REDUCE_SIDE * REDUCE_SIDE];
shared float reduce_columns[REDUCE_SIDE];

// Every thread must call it (two barriers) and gets the same bits; calling it again at once is safe.
float workgroup_sum(float partial) {
    const uint thread = gl_LocalInvocationIndex;
    reduce_partials[thread] = partial;
    barrier();
    if (thread < REDUCE_SIDE) {
        precise float column = reduce_partials[thread];
        for (uint i = 1u; i < REDUCE_SIDE; ++i) column += reduce_partials[thread + REDUCE_SIDE * i];
        reduce_columns[thread] = column;
    }
    barrier();
    precise float total = reduce_columns[0];
    for (uint i = 1u; i < REDUCE_SIDE; ++i) total += reduce_columns[i];
    return total;
}
#endif

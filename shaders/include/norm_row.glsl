// One row of HIDDEN floats held by one workgroup of THREADS threads: RMS norm and quantisation of it.
// Thread t holds quads t, t + THREADS, ... (a quad = 4 consecutive columns). HIDDEN is a multiple of 32, at most 16384.
// Needs reduce.glsl, activation.glsl and the constants HIDDEN, EPS and THREADS.
#ifndef NORM_ROW_GLSL
#define NORM_ROW_GLSL
const uint NUM_QUADS = HIDDEN / 4u;
const uint HELD = (NUM_QUADS + THREADS - 1u) / THREADS;

vec4 held[HELD];
shared float quad_largest[NUM_QUADS];

uint quad_of(uint j) { return gl_LocalInvocationIndex + THREADS * j; }

// 1 / sqrt(mean(held^2) + EPS): a thread's squares ascending, then the fixed tree.
float inverse_rms() {
    precise float squares = 0.0;
    for (uint j = 0u; j < HELD; ++j) {
        if (quad_of(j) < NUM_QUADS) {
            squares = fma(held[j].x, held[j].x, squares);
            squares = fma(held[j].y, held[j].y, squares);
            squares = fma(held[j].z, held[j].z, squares);
            squares = fma(held[j].w, held[j].w, squares);
        }
    }
    precise float mean = workgroup_sum(squares) / float(HIDDEN) + EPS;
    return inversesqrt(mean);
}

// Quantises the held row into aq, as.
void quantise_held(uint row) {
    for (uint j = 0u; j < HELD; ++j)
        if (quad_of(j) < NUM_QUADS) quad_largest[quad_of(j)] = largest(held[j]);
    barrier();
    for (uint j = 0u; j < HELD; ++j) {
        const uint quad = quad_of(j);
        if (quad < NUM_QUADS) {
            float amax = 0.0;
            for (uint i = 0u; i < 8u; ++i) amax = max(amax, quad_largest[(quad & ~7u) + i]);
            store_quantised(row, NUM_QUADS, quad, held[j], amax);
        }
    }
}
#endif

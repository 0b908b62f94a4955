// The chosen token of every row: the id of the largest logit, the lowest such id on a tie (greedy).
//   best[r] = max over partials of (value, then lower id)
// Partials come from the head product (gemm_*_argmax): value float [M][num_partials], id u32 [M][num_partials].
// ids u32 [M]. A row without any comparable value (all NaN) gets id 0. The order of the comparison is total, so no
// order of work can change the result. Sampling: perturbed logits take the place of the values, nothing else changes.
// Grid (M). Caller: target/plan.py, last dispatch of a pass.
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 256) in;
layout(push_constant) uniform Push { uint num_partials; } head;
layout(binding = 0, std430) readonly restrict buffer PartialValues { float partial_values[]; };
layout(binding = 1, std430) readonly restrict buffer PartialIds { uint partial_ids[]; };
layout(binding = 2, std430) writeonly restrict buffer Chosen { uint ids[]; };

const uint NO_ID = 0xFFFFFFFFu;

struct Best {
    float value;
    uint id;
};

shared Best bests[256];

Best better(Best a, Best b) {
    if (b.value > a.value || (b.value == a.value && b.id < a.id)) a = b;
    return a;
}

void main() {
    const uint thread = gl_LocalInvocationIndex;
    const uint row = gl_WorkGroupID.x;
    Best best = Best(uintBitsToFloat(0xFF800000u), NO_ID);  // -infinity
    for (uint i = thread; i < head.num_partials; i += 256u) {
        const uint at = row * head.num_partials + i;
        best = better(best, Best(partial_values[at], partial_ids[at]));
    }
    bests[thread] = best;
    barrier();
    if (thread < 16u) {
        for (uint i = 1u; i < 16u; ++i) best = better(best, bests[thread + 16u * i]);
        bests[thread] = best;  // no other thread reads this entry before the barrier
    }
    barrier();
    if (thread == 0u) {
        for (uint i = 1u; i < 16u; ++i) best = better(best, bests[i]);
        ids[row] = best.id == NO_ID ? 0u : best.id;
    }
}

// The log-probability of every row's chosen token under the softmax of its raw logits (no temperature, no filter).
//   log_probs[r] = (logits[r][id] - max) - ln sum_t exp(logits[r][t] - max),  id = ids[r]
// The sum has a fixed order: a thread's tokens ascending, threads 16 apart, the 16 sums. No pass size, subgroup size or
// scheduling can change a bit. Within 2 ulp of the float64 value, or 1e-6 where that is more (V up to 262144).
// logits float [M][stride]; ids u32 [M]; log_probs float [M]. Padding rows write nothing. Grid (M).
// Caller: target/plan.py, after sample.
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 256) in;
#include "include/gumbel.glsl"
#include "include/math.glsl"
#include "include/step.glsl"
layout(push_constant) uniform Push { uint vocab_size, stride; } head;
layout(binding = 1, std430) readonly restrict buffer Logits { float logits[]; };
layout(binding = 2, std430) readonly restrict buffer Chosen { uint ids[]; };
layout(binding = 3, std430) writeonly restrict buffer LogProbs { float log_probs[]; };

const uint THREADS = 256u;
shared float parts[THREADS];

void main() {
    const uint thread = gl_LocalInvocationIndex, row = gl_WorkGroupID.x;
    if (position_of(row) == INACTIVE) return;
    const uint first = row * head.stride;
    float most = uintBitsToFloat(0xFF800000u);  // -infinity
    for (uint id = thread; id < head.vocab_size; id += THREADS) most = max(most, logits[first + id]);
    parts[thread] = most;
    barrier();
    for (uint i = 0u; i < THREADS; ++i) most = max(most, parts[i]);
    barrier();

    precise float sum = 0.0;
    for (uint id = thread; id < head.vocab_size; id += THREADS) sum += exp_fixed(logits[first + id] - most);
    parts[thread] = sum;
    barrier();
    precise float part = 0.0;
    if (thread < 16u)
        for (uint i = 0u; i < 16u; ++i) part += parts[thread + 16u * i];
    barrier();
    if (thread < 16u) parts[thread] = part;
    barrier();
    if (thread != 0u) return;
    precise float total = 0.0;
    for (uint i = 0u; i < 16u; ++i) total += parts[i];
    precise const float result = (logits[first + ids[row]] - most) - log_fixed(total);
    log_probs[row] = result;
}

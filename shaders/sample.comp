// The token of every row by temperature, top-k, top-p, min-p and Gumbel noise: the rule of specdec/sampling.py.
//   ids[r] = argmax over kept t of logits[r][t] / T + G(seed, position + 1, t), the lowest id on a tie; T = 0: of logits
// Kept are the first tokens in the order (value descending, id ascending): top_k of them, then the shortest prefix that
// holds top_p of their mass, then those of at least min_p of the best's. A prefix is found without sorting: by digits of
// the ordered bits of its last value, each from the weight (count or mass) of every digit's tokens; then, where equal
// values straddle its end, by digits of the id in the same way. Sums have a fixed order: a thread's tokens ascending,
// threads 16 apart, the 16 sums. No row, pass size, subgroup size or scheduling can change a result.
// params [M]: {T, ln min_p, top_p float, top_k, seed low, seed high, 2 unused}; logits float [M][stride]; ids u32 [M].
// Limits: V below 2^24 (counts are float). Padding rows write nothing. Grid (M). Caller: target/plan.py, the last of a pass.
#version 460
#extension GL_GOOGLE_include_directive : require
layout(local_size_x = 256) in;
#include "include/gumbel.glsl"
#include "include/math.glsl"
#include "include/step.glsl"
layout(push_constant) uniform Push { uint vocab_size, stride; } head;
layout(binding = 1, std430) readonly restrict buffer Params { uvec4 params[]; };
layout(binding = 2, std430) readonly restrict buffer Logits { float logits[]; };
layout(binding = 3, std430) writeonly restrict buffer Chosen { uint ids[]; };

const uint THREADS = 256u;
const uint BY_COUNT = 0u, BY_MASS = 1u, BY_ID = 2u;  // what a prefix is measured in; by id: count of tied tokens

shared float digit_weights[16u * THREADS];  // [digit][thread]
shared float digit_parts[THREADS];
shared float digit_totals[16];
shared uint most, least;

// The last token of a prefix (its key), the weight before that key, and the weight of all tokens of that key.
struct End {
    uint key;
    float before;
    float held;
};

uint thread, row;
float temperature;
float best_value;  // largest logit / T
End end_;          // of the kept prefix
float num_tied;    // kept tokens of the value end_.key

// Ascending with the value; NaN is below all, -0 is 0.
uint key_of(float value) {
    const uint bits = floatBitsToUint(value);
    if (isnan(value)) return 0u;
    if (bits == 0x80000000u) return bits;
    return (bits & 0x80000000u) != 0u ? ~bits : bits | 0x80000000u;
}

float value_of(uint key) {
    return uintBitsToFloat((key & 0x80000000u) != 0u ? key & 0x7FFFFFFFu : ~key);
}

float scaled(uint id) {
    precise const float value = logits[row * head.stride + id] / temperature;
    return value;
}

float mass_of(float value) { return exp_fixed(value - best_value); }

// Sums every digit's weights over the threads.
void reduce_digits() {
    barrier();
    const uint first = (thread >> 4) * THREADS + (thread & 15u);
    precise float part = 0.0;
    for (uint i = 0u; i < 16u; ++i) part += digit_weights[first + 16u * i];
    digit_parts[thread] = part;
    barrier();
    if (thread < 16u) {
        precise float total = 0.0;
        for (uint i = 0u; i < 16u; ++i) total += digit_parts[16u * thread + i];
        digit_totals[thread] = total;
    }
    barrier();
}

// The end of the shortest prefix of weight `wanted` or more (of all tokens, if they weigh less).
End find_end(uint measure, float wanted) {
    End found = End(0u, 0.0, 0.0);
    uint fixed_bits = 0u;
    for (uint shift = 28u; shift < 32u; shift -= 4u) {  // ends by wrapping around
        for (uint digit = 0u; digit < 16u; ++digit) digit_weights[digit * THREADS + thread] = 0.0;
        for (uint id = thread; id < head.vocab_size; id += THREADS) {
            const float value = scaled(id);
            uint key = key_of(value);
            if (measure == BY_ID ? key != end_.key : key < end_.key) continue;
            if (measure == BY_ID) key = ~id;
            if ((key & fixed_bits) != found.key) continue;
            const uint at = (key >> shift & 15u) * THREADS + thread;
            digit_weights[at] += measure == BY_MASS ? mass_of(value) : 1.0;
        }
        reduce_digits();
        uint digit = 16u, last = 16u;
        float before = found.before;
        for (uint i = 16u; i > 0u && digit == 16u; --i) {
            const float total = digit_totals[i - 1u];
            if (total == 0.0) continue;
            last = i - 1u;
            found.before = before;
            found.held = total;
            before += total;
            if (before >= wanted) digit = last;
        }
        found.key |= (last & 15u) << shift;
        fixed_bits |= 15u << shift;
    }
    return found;
}

void keep_top_k(uint top_k) {
    if (top_k == 0u || top_k >= head.vocab_size) return;
    end_ = find_end(BY_COUNT, float(top_k));
    num_tied = float(top_k) - end_.before;
}

void keep_top_p(float top_p) {
    if (top_p >= 1.0) return;
    precise float mass = 0.0;
    for (uint id = thread; id < head.vocab_size; id += THREADS) {
        const float value = scaled(id);
        if (key_of(value) > end_.key) mass += mass_of(value);
    }
    for (uint digit = 0u; digit < 16u; ++digit) digit_weights[digit * THREADS + thread] = digit == 0u ? mass : 0.0;
    reduce_digits();
    precise float wanted = digit_totals[0];
    barrier();
    if (end_.held > 0.0) wanted = fma(num_tied, mass_of(value_of(end_.key)), wanted);
    wanted *= top_p;
    const End mass_end = find_end(BY_MASS, wanted);
    const float each = mass_of(value_of(mass_end.key));
    float tied = max(1.0, ceil((wanted - mass_end.before) / each));
    if (mass_end.key == end_.key) tied = min(tied, num_tied);
    end_ = End(mass_end.key, 0.0, roundEven(mass_end.held / each));
    num_tied = tied;
}

void main() {
    thread = gl_LocalInvocationIndex;
    row = gl_WorkGroupID.x;
    if (position_of(row) == INACTIVE) return;
    const uvec4 filters = params[2u * row], seed = params[2u * row + 1u];
    const bool is_greedy = uintBitsToFloat(filters.x) == 0.0;
    temperature = is_greedy ? 1.0 : uintBitsToFloat(filters.x);
    if (thread == 0u) most = 0u;
    if (thread == 0u) least = 0xFFFFFFFFu;
    barrier();
    uint key = 0u;
    for (uint id = thread; id < head.vocab_size; id += THREADS) key = max(key, key_of(scaled(id)));
    atomicMax(most, key);
    barrier();
    best_value = value_of(most);
    barrier();
    if (thread == 0u) most = 0u;

    end_ = End(0u, 0.0, 0.0);
    num_tied = 0.0;
    uint last_tied = 0xFFFFFFFFu;  // id
    float lowest = value_of(0x007FFFFFu);  // -infinity
    if (!is_greedy) {
        keep_top_k(filters.w);
        keep_top_p(uintBitsToFloat(filters.z));
        if (num_tied < end_.held) last_tied = ~find_end(BY_ID, num_tied).key;
        lowest = best_value + uintBitsToFloat(filters.y);
    }

    uint best_key = 0u, best_id = 0xFFFFFFFFu;
    for (uint block = thread; 4u * block < head.vocab_size; block += THREADS) {
        const uvec4 words = philox(seed.xy, uvec4(block, position_of(row) + 1u, 0u, 0u));
        for (uint i = 0u; i < 4u; ++i) {
            const uint id = 4u * block + i;
            if (id >= head.vocab_size) break;
            const float value = scaled(id);
            const uint value_key = key_of(value);
            if (value_key < end_.key || (value_key == end_.key && id > last_tied) || value < lowest) continue;
            precise const float score = is_greedy ? value : value + gumbel(words[i]);
            if (key_of(score) <= best_key) continue;  // ids ascend: the first of equals stays
            best_key = key_of(score);
            best_id = id;
        }
    }
    barrier();
    atomicMax(most, best_key);
    barrier();
    if (best_key == most) atomicMin(least, best_id);
    barrier();
    if (thread == 0u) ids[row] = least == 0xFFFFFFFFu ? 0u : least;
}

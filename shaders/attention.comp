// Partial attention of a group of rows over one chunk of CHUNK keys at fixed absolute positions.
//   s[t] = q . k[t] (dims ascending); m = max s; p[t] = exp(s[t] - m); l = sum p; a[d] = sum p[t] v[t][d]
// over the keys a row sees (include/visible.glsl). attention_merge.comp joins a row's chunks in ascending order.
// q float [M][NUM_HEADS][D], already scaled; cache fp16, or int8 with KV_INT8 1 (include/kv_layout.glsl);
// partial a float [M][NUM_HEADS][max_chunks][D], (m, l) float2 [M][NUM_HEADS][max_chunks], from the row's first chunk on.
// work: uvec2 {first row | number of rows << 16, chunk}, one entry a workgroup in x, written by the host: 1 .. ROWS
// consecutive rows of one segment, and every chunk that at least one of them sees.
//
// A workgroup reads K and V of its chunk and kv head once, for all its rows and the kv head's SHARE query heads.
// Scores: thread = key. Values: thread = (4 dims, slice of D / 4 keys).
// Order of the sums: l = 16 columns t, t + 16, ... ascending, then the columns; a[d] = keys of a slice ascending, then
// slices ascending. Keys that a row does not see have weight 0, chunks without any are not written: neither
// changes a bit, so a row's partials depend on its own position alone. CHUNK is part of the numerics id, ROWS is not.
//
// Grid, indirect: (entries of work, NUM_KV_HEADS). No early return: software devices run masked code anyway.
// Limits: D 32, 64, 128 or 256; CHUNK a multiple of 32, from D / 4 to 256; ROWS SHARE (CHUNK + 16) + 4 CHUNK floats of
// shared memory (16 queries at CHUNK 256: 21 KiB). SHUFFLE 1 spreads uniform operands by subgroup shuffles, for devices
// where loads of one address are not cheap (lavapipe). Caller: target/plan.py, once a layer.
#version 460
#extension GL_GOOGLE_include_directive : require
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
layout(local_size_x = 64, local_size_x_id = 3) in;
layout(constant_id = 0) const uint HEAD_DIM = 256;
layout(constant_id = 1) const uint NUM_HEADS = 4;
layout(constant_id = 2) const uint NUM_KV_HEADS = 1;
layout(constant_id = 3) const uint CHUNK = 64;
layout(constant_id = 4) const uint ROWS = 4;
layout(constant_id = 5) const uint SHUFFLE = 0;
layout(constant_id = 6) const uint BATCH = 4;  // loads of a key in flight (a power of two); no change of bits
layout(push_constant) uniform Push { uint ring; uint window; uint max_chunks; } cache;
#include "include/step.glsl"
#include "include/math.glsl"
#include "include/kv_layout.glsl"
#include "include/visible.glsl"
layout(binding = 1, std430) readonly restrict buffer Queries { vec4 q[]; };
#define KEY_BINDING 2
#define VALUE_BINDING 3
#include "include/kv_read.glsl"
layout(binding = 4, std430) writeonly restrict buffer Partials { vec4 partials[]; };
layout(binding = 5, std430) writeonly restrict buffer Summary { vec2 summary[]; };
layout(binding = 6, std430) readonly restrict buffer Work { uvec2 work[]; };

const uint SHARE = NUM_HEADS / NUM_KV_HEADS;
const uint QUERIES = ROWS * SHARE;  // query i is row i / SHARE of the group, head kv_head SHARE + i % SHARE
const uint UNITS = HEAD_DIM / 4u;  // quads of dims
const uint SLICES = CHUNK / UNITS;
const uint AT_ONCE = QUERIES * CHUNK <= 512u ? QUERIES : 512u / CHUNK;  // queries whose slice sums are in 8 KiB
const uint IN_FLIGHT = BATCH * DIMS_PER_UNIT < HEAD_DIM ? BATCH : HEAD_DIM / DIMS_PER_UNIT;
const uint COLUMN_PASSES = (QUERIES * 16u + CHUNK - 1u) / CHUNK;
const float HIDDEN_SCORE = -3.0e38;

shared float weights[QUERIES * CHUNK];  // [query][key]: scores, then p
shared float columns[QUERIES * 16u];
shared float maxima[QUERIES];
shared vec4 slice_sums[AT_ONCE * CHUNK];

uint first_row;   // the group's rows are first_row .. first_row + rows - 1; queries beyond repeat the last row
uint rows;
uint position;    // of the first row
uint head_row;
uint chunk_start;
uint start_index;  // of the chunk's first key in the ring; the chunk wraps at most once, since ring >= CHUNK

uint query_base[QUERIES];
float scores[QUERIES];  // of this thread's key
vec4 sums[QUERIES];  // this thread's 4 dims over its slice of the keys

uint row_of(uint query) { return min(query / SHARE, rows - 1u); }
uint head_of(uint query) { return gl_WorkGroupID.y * SHARE + query % SHARE; }
uint wrapped(uint index) { return index < cache.ring ? index : index - cache.ring; }

bool sees(uint query, uint key_position) {
    const uint p = position + row_of(query);
    return key_position <= p && key_position >= first_visible(p, cache.window);
}

// scores[i] += q . k over the 8 dims from 4 quad on, ascending.
void multiply_eight(vec4 k_low, vec4 k_high, uint quad) {
    const uint lane = gl_SubgroupInvocationID & 7u;
    const uint lane_base = gl_SubgroupInvocationID & ~7u;
    [[unroll]] for (uint i = 0u; i < QUERIES; ++i) {
        vec4 low;
        vec4 high;
        if (SHUFFLE != 0u) {
            const float mine = q[query_base[i] + quad + (lane >> 2)][lane & 3u];
            low = vec4(subgroupShuffle(mine, lane_base), subgroupShuffle(mine, lane_base + 1u),
                       subgroupShuffle(mine, lane_base + 2u), subgroupShuffle(mine, lane_base + 3u));
            high = vec4(subgroupShuffle(mine, lane_base + 4u), subgroupShuffle(mine, lane_base + 5u),
                        subgroupShuffle(mine, lane_base + 6u), subgroupShuffle(mine, lane_base + 7u));
        } else {
            low = q[query_base[i] + quad];
            high = q[query_base[i] + quad + 1u];
        }
        [[unroll]] for (uint d = 0u; d < 4u; ++d) scores[i] = fma(low[d], k_low[d], scores[i]);
        [[unroll]] for (uint d = 0u; d < 4u; ++d) scores[i] = fma(high[d], k_high[d], scores[i]);
    }
}

// One loaded unit of this thread's key.
void multiply_unit(uvec4 words, uint unit, uint scale_at) {
#if KV_INT8
    const float scale = key_scales[scale_at + unit / 2u * 32u];
    multiply_eight(signed_bytes(words.x) * scale, signed_bytes(words.y) * scale, unit * 4u);
    multiply_eight(signed_bytes(words.z) * scale, signed_bytes(words.w) * scale, unit * 4u + 2u);
#else
    multiply_eight(vec4(unpackHalf2x16(words.x), unpackHalf2x16(words.y)),
                   vec4(unpackHalf2x16(words.z), unpackHalf2x16(words.w)), unit * 2u);
#endif
}

// Scores of this thread's key into weights. Keys that no row sees are multiplied too: their scores are dropped.
void score_keys() {
    const uint thread = gl_LocalInvocationIndex;
    const uint index = wrapped(start_index + thread);
    const uint key_at = key_unit(head_row, index);
    const uint scale_at = key_scale(head_row, index);
    [[unroll]] for (uint i = 0u; i < QUERIES; ++i) {
        query_base[i] = ((first_row + row_of(i)) * NUM_HEADS + head_of(i)) * UNITS;
        scores[i] = 0.0;
    }
    for (uint unit = 0u; unit < HEAD_DIM / DIMS_PER_UNIT; unit += IN_FLIGHT) {
        uvec4 batch[IN_FLIGHT];
        [[unroll]] for (uint b = 0u; b < IN_FLIGHT; ++b) batch[b] = keys[key_at + (unit + b) * 32u];
        [[unroll]] for (uint b = 0u; b < IN_FLIGHT; ++b) multiply_unit(batch[b], unit + b, scale_at);
    }
    [[unroll]] for (uint i = 0u; i < QUERIES; ++i) {
        if (!sees(i, chunk_start + thread)) scores[i] = HIDDEN_SCORE;
        weights[i * CHUNK + thread] = scores[i];
    }
}

// Turns scores into p; afterwards columns hold the 16 partial sums of every query.
void weigh_keys() {
    const uint thread = gl_LocalInvocationIndex;
    [[unroll]] for (uint pass = 0u; pass < COLUMN_PASSES; ++pass) {
        const uint c = thread + pass * CHUNK;
        if (QUERIES * 16u % CHUNK == 0u || c < QUERIES * 16u) {
            float largest = HIDDEN_SCORE;
            [[unroll]] for (uint t = 0u; t < CHUNK; t += 16u)
                largest = max(largest, weights[(c >> 4) * CHUNK + (c & 15u) + t]);
            columns[c] = largest;
        }
    }
    barrier();
    if (thread < QUERIES) {
        float largest = HIDDEN_SCORE;
        [[unroll]] for (uint c = 0u; c < 16u; ++c) largest = max(largest, columns[thread * 16u + c]);
        maxima[thread] = largest;
    }
    barrier();
    [[unroll]] for (uint i = 0u; i < QUERIES; ++i)
        weights[i * CHUNK + thread] = scores[i] > HIDDEN_SCORE ? exp_fixed(scores[i] - maxima[i]) : 0.0;
    barrier();
    [[unroll]] for (uint pass = 0u; pass < COLUMN_PASSES; ++pass) {
        const uint c = thread + pass * CHUNK;
        if (QUERIES * 16u % CHUNK == 0u || c < QUERIES * 16u) {
            precise float column = 0.0;
            [[unroll]] for (uint t = 0u; t < CHUNK; t += 16u) column += weights[(c >> 4) * CHUNK + (c & 15u) + t];
            columns[c] = column;
        }
    }
}

// sum p v of this thread's 4 dims over the seen keys of its slice.
void weigh_values() {
    const uint lane = gl_SubgroupInvocationID & 7u;
    const uint lane_base = gl_SubgroupInvocationID & ~7u;
    const uint dims = gl_LocalInvocationIndex % UNITS;
    const uint slice = gl_LocalInvocationIndex / UNITS;
    const uint first_seen = first_visible(position, cache.window);
    const uint first_key = first_seen > chunk_start ? first_seen - chunk_start : 0u;
    const uint last_key = min(position + rows - 1u - chunk_start, CHUNK - 1u);
    const uint begin = max(first_key & ~7u, slice * UNITS);
    const uint end = min(last_key + 1u, (slice + 1u) * UNITS);
    [[unroll]] for (uint i = 0u; i < QUERIES; ++i) sums[i] = vec4(0.0);
    for (uint t = begin; t < end; t += 8u) {
        const uint eight = value_word(head_row, wrapped(start_index + t));  // aligned eights do not wrap inside
        float mine[QUERIES];
        if (SHUFFLE != 0u)
            [[unroll]] for (uint i = 0u; i < QUERIES; ++i) mine[i] = weights[i * CHUNK + t + lane];
        [[unroll]] for (uint j = 0u; j < 8u; ++j) {
            // keys beside the seen range have weight 0; what is read for them must be finite, so: a seen key
            const uint key = clamp(t + j, first_key, last_key);
            const vec4 v = value_quad(eight + (key - t) * VALUE_WORDS, dims);
            [[unroll]] for (uint i = 0u; i < QUERIES; ++i) {
                const float p = SHUFFLE != 0u ? subgroupShuffle(mine[i], lane_base + j) : weights[i * CHUNK + t + j];
                sums[i] = fma(vec4(p), v, sums[i]);
            }
        }
    }
}

// Where this chunk's result of a query goes; false where the query's row sees nothing of the chunk.
bool placed(uint query, uint chunk, out uint at) {
    const uint p = position + row_of(query);
    const uint row_first = first_chunk(p, cache.window);
    at = ((first_row + row_of(query)) * NUM_HEADS + head_of(query)) * cache.max_chunks + chunk - row_first;
    return query / SHARE < rows && chunk >= row_first && chunk <= last_chunk(p);
}

// Sums the slices ascending, AT_ONCE queries a time, and writes the sums.
void store_slices(uint chunk) {
    const uint thread = gl_LocalInvocationIndex;
    const uint dims = thread % UNITS;
    [[unroll]] for (uint first = 0u; first < QUERIES; first += AT_ONCE) {
        if (first > 0u) barrier();  // the slice sums before have been read
        [[unroll]] for (uint i = 0u; i < AT_ONCE; ++i) slice_sums[i * CHUNK + thread] = sums[first + i];
        barrier();
        [[unroll]] for (uint pass = 0u; pass < AT_ONCE; pass += SLICES) {
            const uint i = pass + thread / UNITS;
            uint at;
            if (placed(first + i, chunk, at) && i < AT_ONCE) {
                precise vec4 sum = slice_sums[i * CHUNK + dims];
                [[unroll]] for (uint s = 1u; s < SLICES; ++s) sum += slice_sums[i * CHUNK + s * UNITS + dims];
                partials[at * UNITS + dims] = sum;
            }
        }
    }
}

void main() {
    const uint thread = gl_LocalInvocationIndex;
    const uvec2 entry = work[gl_WorkGroupID.x];
    first_row = entry.x & 0xFFFFu;
    rows = entry.x >> 16;
    position = position_of(first_row);
    head_row = head_row_of(slot_of(first_row), gl_WorkGroupID.y, cache.ring);
    chunk_start = entry.y * CHUNK;
    start_index = chunk_start % cache.ring;

    score_keys();
    barrier();
    weigh_keys();
    weigh_values();
    uint at;
    if (SLICES > 1u) {
        store_slices(entry.y);
    } else {
        [[unroll]] for (uint i = 0u; i < QUERIES; ++i)
            if (placed(i, entry.y, at)) partials[at * UNITS + thread] = sums[i];
        barrier();  // the columns are written
    }
    if (thread < QUERIES && placed(thread, entry.y, at)) {
        precise float total = columns[thread * 16u];
        [[unroll]] for (uint c = 1u; c < 16u; ++c) total += columns[thread * 16u + c];
        summary[at] = vec2(maxima[thread], total);
    }
}

// The entry points of the kernels, for the two programs that run in the cores; it knows nothing else.
#pragma once

#include "message.h"

extern "C" {
int32 gemv_w4a8(const uint8 *blocks, int32 num_blocks, int32 num_groups, const int8 *x, const bfloat16 *x_scales,
                int32 *group, float *partial, float *tiles);
void gemv_store_row(const int8 *values, int32 row, int32 num_columns, int8 *x, bfloat16 *x_scales);
void head_top_k_clear(float *values, int32 *ids);
void head_top_k(const float *tile, int32 first_id, int32 num_ids, float *values, int32 *ids);
void rms_norm(const float *x, const float *factor, int32 size, float inverse_size, float eps, float *out);
void quantize_row(const float *x, int32 size, int8 *values, bfloat16 *scale_high, bfloat16 *scale_low);
void rope_head(float *head, const float *cosines, const float *sines, int32 head_size);
void attention_begin(const float *q, int32 num_heads, int32 head_size, float scale, vector_memory *memory);
void attention_row(const bfloat16 *k, const bfloat16 *v, vector_memory *memory);
void attention_piece(const bfloat16 *piece, vector_memory *memory);
void attention_finish(vector_memory *memory, float *out);
void geglu_quantize(const float *gate_up, int32 num_groups, float *scratch, int8 *values, bfloat16 *scale_high,
                    bfloat16 *scale_low);
void residual_add(const float *x, int32 size, float *sum);
}

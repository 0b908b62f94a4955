// The program of a vector core: everything between the products, for one row of the batch, on its own memory.
//
// The residual stream, the running attention and the last norms stay in the core between messages; what goes out are
// whole elements, already tagged for the cores that read them. Called by the worker's loop for every element: step,
// then emit if a row is waiting.
// Estimate 1.5 KB of program; memory: struct vector_memory, 21696 bytes.
#include "kernels.h"

static void copy_words(const void *from, int32 num_floats, float *to) {
    const float *source = static_cast<const float *>(from);
    for (int32 i = 0; i < num_floats; i += 16) aie::store_v(to + i, aie::load_v<16>(source + i));
}

// Row `index` of payloads of a float row of `size` values.
static int32 copy_part(const int32 *payload, int32 index, int32 size, float *row) {
    const int32 first = index * payload_words, count = size - first < payload_words ? size - first : payload_words;
    copy_words(payload, count, row + first);
    return first + count;
}

static int32 *start_row(vector_memory *memory, int32 operation, int32 target, int32 first, int32 second) {
    const int32 tag[] = {operation, target, 1, first, second};
    for (int i = 0; i < tag_words; i++) memory->out[i] = i < 5 ? tag[i] : 0;
    memory->num_rows = 1;
    return memory->out + tag_words;
}

static void send_activations(vector_memory *memory, const float *x, int32 row, int32 size) {
    int8 *values = reinterpret_cast<int8 *>(start_row(memory, SET_ROW, first_core | second_core, row, size));
    bfloat16 *scales = reinterpret_cast<bfloat16 *>(values + size);
    quantize_row(x, size, values, scales, scales + size / group_size);
}

static void norm_quantize(vector_memory *memory, const int32 *payload) {
    const message_state &message = memory->message;
    const int32 size = parameter(message, 0);
    rms_norm(memory->hidden, reinterpret_cast<const float *>(payload), size, parameter_float(message, 3),
             parameter_float(message, 2), memory->row);
    send_activations(memory, memory->row, parameter(message, 1), size);
}

static void take_position(vector_memory *memory, const int32 *payload) {
    const message_state &message = memory->message;
    copy_words(payload, parameter(message, 0), memory->rotation);
    memory->visible_begin = parameter(message, 1);
    memory->visible_count = parameter(message, 2);
    memory->ring_slots = parameter(message, 3);
}

static void to_bfloat16(const float *x, int32 size, bfloat16 *out) {
    for (int32 i = 0; i < size; i += 16)
        aie::store_v(out + i, aie::accum<accfloat, 16>(aie::load_v<16>(x + i)).to_vector<bfloat16>());
}

static void rope(vector_memory *memory, const int32 *payload) {
    const message_state &message = memory->message;
    const int32 head_size = parameter(message, 0), num_heads = parameter(message, 1), size = (num_heads + 2) * head_size;
    if (message.index == 0) return copy_words(payload, 2 * head_size, memory->factors);
    if (copy_part(payload, message.index - 1, size, memory->row) < size) return;
    const float *cosines = memory->rotation, *sines = cosines + head_size / 2;
    float *head = memory->row;
    for (int32 i = 0; i <= num_heads; i++, head += head_size) {  // query heads, then the key
        const float *factor = memory->factors + (i < num_heads ? 0 : head_size);
        rms_norm(head, factor, head_size, parameter_float(message, 4), parameter_float(message, 2), head);
        rope_head(head, cosines, sines, head_size);
    }
    bfloat16 *k = reinterpret_cast<bfloat16 *>(start_row(memory, KV_ROW, second_core, head_size, 0));
    to_bfloat16(memory->row + num_heads * head_size, 2 * head_size, k);
    attention_begin(memory->row, num_heads, head_size, parameter_float(message, 3), memory);
    attention_row(k, k + head_size, memory);
}

static void attend(vector_memory *memory, const int32 *payload) {
    const message_state &message = memory->message;
    if (message.index > 0) return attention_piece(reinterpret_cast<const bfloat16 *>(payload), memory);
    memory->piece = 0;
    memory->first_slot = parameter(message, 2);
}

static void finish(vector_memory *memory) {
    const message_state &message = memory->message;
    attention_finish(memory, memory->row);
    send_activations(memory, memory->row, parameter(message, 2), parameter(message, 0) * parameter(message, 1));
}

static void residual(vector_memory *memory, const int32 *payload) {
    const message_state &message = memory->message;
    const int32 size = parameter(message, 0), num_slices = parameter(message, 2);
    if (message.index == 0) return copy_words(payload, size, memory->factors);
    if (message.index == 1)
        copy_words(payload, size, memory->row);
    else
        residual_add(reinterpret_cast<const float *>(payload), size, memory->row);
    if (message.index < num_slices) return;
    rms_norm(memory->row, memory->factors, size, parameter_float(message, 3), parameter_float(message, 1), memory->row);
    residual_add(memory->row, size, memory->hidden);
}

static void geglu(vector_memory *memory, const int32 *payload) {
    const message_state &message = memory->message;
    const int32 size = parameter(message, 0), per_element = payload_words / 2, first = (message.index - 1) * per_element;
    if (message.index == 0) return;
    const int32 count = size - first < per_element ? size - first : per_element;
    int8 *values = reinterpret_cast<int8 *>(memory->out + tag_words);
    bfloat16 *high = reinterpret_cast<bfloat16 *>(values + size), *low = high + size / group_size;
    geglu_quantize(reinterpret_cast<const float *>(payload), count / group_size, memory->row, values + first,
                   high + first / group_size, low + first / group_size);
    if (first + count == size) start_row(memory, SET_ROW, first_core | second_core, parameter(message, 1), size);
}

extern "C" void vector_core_step(const int32 *element, vector_memory *memory, int32 second) {
    message_state &message = memory->message;
    memory->num_rows = 0;
    next_element(message, element, second);
    if (!message.is_mine) return;
    const int32 *payload = element + tag_words;
    switch (message.tag[TAG_OPERATION]) {
        case LOAD_HIDDEN:
            return copy_words(payload, parameter(message, 0), memory->hidden);
        case NORM_QUANTIZE:
            return norm_quantize(memory, payload);
        case POSITION:
            return take_position(memory, payload);
        case ROPE:
            return rope(memory, payload);
        case ATTEND:
            return attend(memory, payload);
        case FINISH:
            return finish(memory);
        case RESIDUAL:
            return residual(memory, payload);
        case GEGLU:
            return geglu(memory, payload);
        case STORE_HIDDEN: {
            const int32 size = parameter(message, 0);
            return copy_words(memory->hidden, size,
                              reinterpret_cast<float *>(start_row(memory, LOAD_HIDDEN, second_core, size, 0)));
        }
        case KV_ROW: {
            const bfloat16 *k = reinterpret_cast<const bfloat16 *>(payload);
            return attention_row(k, k + parameter(message, 0), memory);
        }
        default:  // for the GEMV of this core
            return;
    }
}

extern "C" void vector_core_emit(vector_memory *memory, int32 *element) {
    for (int i = 0; i < element_words; i += 16) aie::store_v(element + i, aie::load_v<16>(memory->out + i));
}

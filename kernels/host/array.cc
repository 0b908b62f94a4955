// Moves the bytes that shim descriptors name through the array's fixed dataflow into the cores' programs.
//
// An input channel broadcasts whole elements to two cores; an output channel collects tiles (round robin over its
// cores) or whole rows. A core runs as soon as an element is complete. Locks, stream switches, fifo depths and time
// are not modelled: what would block on the device for want of data is reported when it is waited for.
#include <xmmintrin.h>

#include <cstdio>
#include <deque>
#include <memory>
#include <vector>

namespace {

constexpr int element_bytes = 4 * element_words, tile_bytes = 4 * tile_floats;

struct step {  // one shim task or wait; draft/npu/host_kernels.py has the same fields
    int32_t kind, column, channel, repeat;
    uint64_t address;
    int32_t length, d0_size, d0_step, d1_size, d1_step, d2_step;  // 32-bit words; d0_size 0: linear
    int32_t iteration_size, iteration_step, direction, token;
};
enum step_kind { READ, WRITE, WAIT };  // MM2S (memory to array), S2MM (array to memory), wait for a token

struct queue {  // bytes with a read position
    std::vector<uint8_t> bytes;
    size_t start = 0;

    size_t size() const { return bytes.size() - start; }
    const uint8_t *data() const { return bytes.data() + start; }
    void push(const void *from, size_t count) {
        const auto *first = static_cast<const uint8_t *>(from);
        bytes.insert(bytes.end(), first, first + count);
    }
    void pop(size_t count) {
        start += count;
        if (start == bytes.size()) bytes.clear(), start = 0;
    }
};

struct core {
    gemv_memory gemv{};
    std::unique_ptr<vector_memory> vector;  // the vector cores have one
    int32_t second = 0;
    queue tiles, rows;
};

struct input_channel {
    std::vector<core *> cores;
    queue rest;  // of an element that began in an earlier transfer
    int32_t tokens = 0;
};

struct output_channel {
    std::vector<core *> cores;
    bool is_rows = false;
    queue joined;
    std::deque<step> tasks;
    int64_t done_words = 0;  // of the first task
    int32_t done_runs = 0, tokens = 0;
};

void run_core(core &target, const int32_t *element) {
    gemv_core_step(element, &target.gemv, target.second);
    for (int i = 0; i < target.gemv.num_tiles; i++) {
        alignas(64) float tile[tile_floats];
        gemv_core_emit(&target.gemv, tile);
        target.tiles.push(tile, sizeof tile);
    }
    if (!target.vector) return;
    vector_core_step(element, target.vector.get(), target.second);
    for (int i = 0; i < target.vector->num_rows; i++) {
        alignas(64) int32_t row[element_words];
        vector_core_emit(target.vector.get(), row);
        target.rows.push(row, sizeof row);
    }
}

void feed(input_channel &channel, const uint8_t *bytes, size_t count) {
    while (count > 0) {
        alignas(64) uint8_t element[element_bytes];
        const uint8_t *whole = bytes;
        if (channel.rest.size() > 0 || count < element_bytes) {
            const size_t part = std::min(count, element_bytes - channel.rest.size());
            channel.rest.push(bytes, part);
            bytes += part, count -= part;
            if (channel.rest.size() < element_bytes) return;
            std::memcpy(element, channel.rest.data(), element_bytes);
            channel.rest.pop(element_bytes);
            whole = element;
        } else {
            bytes += element_bytes, count -= element_bytes;
        }
        for (core *target : channel.cores) run_core(*target, reinterpret_cast<const int32_t *>(whole));
    }
}

// Calls `take(address, words)` for the contiguous parts of words `from` .. `to` of one run of a task.
template <class Take>
void walk(const step &task, int32_t run, int64_t from, int64_t to, Take take) {
    auto *base = reinterpret_cast<uint8_t *>(task.address);
    if (task.iteration_size > 1) base += 4ll * (run % task.iteration_size) * task.iteration_step;
    if (task.d0_size == 0) return take(base + 4 * from, to - from);
    while (from < to) {
        const int64_t row = from / task.d0_size, in_row = from % task.d0_size;
        const int64_t plane = task.d1_size ? row / task.d1_size : 0, in_plane = task.d1_size ? row % task.d1_size : row;
        const int64_t word = plane * task.d2_step + in_plane * task.d1_step + in_row * task.d0_step;
        const int64_t count = task.d0_step == 1 ? std::min<int64_t>(task.d0_size - in_row, to - from) : 1;
        take(base + 4 * word, count);
        from += count;
    }
}

void read(input_channel &channel, const step &task) {
    for (int32_t run = 0; run <= task.repeat; run++)
        walk(task, run, 0, task.length, [&](const uint8_t *from, int64_t words) { feed(channel, from, 4 * words); });
    channel.tokens += task.token;
}

void collect(output_channel &channel) {  // what the cores have made, in stream order
    if (channel.is_rows) {
        queue &rows = channel.cores[0]->rows;
        channel.joined.push(rows.data(), rows.size());
        rows.pop(rows.size());
        return;
    }
    size_t count = SIZE_MAX;  // the join takes a tile from each core in turn
    for (core *source : channel.cores) count = std::min(count, source->tiles.size() / tile_bytes);
    for (size_t i = 0; i < count; i++) {
        for (core *source : channel.cores) {
            channel.joined.push(source->tiles.data(), tile_bytes);
            source->tiles.pop(tile_bytes);
        }
    }
}

void drain(output_channel &channel) {
    collect(channel);
    while (!channel.tasks.empty()) {
        const step &task = channel.tasks.front();
        const int64_t left = task.length - channel.done_words;
        const int64_t count = std::min<int64_t>(left, channel.joined.size() / 4);
        walk(task, channel.done_runs, channel.done_words, channel.done_words + count, [&](uint8_t *to, int64_t words) {
            std::memcpy(to, channel.joined.data(), 4 * words);
            channel.joined.pop(4 * words);
        });
        channel.done_words += count;
        if (count < left) return;
        channel.done_words = 0;
        if (++channel.done_runs <= task.repeat) continue;
        channel.done_runs = 0;
        channel.tokens += task.token;
        channel.tasks.pop_front();
    }
}

struct emulated_array {
    std::vector<std::unique_ptr<core>> cores;
    std::vector<std::unique_ptr<input_channel>> inputs;    // [column][channel]
    std::vector<std::unique_ptr<output_channel>> outputs;  // [column][channel]
};

emulated_array &array_of(void *handle) { return *static_cast<emulated_array *>(handle); }

}  // namespace

extern "C" {

void *array_create(int32_t num_columns) {
    auto *array = new emulated_array;
    for (int i = 0; i < 2 * num_columns; i++) {
        array->inputs.push_back(std::make_unique<input_channel>());
        array->outputs.push_back(std::make_unique<output_channel>());
    }
    return array;
}

void array_destroy(void *handle) { delete &array_of(handle); }

// Returns the core's number.
int32_t array_add_core(void *handle, int32_t is_vector, int32_t second) {
    auto &cores = array_of(handle).cores;
    cores.push_back(std::make_unique<core>());
    if (is_vector) cores.back()->vector = std::make_unique<vector_memory>();
    cores.back()->second = second;
    return int32_t(cores.size()) - 1;
}

void array_connect_input(void *handle, int32_t column, int32_t channel, int32_t core_number) {
    emulated_array &array = array_of(handle);
    array.inputs[2 * column + channel]->cores.push_back(array.cores[core_number].get());
}

void array_connect_output(void *handle, int32_t column, int32_t channel, int32_t core_number, int32_t is_rows) {
    emulated_array &array = array_of(handle);
    output_channel &output = *array.outputs[2 * column + channel];
    output.cores.push_back(array.cores[core_number].get());
    output.is_rows = is_rows;
}

// Runs the steps in order. Returns -1, or the number of the first wait that can never end.
int32_t array_execute(void *handle, const step *steps, int32_t num_steps) {
    emulated_array &array = array_of(handle);
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040);  // the core flushes denormals
    int32_t stalled = -1;
    for (int32_t i = 0; i < num_steps && stalled < 0; i++) {
        const int32_t index = 2 * steps[i].column + steps[i].channel;
        if (steps[i].kind == READ) {
            read(*array.inputs[index], steps[i]);
        } else if (steps[i].kind == WRITE) {
            array.outputs[index]->tasks.push_back(steps[i]);
        } else {
            if (steps[i].direction == 0) drain(*array.outputs[index]);
            int32_t &tokens = steps[i].direction == 0 ? array.outputs[index]->tokens : array.inputs[index]->tokens;
            if (tokens-- == 0) stalled = i;
        }
    }
    _mm_setcsr(mode);
    return stalled;
}
}

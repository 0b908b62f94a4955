// Vectors and accumulators of the modelled core on the compiler's vector extension; it knows no arithmetic.
// A vector is stored in chunks of at most 64 bytes, which compilers keep in registers; bfloat16 lanes as the floats
// they stand for, so that products need no conversion.
#pragma once

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <utility>

#include "registers.hpp"

using int8 = int8_t;
using int16 = int16_t;
using int32 = int32_t;
using uint8 = uint8_t;
using uint16 = uint16_t;
using uint32 = uint32_t;

struct int4 {  // a byte holds two, the low nibble first; pointer arithmetic steps bytes, as on the device
    uint8_t packed;
};
struct bfloat16 {  // the upper half of a float32
    uint16_t bits;
};
struct acc32 {};  // tags of accumulators
struct acc64 {};
struct accfloat {};

namespace aie_host {

template <class T>
struct lane {
    using type = T;
    static constexpr unsigned bits = 8 * sizeof(T);
};
template <>
struct lane<int4> {
    using type = uint8_t;
    static constexpr unsigned bits = 4;
};
template <>
struct lane<bfloat16> {
    using type = float;
    static constexpr unsigned bits = 32;
};
template <>
struct lane<acc32> : lane<int32_t> {};
template <>
struct lane<acc64> : lane<int64_t> {};
template <>
struct lane<accfloat> : lane<float> {};

template <class T, unsigned bytes>
struct native_vector {
    typedef T type __attribute__((vector_size(bytes)));
};
template <class T, unsigned bytes>
using native = typename native_vector<T, bytes>::type;

template <class T>
auto to_lane(T value) {
    return value;
}
inline float to_lane(bfloat16 value) {
    const uint32_t bits = uint32_t(value.bits) << 16;
    float lane;
    std::memcpy(&lane, &bits, sizeof lane);
    return lane;
}

template <class T, unsigned N>
struct chunks {
    using element = typename lane<T>::type;
    static constexpr unsigned bytes = N * lane<T>::bits / 8, chunk_bytes = std::min(bytes, 64u);
    static constexpr unsigned num_chunks = bytes / chunk_bytes, per_chunk = chunk_bytes / sizeof(element);
    using chunk = native<element, chunk_bytes>;
    chunk parts[num_chunks] = {};

    element operator[](unsigned i) const { return parts[i / per_chunk][i % per_chunk]; }
    void set(element value, unsigned i) { parts[i / per_chunk][i % per_chunk] = value; }
};

// `M` lanes of chunks, from lane part * M on.
template <unsigned M, class T, unsigned N>
chunks<T, M> sub_chunks(const chunks<T, N>& from, unsigned part) {
    chunks<T, M> r;
    using from_chunks = chunks<T, N>;
    if constexpr (chunks<T, M>::per_chunk == from_chunks::per_chunk) {
        for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = from.parts[part * r.num_chunks + i];
    } else {
        const char* source = reinterpret_cast<const char*>(from.parts) + part * r.bytes;
        std::memcpy(static_cast<void*>(r.parts), source, r.bytes);
    }
    return r;
}

// N bfloat16 values in memory to floats, and back.
template <unsigned N>
native<float, 4 * N> widen(const bfloat16* p) {
    native<uint16_t, 2 * N> half;
    std::memcpy(&half, p, sizeof half);
#if defined(__AVX512F__)
    if constexpr (N == 16) {
        const __m512i wide = _mm512_cvtepu16_epi32(reinterpret_cast<__m256i>(half));
        return reinterpret_cast<native<float, 64>>(_mm512_slli_epi32(wide, 16));
    }
#endif
    return reinterpret_cast<native<float, 4 * N>>(__builtin_convertvector(half, native<uint32_t, 4 * N>) << 16);
}
template <unsigned N>
void narrow(const native<float, 4 * N>& v, bfloat16* p) {
    const auto bits = reinterpret_cast<native<uint32_t, 4 * N>>(v) >> 16;
    const auto half = __builtin_convertvector(bits, native<uint16_t, 2 * N>);
    std::memcpy(static_cast<void*>(p), &half, sizeof half);
}

}  // namespace aie_host

namespace aie {

template <class T, unsigned N>
struct vector : aie_host::chunks<T, N> {
    using base = aie_host::chunks<T, N>;

    void set(T value, unsigned i) { base::set(aie_host::to_lane(value), i); }
    template <unsigned M>
    vector<T, M> extract(unsigned part) const {
        return {aie_host::sub_chunks<M, T, N>(*this, part)};
    }
    template <class U>
    auto cast_to() const {
        static_assert(!std::is_same_v<T, bfloat16> && !std::is_same_v<U, bfloat16>, "not modelled");
        vector<U, N * aie_host::lane<T>::bits / aie_host::lane<U>::bits> r;
        static_assert(r.bytes == base::bytes && r.num_chunks == base::num_chunks);
        for (unsigned i = 0; i < r.num_chunks; i++)
            r.parts[i] = reinterpret_cast<typename decltype(r)::chunk>(this->parts[i]);
        return r;
    }
};

template <class T, unsigned N>
vector<T, N> zeros() {
    return {};
}

template <class T, unsigned N>
vector<T, N> broadcast(T value) {
    vector<T, N> r;
    for (auto& part : r.parts) part = aie_host::to_lane(value) - typename vector<T, N>::chunk{};
    return r;
}

template <unsigned N, class T>
vector<T, N> load_v(const T* p) {
    vector<T, N> r;
    if constexpr (std::is_same_v<T, bfloat16>) {
        for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = aie_host::widen<r.per_chunk>(p + i * r.per_chunk);
    } else {
        std::memcpy(static_cast<void*>(r.parts), p, r.bytes);
    }
    return r;
}

template <class T, unsigned N>
void store_v(T* p, const vector<T, N>& v) {
    if constexpr (std::is_same_v<T, bfloat16>) {
        for (unsigned i = 0; i < v.num_chunks; i++) aie_host::narrow<v.per_chunk>(v.parts[i], p + i * v.per_chunk);
    } else {
        std::memcpy(static_cast<void*>(p), v.parts, v.bytes);
    }
}

template <class T, unsigned N>
vector<T, 2 * N> concat(const vector<T, N>& a, const vector<T, N>& b) {
    vector<T, 2 * N> r;
    if constexpr (r.num_chunks == 1) {
        constexpr auto lanes = std::make_index_sequence<2 * N>{};
        r.parts[0] = [&]<size_t... i>(std::index_sequence<i...>) {
            return __builtin_shufflevector(a.parts[0], b.parts[0], int(i)...);
        }(lanes);
    } else {
        std::memcpy(static_cast<void*>(r.parts), a.parts, a.bytes);
        std::memcpy(reinterpret_cast<char*>(r.parts) + a.bytes, b.parts, b.bytes);
    }
    return r;
}

// Lanes 0, 2, 4 ... and 1, 3, 5 ... of a vector of one chunk, `step` lanes each.
template <class T, unsigned N>
vector<T, N / 2> filter_even(const vector<T, N>& v, unsigned step) {
    vector<T, N / 2> r;
    for (unsigned i = 0; i < N / 2; i++) r.parts[0][i] = v.parts[0][i / step * 2 * step + i % step];
    return r;
}
template <class T, unsigned N>
vector<T, N / 2> filter_odd(const vector<T, N>& v, unsigned step) {
    vector<T, N / 2> r;
    for (unsigned i = 0; i < N / 2; i++) r.parts[0][i] = v.parts[0][i / step * 2 * step + step + i % step];
    return r;
}

// `step` lanes of a, of b, of a ... : the first N lanes and the last.
template <class T, unsigned N>
std::pair<vector<T, N>, vector<T, N>> interleave_zip(const vector<T, N>& a, const vector<T, N>& b, unsigned step) {
    std::pair<vector<T, N>, vector<T, N>> r;
    for (unsigned i = 0; i < 2 * N; i++) {
        const auto value = (i / step % 2 ? b : a).parts[0][i / (2 * step) * step + i % step];
        (i < N ? r.first : r.second).parts[0][i % N] = value;
    }
    return r;
}

}  // namespace aie

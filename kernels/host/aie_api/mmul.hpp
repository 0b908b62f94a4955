// Matrix tiles of the modelled core: C (M x N) += A (M x K) * B (K x N), all row-major.
//
// int8 x int4 is bit-exact. The bfloat16 tile adds its eight exact products in float64, k ascending, then the
// accumulator, and rounds once to float32: within one unit in the last place of the core, which aligns them to one
// exponent first.
#pragma once

#include "arithmetic.hpp"

namespace aie {

template <unsigned M, unsigned K, unsigned N, class A, class B>
struct mmul;

template <>
struct mmul<4, 16, 8, int8, int4> {
    mmul() { clear(); }

    void mul(const vector<int8, 64>& a, const vector<int4, 128>& b) {
        clear();
        mac(a, b);
    }

#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    // A dword lane holds one output column: lanes 0..7 four values of k, lanes 8..15 the next four. The dot product
    // instruction wants one unsigned operand: activations go in as a + 128, 128 * sum(b) comes off at the end.
    void mac(const vector<int8, 64>& a, const vector<int4, 128>& b) {
        const __m512i shifted = _mm512_xor_si512(reinterpret_cast<__m512i>(a.parts[0]), _mm512_set1_epi8(-128));
        const __m512i packed = reinterpret_cast<__m512i>(b.parts[0]);
        const __m512i columns[2] = {unpack<0x50>(packed), unpack<0xfa>(packed)};
        for (int part = 0; part < 2; part++) {
            offset = _mm512_dpbusd_epi32(offset, _mm512_set1_epi8(1), columns[part]);
            const __m512i step = _mm512_add_epi32(_mm512_set1_epi32(2 * part), halves());
            for (int row = 0; row < 4; row++) {
                const __m512i index = _mm512_add_epi32(step, _mm512_set1_epi32(4 * row));
                rows[row] = _mm512_dpbusd_epi32(rows[row], _mm512_permutexvar_epi32(index, shifted), columns[part]);
            }
        }
    }
    template <class T>
    vector<int32, 32> to_vector() const {
        static_assert(std::is_same_v<T, int32>);
        const __m512i correction = _mm512_slli_epi32(offset, 7);
        vector<int32, 32> r;
        for (int pair = 0; pair < 2; pair++) {
            const __m512i first = _mm512_sub_epi32(rows[2 * pair], correction);
            const __m512i second = _mm512_sub_epi32(rows[2 * pair + 1], correction);
            const __m512i low = _mm512_shuffle_i64x2(first, second, 0x44);
            const __m512i high = _mm512_shuffle_i64x2(first, second, 0xee);
            r.parts[pair] = reinterpret_cast<vector<int32, 32>::chunk>(_mm512_add_epi32(low, high));
        }
        return r;
    }

  private:
    __m512i rows[4], offset;

    void clear() {
        for (auto& row : rows) row = _mm512_setzero_si512();
        offset = _mm512_setzero_si512();
    }
    static __m512i halves() { return _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1); }

    // Signed bytes of two groups of four k: `order` doubles both 16-byte groups, a shuffle gathers each column's
    // bytes, a shift by 4 brings odd columns down, a table extends the sign.
    template <int order>
    static __m512i unpack(__m512i packed) {
        const __m512i doubled = _mm512_permutex2var_epi64(packed, lane_order<order>(), packed);
        const __m128i first = _mm_setr_epi8(0, 4, 8, 12, 0, 4, 8, 12, 1, 5, 9, 13, 1, 5, 9, 13);
        const __m256i gather = _mm256_setr_m128i(first, _mm_add_epi8(first, _mm_set1_epi8(2)));
        const __m512i columns = _mm512_shuffle_epi8(doubled, _mm512_broadcast_i64x4(gather));
        const __m512i down = _mm512_srlv_epi32(columns, _mm512_set1_epi64(4ll << 32));
        const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), _mm512_and_si512(down, _mm512_set1_epi8(15)));
    }
    template <int order>
    static __m512i lane_order() {
        return order == 0x50 ? _mm512_setr_epi64(0, 1, 0, 1, 2, 3, 2, 3) : _mm512_setr_epi64(4, 5, 4, 5, 6, 7, 6, 7);
    }

#elif defined(__AVX2__)
    // The same with 8 columns at a time; pairs of products fit int16: 255 * 8 * 2.
    void mac(const vector<int8, 64>& a, const vector<int4, 128>& b) {
        const __m128i table = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, -8, -7, -6, -5, -4, -3, -2, -1);
        const __m128i first = _mm_setr_epi8(0, 4, 8, 12, 0, 4, 8, 12, 1, 5, 9, 13, 1, 5, 9, 13);
        const __m256i gather = _mm256_setr_m128i(first, _mm_add_epi8(first, _mm_set1_epi8(2)));
        const __m256i odd = _mm256_set1_epi64x(4ll << 32), ones = _mm256_set1_epi16(1);
        const auto* packed = reinterpret_cast<const __m128i*>(b.parts);
        const auto* activations = reinterpret_cast<const int32_t*>(a.parts);
        for (int part = 0; part < 4; part++) {
            const __m256i doubled = _mm256_broadcastsi128_si256(_mm_loadu_si128(packed + part));
            const __m256i down = _mm256_srlv_epi32(_mm256_shuffle_epi8(doubled, gather), odd);
            const __m256i nibbles = _mm256_and_si256(down, _mm256_set1_epi8(15));
            const __m256i column = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), nibbles);
            const auto dot = [&](__m256i x) { return _mm256_madd_epi16(_mm256_maddubs_epi16(x, column), ones); };
            offset = _mm256_add_epi32(offset, dot(_mm256_set1_epi8(1)));
            for (int row = 0; row < 4; row++) {
                const int four = activations[4 * row + part] ^ int(0x80808080u);
                rows[row] = _mm256_add_epi32(rows[row], dot(_mm256_set1_epi32(four)));
            }
        }
    }
    template <class T>
    vector<int32, 32> to_vector() const {
        static_assert(std::is_same_v<T, int32>);
        vector<int32, 32> r;
        const __m256i correction = _mm256_slli_epi32(offset, 7);
        for (int row = 0; row < 4; row++)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(r.parts) + row, _mm256_sub_epi32(rows[row], correction));
        return r;
    }

  private:
    __m256i rows[4], offset;

    void clear() {
        for (auto& row : rows) row = _mm256_setzero_si256();
        offset = _mm256_setzero_si256();
    }

#else
    void mac(const vector<int8, 64>& a, const vector<int4, 128>& b) {
        for (unsigned k = 0; k < 16; k++) {
            aie_host::native<int32_t, 32> weights;
            for (unsigned n = 0; n < 8; n++) weights[n] = int8_t(b[4 * k + n / 2] << (n & 1 ? 0 : 4)) >> 4;
            for (unsigned row = 0; row < 4; row++) rows[row] += weights * int32_t(a[16 * row + k]);
        }
    }
    template <class T>
    vector<int32, 32> to_vector() const {
        static_assert(std::is_same_v<T, int32>);
        vector<int32, 32> r;
        std::memcpy(static_cast<void*>(r.parts), rows, sizeof rows);
        return r;
    }

  private:
    aie_host::native<int32_t, 32> rows[4];

    void clear() { std::memset(static_cast<void*>(rows), 0, sizeof rows); }
#endif
};

template <>
struct mmul<4, 8, 4, bfloat16, bfloat16> {
    accum<accfloat, 16> c;

    mmul() = default;
    explicit mmul(const vector<float, 16>& v) : c(v) {}

    void mac(const vector<bfloat16, 32>& a, const vector<bfloat16, 32>& b) {
        using row = aie_host::native<double, 32>;
        double wide_a[32];  // in memory: the multiplications broadcast from there
        for (unsigned i = 0; i < 32; i += 4) {
            const row four = widen(reinterpret_cast<const float*>(a.parts) + i);
            std::memcpy(wide_a + i, &four, sizeof four);
        }
        const float* wide_b = reinterpret_cast<const float*>(b.parts);
        float* sums = reinterpret_cast<float*>(c.parts);
        row columns[8];
        for (unsigned k = 0; k < 8; k++) columns[k] = widen(wide_b + 4 * k);
        for (unsigned i = 0; i < 4; i++) {
            row sum = columns[0] * wide_a[8 * i];
            for (unsigned k = 1; k < 8; k++) sum += columns[k] * wide_a[8 * i + k];
            const auto rounded = __builtin_convertvector(widen(sums + 4 * i) + sum, aie_host::native<float, 16>);
            std::memcpy(sums + 4 * i, &rounded, sizeof rounded);
        }
    }
    template <class T>
    vector<T, 16> to_vector() const {
        return c.to_vector<T>();
    }

  private:
    static aie_host::native<double, 32> widen(const float* p) {
        aie_host::native<float, 16> four;
        std::memcpy(&four, p, sizeof four);
        return __builtin_convertvector(four, aie_host::native<double, 32>);
    }
};

}  // namespace aie

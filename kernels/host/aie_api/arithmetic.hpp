// Lane-by-lane arithmetic, conversions and reductions of the modelled core; it knows no matrix tiles.
//
// Integers are bit-exact (accumulators wrap). Products of bfloat16 are exact in float32 and every float32 addition
// rounds to nearest even by itself; the core instead aligns a lane's products and accumulator to one exponent and
// adds them at once, so its sums may differ in the last bit. Float reductions halve: N/2, N/4, ... 1.
// Denormals are flushed by the caller's floating-point mode (host/abi.cc).
#pragma once

#include "vector.hpp"

namespace aie {

// ---- conversions ----

template <class Tag, unsigned N>
struct accum : aie_host::chunks<Tag, N> {
    using base = aie_host::chunks<Tag, N>;

    accum() = default;
    template <class T>
    explicit accum(const vector<T, N>& v, int shift = 0) {
        from_vector(v, shift);
    }

    template <class T>
    void from_vector(const vector<T, N>& v, int shift = 0) {
        if constexpr (std::is_same_v<Tag, accfloat>) {
            static_assert(std::is_same_v<T, float> || std::is_same_v<T, bfloat16>);
            for (unsigned i = 0; i < base::num_chunks; i++) this->parts[i] = v.parts[i];
        } else {
            for (unsigned i = 0; i < N; i++) this->set(typename base::element(int64_t(v[i]) << shift), i);
        }
    }
    template <class T>
    vector<T, N> to_vector(int shift = 0) const {
        vector<T, N> r;
        if constexpr (std::is_same_v<T, float>) {
            for (unsigned i = 0; i < base::num_chunks; i++) r.parts[i] = this->parts[i];
        } else if constexpr (std::is_same_v<T, bfloat16>) {
            for (unsigned i = 0; i < base::num_chunks; i++) r.parts[i] = round_to_bfloat16(this->parts[i]);
        } else {
            constexpr int bits = 8 * sizeof(T);
            for (unsigned i = 0; i < N; i++)
                r.set(T(aie_host::shift_round_saturate((*this)[i], shift, std::is_signed_v<T>, bits)), i);
        }
        return r;
    }
    template <unsigned M>
    accum<Tag, M> extract(unsigned part) const {
        accum<Tag, M> r;
        static_cast<aie_host::chunks<Tag, M>&>(r) = aie_host::sub_chunks<M, Tag, N>(*this, part);
        return r;
    }

  private:
    static auto round_to_bfloat16(const typename base::chunk& f) {
        using bits = aie_host::native<uint32_t, base::chunk_bytes>;
        const bits u = reinterpret_cast<bits>(f);
#if defined(__AVX512BF16__)  // the same, but for denormals, which it flushes
        if constexpr (base::chunk_bytes == 64) {
            if (aie_host::rounding == rounding_mode::conv_even) {
                const __m256bh half = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(f));
                const __m512i wide = _mm512_cvtepu16_epi32((__m256i)half);
                return reinterpret_cast<typename base::chunk>(_mm512_slli_epi32(wide, 16));
            }
        }
#endif
        bits r = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
        if (aie_host::rounding == rounding_mode::conv_even)
            r = f == f ? r : (u | 0x400000) & 0xffff0000;  // a NaN stays one
        else
            for (unsigned i = 0; i < base::per_chunk; i++)
                r[i] = uint32_t(aie_host::float_to_bfloat16(u[i], aie_host::rounding)) << 16;
        return reinterpret_cast<typename base::chunk>(r);
    }
};

template <class U = float, unsigned N>
vector<float, N> to_float(const vector<int32, N>& v, int shift = 0) {
    vector<float, N> r;
    const float scale = __builtin_ldexpf(1.0f, -shift);
    for (unsigned i = 0; i < r.num_chunks; i++) {
        r.parts[i] = __builtin_convertvector(v.parts[i], typename vector<float, N>::chunk);
        if (shift) r.parts[i] *= scale;
    }
    return r;
}

// ---- lane by lane ----

template <class T, unsigned N>
vector<T, N> add(const vector<T, N>& a, const vector<T, N>& b) {
    vector<T, N> r;
    for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = a.parts[i] + b.parts[i];
    return r;
}
template <class T, unsigned N>
vector<T, N> sub(const vector<T, N>& a, const vector<T, N>& b) {
    vector<T, N> r;
    for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = a.parts[i] - b.parts[i];
    return r;
}
template <class T, unsigned N>
vector<T, N> max(const vector<T, N>& a, const vector<T, N>& b) {
    vector<T, N> r;
    for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = a.parts[i] > b.parts[i] ? a.parts[i] : b.parts[i];
    return r;
}
template <unsigned N>
vector<int32, N> upshift(const vector<int32, N>& v, unsigned shift) {
    vector<int32, N> r;
    for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = v.parts[i] << shift;
    return r;
}
template <unsigned N>
vector<int32, N> downshift(const vector<int32, N>& v, unsigned shift) {  // arithmetic, rounding down
    vector<int32, N> r;
    for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = v.parts[i] >> shift;
    return r;
}

template <unsigned N>
accum<accfloat, N> mul(const vector<bfloat16, N>& a, const vector<bfloat16, N>& b) {
    accum<accfloat, N> r;
    for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = a.parts[i] * b.parts[i];
    return r;
}
template <unsigned N>
accum<accfloat, N> mac(const accum<accfloat, N>& c, const vector<bfloat16, N>& a, const vector<bfloat16, N>& b) {
    accum<accfloat, N> r;
    for (unsigned i = 0; i < r.num_chunks; i++) r.parts[i] = c.parts[i] + a.parts[i] * b.parts[i];
    return r;
}

// ---- across lanes ----

template <unsigned N>
float reduce_add(const vector<float, N>& v) {
    if constexpr (N == 1) {
        return v[0];
    } else {
        return reduce_add(add(v.template extract<N / 2>(0), v.template extract<N / 2>(1)));
    }
}
template <class T, unsigned N>
T reduce_max(const vector<T, N>& v) {
    T best = v[0];
    for (unsigned i = 1; i < N; i++) best = v[i] > best ? v[i] : best;
    return best;
}

}  // namespace aie

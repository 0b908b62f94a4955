// What tests ask of the host model beside the kernels: single conversions, and how it was compiled.
extern "C" {

int64_t probe_shift_round_saturate(int64_t value, int32_t shift, int32_t is_signed, int32_t bits, int32_t rounding,
                                   int32_t saturation) {
    aie::set_rounding(aie::rounding_mode(rounding));
    aie::set_saturation(aie::saturation_mode(saturation));
    return aie_host::shift_round_saturate(value, shift, is_signed, bits);
}

void probe_to_bfloat16(const float *x, int32_t size, int32_t rounding, uint16_t *out) {
    aie::set_rounding(aie::rounding_mode(rounding));
    for (int32_t i = 0; i < size; i += 16) {
        const aie::accum<accfloat, 16> wide(aie::load_v<16>(x + i));
        aie::store_v(reinterpret_cast<bfloat16 *>(out + i), wide.to_vector<bfloat16>());
    }
}

enum probe_function { RECIPROCAL, RECIPROCAL_ROOT, POWER_OF_TWO };

void probe_float_math(const float *x, int32_t size, int32_t function, float *out) {
    aie::set_rounding(aie::rounding_mode::conv_even);
    for (int32_t i = 0; i < size; i += 16) {
        const float16_lanes v = aie::load_v<16>(x + i);
        aie::store_v(out + i, function == RECIPROCAL        ? reciprocal(v)
                              : function == RECIPROCAL_ROOT ? reciprocal_root(v)
                                                            : power_of_two(v));
    }
}

int32_t probe_memory_bytes(int32_t is_vector) { return is_vector ? sizeof(vector_memory) : sizeof(gemv_memory); }

const char *probe_dot_product() {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__)
    return "AVX-512 VNNI";
#elif defined(__AVX2__)
    return "AVX2";
#else
    return "portable";
#endif
}
}

// Gumbel noise of a seed, a position and a token id: the words of specdec/sampling.py bit for bit, its logarithms to
// float32 (off by less than 3e-7 and 2e-7 of G, over its whole range -3.1 .. 22.9).
//   Philox4x32-10 under the key {seed low, seed high}; token t takes word t mod 4 of counter {t / 4, position, 0, 0}
//   G = -ln(-ln u), u = (word + 1/2) / 2^32
#ifndef GUMBEL_GLSL
#define GUMBEL_GLSL

uvec4 philox(uvec2 key, uvec4 counter) {
    for (uint round_ = 0u; round_ < 10u; ++round_) {
        uint high0, low0, high1, low1;
        umulExtended(0xD2511F53u, counter.x, high0, low0);
        umulExtended(0xCD9E8D57u, counter.z, high1, low1);
        counter = uvec4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
        key += uvec2(0x9E3779B9u, 0xBB67AE85u);
    }
    return counter;
}

// 2 atanh(s) = ln((1 + s) / (1 - s)) for |s| <= 1/3, of full relative precision around 0.
float twice_atanh(float s) {
    precise const float t = s * s;
    precise float p = 1.0 / 17.0;
    p = fma(p, t, 1.0 / 15.0);
    p = fma(p, t, 1.0 / 13.0);
    p = fma(p, t, 1.0 / 11.0);
    p = fma(p, t, 1.0 / 9.0);
    p = fma(p, t, 1.0 / 7.0);
    p = fma(p, t, 1.0 / 5.0);
    p = fma(p, t, 1.0 / 3.0);
    precise const float twice = 2.0 * s;
    precise const float result_ = fma(twice * t, p, twice);
    return result_;
}

// ln x for a normal x > 0.
float log_fixed(float x) {
    const uint bits = floatBitsToUint(x) - 0x3F3504F3u;  // of sqrt(1/2): m lies in sqrt(1/2) .. sqrt(2)
    precise const float n = float(int(bits) >> 23);
    precise const float m = uintBitsToFloat((bits & 0x007FFFFFu) + 0x3F3504F3u);
    precise float sum = fma(n, -2.12194440e-4, twice_atanh((m - 1.0) / (m + 1.0)));  // ln 2 in two parts
    sum = fma(n, 0.693359375, sum);
    return sum;
}

// -ln u is taken from 1 - u where u is above 1/2: u itself would lose what the largest noise is made of.
float gumbel(uint word) {
    precise float a;
    if (word < 0x80000000u) {
        a = -log_fixed((float(word) + 0.5) * 2.3283064365386963e-10);
    } else {
        precise const float rest = (float(~word) + 0.5) * 2.3283064365386963e-10;
        a = twice_atanh(rest / (2.0 - rest));
    }
    return -log_fixed(a);
}
#endif

// Transcendental functions written out with explicit fma, so that every shader, pass size and driver
// computes them alike. Relative error of exp about 1e-7 (2 ulp) over its range.
#ifndef MATH_GLSL
#define MATH_GLSL

// e^x for any finite x; the result is clamped to [e^-87, e^88] (no denormals, no infinity).
float exp_fixed(float x) {
    const float y = clamp(x, -87.0, 88.0);
    precise float n = roundEven(y * 1.44269504);
    precise float f = fma(n, -0.693359375, y);  // ln 2 in two parts: n * high part is exact
    f = fma(n, 2.12194440e-4, f);
    precise float p = 1.9875691500e-4;
    p = fma(p, f, 1.3981999507e-3);
    p = fma(p, f, 8.3334519073e-3);
    p = fma(p, f, 4.1665795894e-2);
    p = fma(p, f, 1.6666665459e-1);
    p = fma(p, f, 5.0000001201e-1);
    p = fma(p, f * f, f) + 1.0;
    return p * uintBitsToFloat(uint(int(n) + 127) << 23);
}

// tanh(u) = 1 - 2 / (e^(2u) + 1); saturates to +-1 without overflow.
float tanh_fixed(float u) {
    precise float result = 1.0 - 2.0 / (exp_fixed(2.0 * clamp(u, -15.0, 15.0)) + 1.0);
    return result;
}

// GELU, tanh form: g/2 (1 + tanh(sqrt(2/pi) (g + 0.044715 g^3))).
float gelu_tanh(float g) {
    precise float u = 0.7978845608 * fma(0.044715 * g * g, g, g);
    precise float result = (0.5 * g) * (1.0 + tanh_fixed(u));
    return result;
}
#endif

// Products of 8-bit integer matrices, 16 x 32 by 32 x 8, by a subgroup of 32 lanes. They are loaded from an array of uvec4:
// a row of the left matrix and a column of the right one is two elements. A lane's elements: include/gemm_matrix.glsl.
// With STAND_IN 1 every lane computes its own from the array `lines`: the same numbers on any device, for tests alone.
#ifndef COOP_MATRIX_GLSL
#define COOP_MATRIX_GLSL
#if STAND_IN
struct Left { uint at; uint pitch; };
#define Right Left
#define Integers ivec4
#define LOAD_LEFT(matrix, array, first, step) matrix = Left(first, step)
#define LOAD_RIGHT(matrix, array, first, step) matrix = Right(first, step)
int byte_of(uint word, uint b) { return int(word << (24u - 8u * b)) >> 24; }
ivec4 MULTIPLY(Left left, Right right, int start) {
    ivec4 dots = ivec4(start);
    for (uint e = 0u; e < 4u; ++e) {
        const uint l = left.at + ((gl_LocalInvocationIndex & 31u) / 4u + 8u * (e >> 1)) * left.pitch;
        const uint r = right.at + (2u * (gl_LocalInvocationIndex & 3u) + (e & 1u)) * right.pitch;
        for (uint word = 0u; word < 8u; ++word)
            for (uint b = 0u; b < 4u; ++b)
                dots[e] += byte_of(lines[l + word / 4u][word & 3u], b) * byte_of(lines[r + word / 4u][word & 3u], b);
    }
    return dots;
}
#else
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_int8 : require
#extension GL_EXT_shader_explicit_arithmetic_types_int32 : require
#define Left coopmat<int8_t, gl_ScopeSubgroup, 16, 32, gl_MatrixUseA>
#define Right coopmat<int8_t, gl_ScopeSubgroup, 32, 8, gl_MatrixUseB>
#define Integers coopmat<int32_t, gl_ScopeSubgroup, 16, 8, gl_MatrixUseAccumulator>
#define LOAD_LEFT(matrix, array, first, step) coopMatLoad(matrix, array, first, step, gl_CooperativeMatrixLayoutRowMajor)
#define LOAD_RIGHT(matrix, array, first, step) coopMatLoad(matrix, array, first, step, gl_CooperativeMatrixLayoutColumnMajor)
#define MULTIPLY(left, right, start) coopMatMulAdd(left, right, Integers(start))
#endif
#endif

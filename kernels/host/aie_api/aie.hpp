// Host model of the part of AMD's aie_api that this project's kernels use: they compile unchanged with g++ or clang++
// -std=c++20. Names and meanings follow aie_api for AIE2; what is not bit-exact is said in the parts.
#pragma once

#include "mmul.hpp"

#define restrict __restrict
#define chess_prepare_for_pipelining
#define chess_loop_range(...)

inline void event0() {}
inline void event1() {}

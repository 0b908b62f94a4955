// Picks the class of a matrix product: INTEGER_DOT 1 for devices that accelerate packed 4 x 8-bit dot products, else 0.
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#if INTEGER_DOT
#include "gemm_dot.glsl"
#else
#include "gemm_lanes.glsl"
#endif

// Picks the class of a matrix product. INTEGER_DOT 3: panels of 8-bit cooperative matrices, for many rows; 2: 8-bit
// cooperative matrices; 1: packed 4 x 8-bit dot products, for devices that accelerate them; 0: any device.
#extension GL_EXT_control_flow_attributes : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#if INTEGER_DOT == 3
#include "gemm_panel.glsl"
#elif INTEGER_DOT == 2
#include "gemm_matrix.glsl"
#elif INTEGER_DOT == 1
#include "gemm_dot.glsl"
#else
#include "gemm_lanes.glsl"
#endif

/* SPDX-License-Identifier: Apache-2.0
 *
 * The gated unit of gate and up, for the products that store it and for the engine's rows.
 */
#ifndef GEMM_GATED_CUH
#define GEMM_GATED_CUH

/* silu: u = x; gelu's tanh form: 0.5 x (1 + tanh(u / 2)) = x / (1 + exp(-u)) with u = 2 sqrt(2 / pi) (x + 0.044715 x^3) */
static __device__ __forceinline__ float gated_argument(float x, bool gelu) {
    return gelu ? 1.5957691216057308f * (x + 0.044715f * x * x * x) : x;
}

/* x / (1 + exp(-u)) * up with the hardware's exp and division: a few units of the last place of FP32. */
static __device__ __forceinline__ float gated_unit(float x, float up, bool gelu) {
    return __fdividef(x, 1.0f + __expf(-gated_argument(x, gelu))) * up;
}

#endif

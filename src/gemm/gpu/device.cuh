/* SPDX-License-Identifier: Apache-2.0
 *
 * PTX in small words: shared memory, barriers, bulk copies, mma.sync, dependent launch, and how the C9 word of
 * word.h is decoded. Used by every kernel of the room.
 */
#ifndef GEMM_DEVICE_CUH
#define GEMM_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "gemm/gemm.h"
#include "gemm/gpu/gated.cuh"
#include "gemm/gpu/launch.h"
#include "gemm/word.h"

#define GEMM_DEV __device__ __forceinline__

GEMM_DEV uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

GEMM_DEV uint4 lds128(uint32_t a) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(a));
    return v;
}

GEMM_DEV uint2 lds64(uint32_t a) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0,%1},[%2];" : "=r"(v.x), "=r"(v.y) : "r"(a));
    return v;
}

GEMM_DEV uint32_t lds32(uint32_t a) {
    uint32_t v;
    asm volatile("ld.shared.u32 %0,[%1];" : "=r"(v) : "r"(a));
    return v;
}

GEMM_DEV void sts32(uint32_t a, uint32_t v) {
    asm volatile("st.shared.u32 [%0],%1;" ::"r"(a), "r"(v) : "memory");
}

GEMM_DEV void sts128(uint32_t a, const float4 &v) {
    asm volatile("st.shared.v4.f32 [%0],{%1,%2,%3,%4};" ::"r"(a), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

/* ---- dependent launch (sm_90 on; elsewhere kernels just follow one another) ---- */

GEMM_DEV void dependency_wait() { /* until the kernels before have finished and their writes are seen */
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

GEMM_DEV void dependents_go() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- mbarrier and bulk copies (sm_90 on) ---- */

GEMM_DEV void barrier_init(uint32_t bar, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0],%1;" ::"r"(bar), "r"(count));
}

GEMM_DEV void barrier_expect(uint32_t bar, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _,[%0],%1;" ::"r"(bar), "r"(bytes) : "memory");
}

GEMM_DEV void barrier_arrive(uint32_t bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _,[%0];" ::"r"(bar) : "memory");
}

GEMM_DEV void barrier_wait(uint32_t bar, uint32_t phase) {
    asm volatile("{\n.reg .pred p;\nL: mbarrier.try_wait.parity.shared::cta.b64 p,[%0],%1;\n@p bra D;\nbra L;\nD:\n}" ::"r"(bar),
                 "r"(phase)
                 : "memory");
}

GEMM_DEV void barrier_fence() { /* initialized barriers become visible to the copy engine */
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

GEMM_DEV void bulk_copy(uint32_t to, const void *from, int bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1],%2,[%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(bar)
                 : "memory");
}

/* How long L2 keeps what a copy reads, as createpolicy makes it. */
enum : uint64_t { EVICT_FIRST = 0x12f0000000000000, EVICT_NORMAL = 0x1000000000000000 };

/* What nobody reads again soon: it leaves L2 before what is read more often. */
GEMM_DEV void bulk_copy_once(uint32_t to, const void *from, int bytes, uint32_t bar) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0],[%1],%2,[%3],%4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(bar), "l"(EVICT_FIRST)
                 : "memory");
}

/* True in one lane, which the compiler knows to be one: what only one may do needs no loop over lanes then. */
GEMM_DEV bool elected() {
    uint32_t one;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p,0xffffffff;\nselp.b32 %0,1,0,p;\n}" : "=r"(one));
    return one;
}

/* ---- tensor cores ---- */

GEMM_DEV void mma_bf16(float *c, const uint32_t *a, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

GEMM_DEV uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
#if __CUDA_ARCH__ >= 900
    uint32_t d;
    asm("mul.rn.bf16x2 %0,%1,%2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
#else /* as an FMA with -0, which leaves every product as it is */
    uint32_t d;
    asm("fma.rn.bf16x2 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(0x80008000u));
    return d;
#endif
}

GEMM_DEV uint32_t transpose_8x8(uint32_t v) { /* of b16 over a warp */
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0,%1;" : "=r"(d) : "r"(v));
    return d;
}

/* ---- decoding ---- */

GEMM_DEV uint32_t rotate_left(uint32_t x, int n) {
    return __funnelshift_l(x, x, n);
}

GEMM_DEV uint32_t select_bits(uint32_t mask, uint32_t a, uint32_t b) { /* one LOP3; from C it becomes two */
    uint32_t d;
    asm("lop3.b32 %0,%1,%2,%3,0xca;" : "=r"(d) : "r"(mask), "r"(a), "r"(b));
    return d;
}

GEMM_DEV uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t s) { /* __byte_perm would first mask S */
    uint32_t d;
    asm("prmt.b32 %0,%1,%2,%3;" : "=r"(d) : "r"(a), "r"(b), "r"(s));
    return d;
}

/* A word's 8 elements as BF16 pairs a[0..3] = (0,1) (2,3) (4,5) (6,7), each value * 2^-126, exact: 9 instructions, of
 * which 3 multiply and 6 are the ALU's, whose rate binds. */
GEMM_DEV void decode_bf16(uint32_t x, uint32_t *a) {
    const uint32_t mask = 0x81c081c0u, z = rotate_left(select_bits(0x88888888u, x << 2, x), 8);
    a[0] = x & mask;
    a[1] = (z << 4) & mask;
    a[2] = z & mask;
    a[3] = (x << 4) & mask;
}

/* Words 2p and 2p + 1 of a lane (rows r0, r1) -> the A fragments of two mma: f[0..3], f[4..7]. */
GEMM_DEV void decode_fragments(uint32_t row0, uint32_t row1, uint32_t *f) {
    uint32_t a[4], b[4];
    decode_bf16(row0, a);
    decode_bf16(row1, b);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        f[2 * i] = a[i];
        f[2 * i + 1] = b[i];
    }
}

/* A word's elements times their block's scale / 8, rounded to E4M3; LUT: the 8 magnitudes' bytes (build_lut).
 * Bytes of o0: elements 6 0 3 5; of o1: 7 1 2 4. 13 instructions. */
GEMM_DEV void decode_e4m3(uint32_t x, uint2 lut, uint32_t &o0, uint32_t &o1) {
    const uint32_t m = select_bits(0x22002200u, x, rotate_left(x, 30)) & 0x77777777u;
    const uint32_t s = select_bits(0x00880088u, x << 2, x), s4 = s << 4;
    o0 = permute_bytes(lut.x, lut.y, m) | (permute_bytes(s, s4, 0x2615) & 0x80808080u);
    o1 = permute_bytes(lut.x, lut.y, m >> 16) | (permute_bytes(s, s4, 0x0437) & 0x80808080u);
}

/* E4M3 scales in bytes 0 and 2 of Q, moved to bits 4..11 and 20..27: as BF16 the scale * 2^-120, subnormals too. */
#define GEMM_SCALE_BITS 0x0ff00ff0u

/* ---- results ---- */

GEMM_DEV float load_float(const void *p, size_t i, int type) {
    return type == NIB_GEMM_F32    ? ((const float *)p)[i]
           : type == NIB_GEMM_BF16 ? __bfloat162float(((const __nv_bfloat16 *)p)[i])
                                   : __half2float(((const __half *)p)[i]);
}

/* The tensor's scale, read like the weights before the kernel before has ended: later it would cost a miss to DRAM. */
GEMM_DEV float load_scale(const float *p) {
    float v;
    asm volatile("ld.global.nc.f32 %0,[%1];" : "=f"(v) : "l"(p));
    return v;
}

GEMM_DEV void store_result(const gemm_out &o, int token, int row, float v) {
    const size_t i = (size_t)token * o.ldd + row;
    if (o.bias)
        v += load_float(o.bias, row, o.type);
    if (o.c)
        v += o.beta * load_float(o.c, i, o.type);
    if (o.type == NIB_GEMM_F32)
        ((float *)o.d)[i] = v;
    else if (o.type == NIB_GEMM_BF16)
        ((__nv_bfloat16 *)o.d)[i] = __float2bfloat16(v);
    else
        ((__half *)o.d)[i] = __float2half(v);
}

/* The bias of ROW of an EXPERT, [experts, N], or 0; where it is read early, O is stored without_bias. */
GEMM_DEV float expert_bias(const gemm_out &o, int n, int expert, int row) {
    return o.bias ? load_float(o.bias, (size_t)expert * n + row, o.type) : 0.0f;
}

GEMM_DEV gemm_out without_bias(gemm_out o) {
    o.bias = nullptr;
    return o;
}

/* ---- launching ---- */

/* With programmatic dependent launch where the GPU has it; captured graphs keep it. */
template <class... P, class... A>
static int launch_kernel(const gemm_task *t, void (*kernel)(P...), dim3 grid, int threads, size_t shared, A... args) {
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute[1];
    config.gridDim = grid;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    config.stream = (cudaStream_t)t->stream;
    attribute[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute[0].val.programmaticStreamSerializationAllowed = 1;
    config.attrs = attribute;
    config.numAttrs = t->dependent;
    if (shared > 48 * 1024) { /* one number for almost all, since other threads launch it too: all but what is static */
        cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)shared > t->max_shared - 1024 ? (int)shared : t->max_shared - 1024);
        if (e != cudaSuccess)
            return e;
    }
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

#endif

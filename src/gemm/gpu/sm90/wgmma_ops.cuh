/* SPDX-License-Identifier: Apache-2.0
 *
 * wgmma with A (64 weight rows x 32 bytes of k) in registers and B (tokens) in shared memory through a descriptor,
 * FP32 sums in registers. One overload per number of tokens: sums of 64 x N are N / 2 registers a thread.
 */
#ifndef GEMM_WGMMA_OPS_CUH
#define GEMM_WGMMA_OPS_CUH

#include "gemm/gpu/device.cuh"

/* Operand numbers, sixteen a piece, and their constraints. */
#define GEMM_N0 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define GEMM_N1 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define GEMM_N2 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define GEMM_N3 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define GEMM_N4 "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79"
#define GEMM_N5 "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95"
#define GEMM_N6 "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111"
#define GEMM_N7 "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define GEMM_NUMBERS_8  "%0,%1,%2,%3"
#define GEMM_NUMBERS_16 GEMM_NUMBERS_8 ",%4,%5,%6,%7"
#define GEMM_NUMBERS_32 GEMM_N0
#define GEMM_NUMBERS_64 GEMM_N0 "," GEMM_N1
#define GEMM_NUMBERS_128 GEMM_N0 "," GEMM_N1 "," GEMM_N2 "," GEMM_N3
#define GEMM_NUMBERS_256 GEMM_N0 "," GEMM_N1 "," GEMM_N2 "," GEMM_N3 "," GEMM_N4 "," GEMM_N5 "," GEMM_N6 "," GEMM_N7
#define GEMM_D4(d, i)     "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define GEMM_D16(d, i)    GEMM_D4(d, i), GEMM_D4(d, i + 4), GEMM_D4(d, i + 8), GEMM_D4(d, i + 12)
#define GEMM_D64(d, i)    GEMM_D16(d, i), GEMM_D16(d, i + 16), GEMM_D16(d, i + 32), GEMM_D16(d, i + 48)
#define GEMM_SUMS_8(d)    GEMM_D4(d, 0)
#define GEMM_SUMS_16(d)   GEMM_D4(d, 0), GEMM_D4(d, 4)
#define GEMM_SUMS_32(d)   GEMM_D16(d, 0)
#define GEMM_SUMS_64(d)   GEMM_D16(d, 0), GEMM_D16(d, 16)
#define GEMM_SUMS_128(d)  GEMM_D64(d, 0)
#define GEMM_SUMS_256(d)  GEMM_D64(d, 0), GEMM_D64(d, 64)

#define GEMM_WGMMA(NAME, TOKENS, KIND, TAIL, OPERANDS)                                                              \
    GEMM_DEV void NAME(float(&d)[TOKENS / 2], const uint32_t *a, uint64_t b) {                             \
        asm volatile("wgmma.mma_async.sync.aligned.m64n" #TOKENS KIND " {"    \
                     GEMM_NUMBERS_##TOKENS "}," OPERANDS ",1,1,1" TAIL ";"                                           \
                     : GEMM_SUMS_##TOKENS(d)                                                                           \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                      \
    }
#define GEMM_BOTH(TOKENS, OPERANDS)                                                                                 \
    GEMM_WGMMA(wgmma_e4m3, TOKENS, "k32.f32.e4m3.e4m3", "", OPERANDS)                                               \
    GEMM_WGMMA(wgmma_bf16, TOKENS, "k16.f32.bf16.bf16", ",0", OPERANDS)

GEMM_BOTH(8, "{%4,%5,%6,%7},%8")
GEMM_BOTH(16, "{%8,%9,%10,%11},%12")
GEMM_BOTH(32, "{%16,%17,%18,%19},%20")
GEMM_BOTH(64, "{%32,%33,%34,%35},%36")
GEMM_BOTH(128, "{%64,%65,%66,%67},%68")
GEMM_BOTH(256, "{%128,%129,%130,%131},%132")

GEMM_DEV void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

GEMM_DEV void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> GEMM_DEV void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* B in shared memory: rows of 128 bytes with the 128-byte swizzle, 8 rows 1,024 bytes apart. LOW is descriptor_low of its
 * address; bytes further on are added to it in units of 16, which costs less than a descriptor of its own. */
GEMM_DEV uint32_t descriptor_low(uint32_t address) {
    return (address & 0x3ffff) >> 4 | 1u << 16;
}

GEMM_DEV uint64_t descriptor_at(uint32_t low) {
    return (uint64_t)low | 64ull << 32 | 1ull << 62;
}

#endif

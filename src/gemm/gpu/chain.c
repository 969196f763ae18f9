/* SPDX-License-Identifier: Apache-2.0
 *
 * Few tokens' products with the norm before them and the gated unit after them (gemv.cu, gemv16.cu, few.cu),
 * many tokens' with the unit (wgmma.cuh): what the engine's step queues instead of two or three launches.
 */
#include "base/status.h"
#include "gemm/gpu/check.h"
#include "gemm/gpu/launch.h"

static bool choose(const nib_gemm *g, const gemm_chain *c, gemm_choice *choice) {
    return gemm_choose(g->arch, g->n_sms, c->a_scale ? NIB_GEMM_W4A8 : NIB_GEMM_W4A16,
                       c->m <= GEMM_CHAIN_ROWS, c->m, c->weight->n, c->weight->k, choice, NULL) == NIB_OK;
}

/* Gate and up meet in one block: not where a cluster shares it. Whole tiles, and no padding behind them. */
static bool serves_many(const nib_gemm *g, const gemm_chain *c) {
    gemm_choice choice;
    if (c->unit == GEMM_UNIT_NONE || c->weight->n % 256 != 0 || c->d_type != GEMM_A_BF16_MMA ||
        !choose(g, c, &choice) || choice.k_slices != 1)
        return false;
    const bool form = choice.kernel == GEMM_KERNEL_WGMMA_BF16
                          ? choice.tile_tokens > 64 || choice.tile_rows == 192
                          : choice.kernel == GEMM_KERNEL_WGMMA_E4M3 && choice.tile_tokens >= 64 &&
                                choice.tile_tokens <= 128;
    return form && (size_t)g->n_sms * (size_t)choice.tile_rows * (size_t)choice.tile_tokens * sizeof(float) <=
                       c->workspace_bytes;
}

bool gemm_chain_serves(const nib_gemm *g, const gemm_chain *c) {
    gemm_choice choice;
    if (c->unit != GEMM_UNIT_NONE && c->weight->n % 32 != 0)
        return false;
    if (c->norm)
        return c->m == 1;
    const bool spread = c->after || c->before;
    if (c->m > GEMM_CHAIN_ROWS && !spread)
        return serves_many(g, c);
    if ((c->unit == GEMM_UNIT_NONE && !spread) || c->m < 2 || c->m > GEMM_CHAIN_ROWS ||
        !choose(g, c, &choice))
        return false;
    if (c->before && (c->unit != GEMM_UNIT_NONE || c->d_type != NIB_GEMM_F32))
        return false;
    if (choice.kernel == GEMM_KERNEL_FEW) /* a block's share of a tile holds whole pairs of gate and up */
        return c->unit == GEMM_UNIT_NONE || choice.k_slices / choice.k_parts * 4 <= choice.tile_tokens;
    return !spread && c->m <= 8 && choice.kernel == GEMM_KERNEL_GEMV16 && choice.k_slices == 1;
}

nib_status gemm_chain_launch(const nib_gemm *g, const gemm_chain *c, void *stream, nib_error *err) {
    const nib_gemm_weight *w = c->weight;
    const void *x = c->norm ? (const void *)c->norm->x : c->after ? c->after->scaled : c->a;
    const size_t lda = c->after ? c->after->ld : c->lda;
    if (!gemm_chain_serves(g, c) || !x || !c->d || (uintptr_t)x % 16 || (uintptr_t)c->d % 16 ||
        (c->norm && (uintptr_t)c->norm->w % 16) || lda % 8 || c->ldd % 4 ||
        (c->after && !c->after->squares) ||
        (c->before &&
         (!c->before->w || !c->before->scaled || !c->before->squares || (uintptr_t)c->before->scaled % 16 ||
          (uintptr_t)c->before->w % 16 || c->before->ld % 8 || c->before->ld < w->n)) ||
        (c->d_type != NIB_GEMM_BF16 && c->d_type != NIB_GEMM_F32 && c->d_type != GEMM_A_BF16_MMA))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "gemm_chain: m = %zu, n = %zu: expected what gemm_chain_serves takes", c->m, w->n);
    NIB_TRY(check_device(g, err));
    gemm_choice choice = {.k_slices = 1, .k_parts = 1};
    if (!c->norm)
        choose(g, c, &choice);
    const gemm_task t = {
        .w = w->data,
        .a = c->after ? x : c->a,
        .m = (int)c->m,
        .n = (int)w->n,
        .k = (int)w->k,
        .groups = (int)gemm_groups(w->k),
        .lda = (int)lda,
        .terms = 1,
        .tile_tokens = choice.tile_tokens,
        .tile_rows = choice.tile_rows,
        .cut = choice.cut,
        .partial = c->workspace,
        .flags = c->flags,
        .slices = choice.k_slices,
        .parts = choice.k_parts,
        .clusters = choice.k_slices / choice.k_parts == 2 ? g->pairs : g->fours,
        .tensor_map = g->tensor_map,
        .after = c->after ? *c->after : (gemm_spread){.w = NULL},
        .before = c->before ? *c->before : (gemm_spread){.w = NULL},
        .out = {.d = c->d,
                .c = c->before ? c->d : NULL,
                .beta = c->before ? 1.0f : 0.0f,
                .tensor_scale = gemm_tensor_scale(w->data, w->n, w->k),
                .token_scale = c->a_scale,
                .alpha = 1.0f,
                .ldd = (int)c->ldd,
                .type = (int)c->d_type},
        .unit = c->unit,
        .n_sms = g->n_sms,
        .max_shared = g->max_shared,
        .dependent = g->arch >= 90,
        .stream = stream,
    };
    const int e = c->norm                                   ? gemm_gemv_chain(&t, c->norm)
                  : choice.kernel == GEMM_KERNEL_FEW        ? gemm_few(&t)
                  : choice.kernel == GEMM_KERNEL_WGMMA_BF16 ? gemm_wgmma_bf16_gated(&t)
                  : choice.kernel == GEMM_KERNEL_WGMMA_E4M3 ? gemm_wgmma_e4m3_gated(&t)
                                                            : gemm_gemv16_gated(&t);
    return check_cuda(e, "gemm_chain", err);
}

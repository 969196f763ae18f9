/* SPDX-License-Identifier: Apache-2.0
 *
 * Products: the call is checked, a kernel chosen, the workspace laid out (prepared activations, their token
 * scales, partial sums), and the kernels enqueued.
 */
#include <stdio.h>

#include "base/status.h"
#include "gemm/gpu/check.h"
#include "gemm/gpu/launch.h"
#include "gemm/gpu/native.h"

typedef struct product_plan {
    gemm_choice choice;
    nib_gemm_type prepare_to; /* GEMM_A_*, or the caller's type where nothing is to prepare */
    bool prepare;
    int terms; /* BF16 terms of an activation */
    size_t prepared_bytes, scale_bytes, flag_bytes, partial_bytes, native_bytes;
} product_plan;

static size_t round_up(size_t x, size_t to) {
    return (x + to - 1) / to * to;
}

static bool is_e4m3(gemm_kernel k) {
    return k == GEMM_KERNEL_WGMMA_E4M3 || k == GEMM_KERNEL_TILE_E4M3 || k == GEMM_KERNEL_TILE_E4M3_EXACT;
}

static bool is_wgmma(gemm_kernel k) {
    return k == GEMM_KERNEL_WGMMA_BF16 || k == GEMM_KERNEL_WGMMA_E4M3;
}

static size_t lda_of(const nib_gemm_product *p) {
    return p->lda ? p->lda : p->weight->k;
}

static size_t ldd_of(const nib_gemm_product *p) {
    return p->ldd ? p->ldd : p->weight->n;
}

/* What can be said without P's pointers. */
static nib_status check_form(const nib_gemm_product *p, nib_error *err) {
    const nib_gemm_weight *w = p->weight;
    size_t lda = lda_of(p), ldd = ldd_of(p);
    if (p->m > INT32_MAX || p->d_type > NIB_GEMM_F32 ||
        (p->a_type > NIB_GEMM_NVFP4 && p->a_type < GEMM_A_BF16_MMA) || p->a_type > GEMM_A_E4M3_MMA)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_matmul: m = %zu, type of a %d, of d %d: expected known types", p->m,
                        (int)p->a_type, (int)p->d_type);
    if (lda < w->k || lda % 8 || ((p->a_type == NIB_GEMM_E4M3 || p->a_type == NIB_GEMM_NVFP4) && lda % 16) ||
        ldd < w->n || ldd % 4 || ldd > INT32_MAX || lda > INT32_MAX)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_matmul: lda = %zu, ldd = %zu: expected at least k = %zu and n = %zu, "
                        "multiples of 8 (16 for E4M3 and NVFP4) and 4",
                        lda, ldd, w->k, w->n);
    return NIB_OK;
}

static nib_status check_pointers(const nib_gemm_product *p, nib_error *err) {
    if (!p->a || !p->d || (uintptr_t)p->a % 16 || (uintptr_t)p->d % 16 || (uintptr_t)p->c % 16)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_matmul: a, d and c must be 16-byte aligned");
    if ((p->a_type == NIB_GEMM_E4M3 || p->a_type == GEMM_A_E4M3_MMA) && !p->a_scale)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_matmul: E4M3 activations need a_scale");
    if (p->a_type == NIB_GEMM_NVFP4 && (!p->a_scale || !p->a_block_scale || (uintptr_t)p->a_block_scale % 4))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_matmul: NVFP4 activations need a_scale and a_block_scale, 4-byte aligned");
    return NIB_OK;
}

/* The mode that P's activations make of the one asked for. */
static nib_status mode_of(const nib_gemm_product *p, nib_gemm_mode *mode, nib_error *err) {
    const bool fp8 = p->a_type == NIB_GEMM_E4M3 || p->a_type == GEMM_A_E4M3_MMA;
    const bool split = p->a_type == NIB_GEMM_F16 || p->a_type == NIB_GEMM_F32;
    *mode = p->mode;
    if (*mode == NIB_GEMM_AUTO && p->a_type == NIB_GEMM_NVFP4)
        *mode = NIB_GEMM_W4A4;
    if ((p->a_type == NIB_GEMM_NVFP4) != (*mode == NIB_GEMM_W4A4) && (p->a_type > NIB_GEMM_F32))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "NVFP4 activations are for mode w4a4, E4M3 and prepared ones for others");
    if (fp8 && *mode == NIB_GEMM_W4A16)
        return nib_fail(err, NIB_BAD_ARGUMENT, "mode w4a16 with E4M3 activations: expected BF16, F16 or F32");
    if (p->a_type == GEMM_A_BF16_MMA && (*mode == NIB_GEMM_W4A8 || *mode == NIB_GEMM_W4A8_EXACT))
        return nib_fail(err, NIB_BAD_ARGUMENT, "mode %s with prepared BF16 activations",
                        *mode == NIB_GEMM_W4A8 ? "w4a8" : "w4a8-exact");
    if (*mode == NIB_GEMM_AUTO && fp8)
        *mode = NIB_GEMM_W4A8;
    if (*mode == NIB_GEMM_AUTO && (p->a_type == GEMM_A_BF16_MMA || (split && p->m <= 16)))
        *mode = NIB_GEMM_W4A16;
    return NIB_OK;
}

/* How the chosen kernel takes P's activations, and the bytes of what is made of them. */
static nib_status plan_activations(const nib_gemm *g, const nib_gemm_product *p, product_plan *out,
                                   nib_error *err) {
    const gemm_kernel kernel = out->choice.kernel;
    const size_t k = p->weight->k, width = gemm_groups(k) * GEMM_GROUP_K;
    const int terms = p->a_type == NIB_GEMM_F16 ? 2 : p->a_type == NIB_GEMM_F32 ? 3 : 1;
    if (is_e4m3(kernel)) {
        out->prepare_to = GEMM_A_E4M3_MMA;
        out->prepare = p->a_type != GEMM_A_E4M3_MMA;
        out->prepared_bytes = p->m * width;
        out->scale_bytes = round_up(p->m, 256) * sizeof(float);
    } else if (kernel == GEMM_KERNEL_TILE_E2M1) {
        out->prepare_to = NIB_GEMM_NVFP4;
        out->prepare = p->a_type != NIB_GEMM_NVFP4;
        out->prepared_bytes = p->m * k / 2;
        out->scale_bytes = 256 + round_up(p->m * k / 16, 256); /* the tensor's, then the blocks' */
    } else if (kernel == GEMM_KERNEL_WGMMA_BF16) {
        out->prepare_to = GEMM_A_BF16_MMA;
        out->prepare = p->a_type != GEMM_A_BF16_MMA;
        out->terms = terms;
        out->prepared_bytes = p->m * width * 2 * (size_t)terms;
        if (p->d_type == NIB_GEMM_F32)
            gemm_choose_exact_sums(g->n_sms, p->m, p->weight->n, gemm_groups(k) * (size_t)terms,
                                   &out->choice);
    } else if (kernel == GEMM_KERNEL_TILE_BF16) { /* takes BF16 in the natural order */
        if (p->a_type == GEMM_A_BF16_MMA)
            return nib_fail(err, NIB_UNSUPPORTED, "prepared BF16 activations are Hopper's");
        out->prepare_to = NIB_GEMM_BF16;
        out->prepare = terms > 1;
        out->terms = terms;
        out->prepared_bytes = p->m * width * 2 * (size_t)terms;
    }
    if (!out->prepare)
        out->prepared_bytes = out->scale_bytes = 0;
    out->prepared_bytes = round_up(out->prepared_bytes, 256);
    return NIB_OK;
}

static nib_status make_plan(const nib_gemm *g, const nib_gemm_product *p, product_plan *out, nib_error *err) {
    const nib_gemm_weight *w = p->weight;
    nib_gemm_mode mode;
    *out = (product_plan){.terms = 1};
    NIB_TRY(check_form(p, err));
    NIB_TRY(mode_of(p, &mode, err));
    NIB_TRY(gemm_choose_on(g, mode, p->a_type == NIB_GEMM_BF16, p->m, w->n, w->k, &out->choice, err));
    if (out->choice.kernel == GEMM_KERNEL_BLASLT) {
        if (p->a_type == NIB_GEMM_NVFP4 && lda_of(p) != w->k)
            return nib_fail(err, NIB_UNSUPPORTED,
                            "w4a4 on this GPU with NVFP4 activations: lda = %zu: expected k = %zu", lda_of(p),
                            w->k);
        out->native_bytes = native_bytes(p);
        return NIB_OK;
    }
    NIB_TRY(plan_activations(g, p, out, err));
    if (is_wgmma(out->choice.kernel)) {
        out->flag_bytes = round_up((size_t)g->n_sms * sizeof(uint32_t), 256);
        out->partial_bytes = (size_t)g->n_sms * (size_t)out->choice.tile_rows *
                             (size_t)out->choice.tile_tokens * sizeof(float);
    } else if (out->choice.kernel == GEMM_KERNEL_GEMV16 && out->choice.k_slices > 1)
        out->partial_bytes = (size_t)out->choice.k_slices * p->m * w->n * sizeof(float);
    return NIB_OK;
}

size_t nib_gemm_workspace_bytes(const nib_gemm *g, const nib_gemm_product *p) {
    product_plan plan;
    if (p->m == 0 || make_plan(g, p, &plan, NULL) != NIB_OK)
        return 0;
    return plan.prepared_bytes + plan.scale_bytes + plan.flag_bytes + plan.partial_bytes + plan.native_bytes;
}

static int launch(const gemm_choice *c, const gemm_task *t) {
    switch (c->kernel) {
    case GEMM_KERNEL_GEMV:
        return gemm_gemv(t);
    case GEMM_KERNEL_PAIRS:
        return gemm_pairs_alone(t);
    case GEMM_KERNEL_GEMV16:
        return gemm_gemv16(t);
    case GEMM_KERNEL_FEW:
        return gemm_few(t);
    case GEMM_KERNEL_WGMMA_BF16:
        return gemm_wgmma_bf16(t);
    case GEMM_KERNEL_WGMMA_E4M3:
        return gemm_wgmma_e4m3(t);
    case GEMM_KERNEL_TILE_BF16:
        return gemm_tile_bf16(t);
    case GEMM_KERNEL_TILE_E2M1:
        return gemm_tile_e2m1(t);
    case GEMM_KERNEL_TILE_E4M3_EXACT:
        return gemm_tile_e4m3_exact(t);
    default:
        return gemm_tile_e4m3(t);
    }
}

/* The activations of W4A4: P's own, or quantized into CODES and SCALE (the tensor's; 256 bytes on the
 * blocks'). */
static nib_status prepare_nvfp4(const nib_gemm_product *p, size_t lda, bool quantize, void *codes,
                                float *scale, gemm_task *t, nib_error *err) {
    t->lda = (int)(quantize ? p->weight->k : lda);
    t->block_scale = quantize ? (const char *)scale + 256 : p->a_block_scale;
    t->out.token_scale = quantize ? scale : p->a_scale;
    if (!quantize)
        return NIB_OK;
    nib_gemm_quantize_args q = {.x = p->a,
                                .x_type = p->a_type,
                                .rows = p->m,
                                .cols = p->weight->k,
                                .ldx = lda,
                                .codes = codes,
                                .scales = (char *)scale + 256,
                                .tensor_scale = scale};
    return check_cuda(gemm_quantize_launch(&q, t->stream), "nib_gemm_matmul", err);
}

nib_status nib_gemm_matmul(nib_gemm *g, const nib_gemm_product *p, void *workspace, size_t workspace_bytes,
                           void *stream, nib_error *err) {
    product_plan plan;
    const nib_gemm_weight *w = p->weight;
    size_t lda = lda_of(p), ldd = ldd_of(p);
    if (p->m == 0)
        return NIB_OK;
    NIB_TRY(make_plan(g, p, &plan, err));
    NIB_TRY(check_pointers(p, err));
    size_t need =
        plan.prepared_bytes + plan.scale_bytes + plan.flag_bytes + plan.partial_bytes + plan.native_bytes;
    if (need > workspace_bytes || (need && (uintptr_t)workspace % 256))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_matmul: workspace of %zu bytes: expected %zu, 256-byte aligned",
                        workspace_bytes, need);
    NIB_TRY(check_device(g, err));
    if (plan.choice.kernel == GEMM_KERNEL_BLASLT) {
        nib_gemm_product full = *p;
        full.lda = lda, full.ldd = ldd, full.alpha = p->alpha != 0.0f ? p->alpha : 1.0f;
        return native_matmul(g, &full, workspace, stream, err);
    }
    char *prepared = workspace, *flags = prepared + plan.prepared_bytes + plan.scale_bytes;
    float *scale = (float *)(void *)(prepared + plan.prepared_bytes);
    gemm_task t = {
        .w = w->data,
        .a = plan.prepare ? prepared : p->a,
        .m = (int)p->m,
        .n = (int)w->n,
        .k = (int)w->k,
        .groups = (int)gemm_groups(w->k),
        .lda = (int)(plan.prepare ? gemm_groups(w->k) * GEMM_GROUP_K * (size_t)plan.terms : lda),
        .terms = plan.terms,
        .tile_tokens = plan.choice.tile_tokens,
        .tile_rows = plan.choice.tile_rows,
        .slices = plan.choice.k_slices,
        .parts = plan.choice.k_parts,
        .cut = plan.choice.cut,
        .partial = (float *)(void *)(flags + plan.flag_bytes),
        .flags = p->flags          ? p->flags
                 : plan.flag_bytes ? (uint32_t *)(void *)flags
                                   : NULL,
        .out = {.d = p->d,
                .c = p->beta != 0.0f ? p->c : NULL,
                .bias = p->bias,
                .tensor_scale = gemm_tensor_scale(w->data, w->n, w->k),
                .alpha = p->alpha != 0.0f ? p->alpha : 1.0f,
                .beta = p->beta,
                .ldd = (int)ldd,
                .type = (int)p->d_type},
        .n_sms = g->n_sms,
        .max_shared = g->max_shared,
        .clusters = plan.choice.k_slices / plan.choice.k_parts == 2 ? g->pairs : g->fours,
        .dependent = g->arch >= 90,
        .tensor_map = g->tensor_map,
        .stream = stream,
    };
    if (is_e4m3(plan.choice.kernel))
        t.out.token_scale = plan.prepare ? scale : p->a_scale;
    if (plan.choice.kernel == GEMM_KERNEL_TILE_E2M1)
        NIB_TRY(prepare_nvfp4(p, lda, plan.prepare, prepared, scale, &t, err));
    else if (plan.prepare)
        NIB_TRY(check_cuda(gemm_prepare_launch((int)plan.prepare_to, p->a, (int)p->a_type, t.m, t.k, lda,
                                               t.terms, prepared, p->a_scale, scale,
                                               p->flags ? NULL : t.flags, t.n_sms, t.dependent, stream),
                           "nib_gemm_matmul", err));
    else if (!p->flags && t.flags && t.cut)
        NIB_TRY(check_cuda(gemm_zero_flags(&t), "nib_gemm_matmul", err));
    return check_cuda(launch(&plan.choice, &t), "nib_gemm_matmul", err);
}

nib_status gemm_prepare(const nib_gemm *g, nib_gemm_type to, const void *x, nib_gemm_type x_type, size_t m,
                        size_t k, size_t ldx, void *out, float *scale, void *stream, nib_error *err) {
    NIB_TRY(check_device(g, err));
    return check_cuda(gemm_prepare_launch((int)to, x, (int)x_type, (int)m, (int)k, ldx ? ldx : k, 1, out,
                                          NULL, scale, NULL, 0, g->arch >= 90, stream),
                      "gemm_prepare", err);
}

/* ---- experts ---- */

typedef struct grouped_choice {
    int (*launch)(const gemm_task *t, const nib_gemm_group *p);
    const char *name, *why;
} grouped_choice;

static grouped_choice choose_grouped(const nib_gemm *g, const gemm_task *t, const nib_gemm_group *p) {
    if (g->arch == 90 && 2 * p->product.m <= p->n_experts && gemm_pairs_serves(t, p))
        return (grouped_choice){
            gemm_pairs, "pairs (mma.sync m16n8k16 BF16, block-diagonal activations, two tokens at a time)",
            "few experts have more than two tokens"};
    if (g->arch == 90 && gemm_experts_serves(t, p))
        return (grouped_choice){gemm_experts,
                                "experts (wgmma BF16, 8, 16 or 32 tokens of an expert at a time)",
                                "what decodes and multiplies waits for nothing else"};
    return (grouped_choice){
        gemm_grouped, "grouped (mma.sync m16n8k16 BF16, 8 or 16 tokens of an expert at a time)",
        g->arch == 90 ? "8 tokens do not fit beside the weights, or there are too many tiles"
                      : "the one for this GPU"};
}

/* What can be said without P's pointers. */
static nib_status check_group(const nib_gemm_group *p, nib_error *err) {
    const nib_gemm_product *q = &p->product;
    NIB_TRY(check_form(q, err));
    if (p->n_experts > 1024)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_grouped: %zu experts: expected up to 1024",
                        p->n_experts);
    if (q->a_type != NIB_GEMM_BF16 || (q->mode != NIB_GEMM_AUTO && q->mode != NIB_GEMM_W4A16))
        return nib_fail(err, NIB_UNSUPPORTED,
                        "nib_gemm_grouped: expected BF16 activations and w4a16 (or auto)");
    return NIB_OK;
}

static gemm_task grouped_task(const nib_gemm *g, const nib_gemm_group *p, void *stream) {
    const nib_gemm_product *q = &p->product;
    const nib_gemm_weight *w = q->weight;
    return (gemm_task){.a = q->a,
                       .m = (int)q->m,
                       .n = (int)w->n,
                       .k = (int)w->k,
                       .groups = (int)gemm_groups(w->k),
                       .lda = (int)lda_of(q),
                       .out = {.d = q->d,
                               .bias = q->bias,
                               .alpha = q->alpha != 0.0f ? q->alpha : 1.0f,
                               .ldd = (int)ldd_of(q),
                               .type = (int)q->d_type},
                       .n_sms = g->n_sms,
                       .max_shared = g->max_shared,
                       .dependent = g->arch >= 90,
                       .stream = stream};
}

size_t nib_gemm_grouped_workspace_bytes(const nib_gemm *g, const nib_gemm_group *p) {
    (void)g, (void)p;
    return 0; /* the kernel keeps its sums on the chip */
}

nib_status nib_gemm_grouped(nib_gemm *g, const nib_gemm_group *p, void *workspace, size_t workspace_bytes,
                            void *stream, nib_error *err) {
    const nib_gemm_product *q = &p->product;
    (void)workspace, (void)workspace_bytes;
    if (q->m == 0 || p->n_experts == 0)
        return NIB_OK;
    NIB_TRY(check_group(p, err));
    NIB_TRY(check_pointers(q, err));
    if (!p->offsets || !p->packed || q->c)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_grouped: expected offsets and packed, and no c");
    NIB_TRY(check_device(g, err));
    const gemm_task t = grouped_task(g, p, stream);
    return check_cuda(choose_grouped(g, &t, p).launch(&t, p), "nib_gemm_grouped", err);
}

nib_status nib_gemm_grouped_explain(const nib_gemm *g, const nib_gemm_group *p, char *text, size_t text_bytes,
                                    nib_error *err) {
    NIB_TRY(check_group(p, err));
    const gemm_task t = grouped_task(g, p, NULL);
    const grouped_choice c = choose_grouped(g, &t, p);
    gemm_choice one; /* expert: it knows what has run here */
    NIB_TRY(gemm_choose(g->arch, g->n_sms, NIB_GEMM_W4A16, true, 1, p->product.weight->n,
                        p->product.weight->k, &one, err));
    snprintf(text, text_bytes,
             "%zu experts [%d, %d] x %d tokens on compute capability %d.%d, %s: w4a16.\nKernel: %s; %s.%s",
             p->n_experts, t.n, t.k, t.m, g->arch / 10, g->arch % 10, g->name, c.name, c.why,
             one.run_here ? "" : " Not yet run on this GPU.");
    return NIB_OK;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Which kernel runs: one table over architecture, mode and number of tokens, read by the library and by the
 * engine alike. A new GPU generation is its kernels and some rows here. Tiles and slices of K follow from the
 * shape by a model of the time, whose constants were measured (docs/gpu/gemm.md).
 */
#include "gemm/gemm.h"

#include <stdio.h>

#include "base/status.h"

typedef struct row {
    int first_arch, last_arch;
    nib_gemm_mode mode; /* asked for */
    size_t first_m, last_m;
    bool plain; /* only for BF16 activations as they lie */
    gemm_kernel kernel;
    nib_gemm_mode becomes;
    const char *why;
} row;

#define ANY_M           SIZE_MAX
#define FEW_MOST_GROUPS 14 /* of a slice: tensor cores cut long sums */
#define RUN_ARCH        90 /* what these kernels have run on; elsewhere their emulations' tests stand in */
#define W4A16           NIB_GEMM_W4A16
#define W4A8            NIB_GEMM_W4A8
#define W4A8_EXACT      NIB_GEMM_W4A8_EXACT

static const char one_token[] = "one token is bound by memory";
static const char ahead[] = "all of its weights are there before the kernel before has ended";
static const char few_tokens[] = "16 tokens cost little more than one";
static const char resident[] = "one launch, K over a cluster";
static const char unproven[] = "exact until a faster row has run on this GPU";
static const char twice[] = "FP8 has twice the rate of BF16";

static const row table[] = {
    {90, 90, NIB_GEMM_AUTO, 1, 1, true, GEMM_KERNEL_PAIRS, W4A16, ahead}, /* where pairs_shape says so */
    {80, 121, NIB_GEMM_AUTO, 1, 1, true, GEMM_KERNEL_GEMV, W4A16, one_token},
    {90, 90, NIB_GEMM_AUTO, 2, 32, true, GEMM_KERNEL_FEW, W4A16, resident}, /* where few_shape says so */
    {80, 121, NIB_GEMM_AUTO, 2, 16, true, GEMM_KERNEL_GEMV16, W4A16, few_tokens},
    {90, 90, NIB_GEMM_AUTO, 17, ANY_M, false, GEMM_KERNEL_WGMMA_E4M3, W4A8, twice},
    {89, 89, NIB_GEMM_AUTO, 17, ANY_M, false, GEMM_KERNEL_TILE_E4M3, W4A8, twice},
    {120, 121, NIB_GEMM_AUTO, 1, ANY_M, false, GEMM_KERNEL_TILE_BF16, W4A16, unproven},
    {80, 121, NIB_GEMM_AUTO, 1, ANY_M, false, GEMM_KERNEL_TILE_BF16, W4A16, "no faster row for this GPU"},

    {90, 90, NIB_GEMM_W4A16, 1, 1, true, GEMM_KERNEL_PAIRS, W4A16, ahead},
    {80, 121, NIB_GEMM_W4A16, 1, 1, true, GEMM_KERNEL_GEMV, W4A16, one_token},
    {90, 90, NIB_GEMM_W4A16, 2, 32, true, GEMM_KERNEL_FEW, W4A16, resident},
    {80, 121, NIB_GEMM_W4A16, 2, 16, true, GEMM_KERNEL_GEMV16, W4A16, few_tokens},
    {90, 90, NIB_GEMM_W4A16, 1, ANY_M, false, GEMM_KERNEL_WGMMA_BF16, W4A16,
     "wgmma has the rate for 17 and more"},
    {80, 121, NIB_GEMM_W4A16, 1, ANY_M, false, GEMM_KERNEL_TILE_BF16, W4A16, "tensor cores through mma.sync"},

    {90, 90, NIB_GEMM_W4A8, 1, ANY_M, false, GEMM_KERNEL_WGMMA_E4M3, W4A8, "asked for"},
    {89, 89, NIB_GEMM_W4A8, 1, ANY_M, false, GEMM_KERNEL_TILE_E4M3, W4A8, "asked for"},
    {120, 121, NIB_GEMM_W4A8, 1, ANY_M, false, GEMM_KERNEL_TILE_E4M3, W4A8, "asked for"},
    {89, 89, W4A8_EXACT, 1, ANY_M, false, GEMM_KERNEL_TILE_E4M3_EXACT, W4A8_EXACT, "asked for"},
    {120, 121, W4A8_EXACT, 1, ANY_M, false, GEMM_KERNEL_TILE_E4M3_EXACT, W4A8_EXACT, "asked for"},
    {100, 103, NIB_GEMM_W4A4, 1, ANY_M, false, GEMM_KERNEL_BLASLT, NIB_GEMM_W4A4, "asked for"},
    {120, 121, NIB_GEMM_W4A4, 1, ANY_M, false, GEMM_KERNEL_TILE_E2M1, NIB_GEMM_W4A4, "asked for"},
};

static const char *const kernel_names[GEMM_KERNEL_COUNT] = {
    [GEMM_KERNEL_GEMV] = "gemv (mma.sync m16n8k16 BF16, block-diagonal activations)",
    [GEMM_KERNEL_PAIRS] = "pairs (mma.sync m16n8k16 BF16, block-diagonal activations, fed ahead)",
    [GEMM_KERNEL_GEMV16] = "gemv16 (mma.sync m16n8k16 BF16, tokens as columns)",
    [GEMM_KERNEL_FEW] = "few (wgmma BF16, K over a cluster)",
    [GEMM_KERNEL_WGMMA_BF16] = "wgmma BF16 (weights as the register operand)",
    [GEMM_KERNEL_WGMMA_E4M3] = "wgmma E4M3 (scales folded, weights as the register operand)",
    [GEMM_KERNEL_TILE_BF16] = "tile (mma.sync m16n8k16 BF16)",
    [GEMM_KERNEL_TILE_E2M1] = "tile (mma.sync m16n8k64 mxf4nvf4)",
    [GEMM_KERNEL_BLASLT] = "cuBLASLt (NVFP4; weights unpacked into the workspace for each product)",
    [GEMM_KERNEL_TILE_E4M3] = "tile (mma.sync m16n8k32 E4M3, scales folded)",
    [GEMM_KERNEL_TILE_E4M3_EXACT] = "tile (mma.sync m16n8k16 E4M3, block scales in FP32)",
};

static const char *const mode_names[] = {"auto", "w4a16", "w4a8", "w4a4", "w4a8-exact"};
#define LAST_MODE NIB_GEMM_W4A8_EXACT

static size_t ceil_div(size_t a, size_t b) {
    return (a + b - 1) / b;
}

/* Tokens of GEMV16 stay in shared memory: so many groups of K fit beside the ring and the sums. */
static int gemv16_slices(int arch, size_t m, size_t groups) {
    size_t tokens = m <= 8 ? 8 : 16;
    bool small = arch == 86 || arch == 89 || arch >= 120; /* 99 KB a block */
    size_t limit = arch == 80 ? 163 : small ? 99 : 227, teams = small ? 1 : 2;
    size_t ring = teams * 8 * 3 * 2304, sums = teams * 8 * 32 * tokens * 4;
    size_t rest = limit * 1024 - ring - sums - 1024 - tokens * 16;
    return (int)ceil_div(groups, rest / (tokens * GEMM_GROUP_K * 2));
}

/* Clusters of RANKS blocks, one a multiprocessor, that a Hopper GPU runs at a time: 66 of 2, 39 of 3 and 30
 * of 4 on 132. */
static int clusters_of(int n_sms, int ranks) {
    return ranks == 2 ? n_sms / 2 : n_sms * (ranks == 3 ? 13 : 10) / 44;
}

/* PAIRS: tokens in registers, and not much more than a block's ring holds (docs/gpu/gemv.md). */
static bool pairs_shape(int n_sms, size_t n, size_t groups) {
    return groups <= 32 && n / GEMM_ROW_TILE * groups * GEMM_GROUP_BYTES <= (size_t)n_sms * 90 * 1024;
}

/* How FEW shares K, by the least time of a model that was fitted to every combination on 4 shapes (H200,
 * microseconds for 256 k of a round, a slice's sums, tokens; docs/gpu/few.md); false where none fits. A slice
 * is short enough for exact FP32 sums. Tokens that do not fit stream, by warpgroups that share none. */
static bool few_shape(gemm_choice *c, int n_sms, size_t m, size_t n, size_t groups) {
    size_t tokens = m <= 8 ? 8 : m <= 16 ? 16 : 32, unit_groups = tokens == 32 ? 1 : 2;
    size_t units = ceil_div(groups, unit_groups), tiles = ceil_div(n, 64),
           unit_bytes = tokens * unit_groups * 256;
    size_t room = 226 * 1024 - (tokens == 32 ? 72 : 108) * 1024 - tokens * 1024; /* beside weights and sums */
    double each = tokens == 32 ? 1.5 : 1.12, best = 0.0;
    if (m <= 16 && units < 8) /* gemv16 is faster */
        return false;
    for (int ranks = 2; ranks <= 4; ranks *= 2)
        for (int parts = 1; parts <= 4; parts *= 2) {
            size_t slices = (size_t)ranks * (size_t)parts, slice = ceil_div(units, slices);
            bool stream = slice * unit_bytes * (size_t)parts > room;
            size_t rounds = ceil_div(tiles, (size_t)(clusters_of(n_sms, ranks) * 4 / parts));
            if (units < slices || slice * unit_groups > FEW_MOST_GROUPS ||
                (stream && (parts < 4 || (tokens == 32 && rounds > 1))))
                continue;
            double us = (double)slice * (double)unit_groups / 2.0 * (stream ? each + 0.6 : each);
            us = (double)rounds * (us + 0.04 * (double)slices) + (double)(tokens * groups) / ranks * 0.0013;
            if (best == 0.0 || us < best) {
                best = us;
                c->tile_tokens = (int)tokens;
                c->k_slices = (int)slices;
                c->k_parts = parts;
            }
        }
    return best > 0.0;
}

/* wgmma's tiles, and over how many blocks of a cluster one may share K. */
static const struct {
    int tokens, rows, most_ranks;
} tiles_of[] = {{32, 128, 2}, {64, 128, 4}, {128, 128, 2}, {256, 128, 1}, {64, 192, 4}, {128, 192, 4}};
#define N_TILES (sizeof tiles_of / sizeof *tiles_of)

/* Microseconds of a stage (the rows of a tile x 128 k) by tile, on an H200 whose blocks all run; of handing a
 * cut tile's sums on through memory; of a cluster's meeting; of a launch; of each further run of a block
 * whose tiles have 128 x 128 results (storing the one before, filling the ring). SPARE: a stage takes so much
 * of that where a block runs alone. APART, set by hand: what preparing the activations takes more before
 * tiles of 256 tokens, beside which it has no place. The others are fitted to every form on 7 shapes by
 * bench/gemm/fit_tiles.py (docs/gpu/wgmma.md). */
static const double e4m3[] = {0.337, 0.416, 0.538, 0.830, 0.591, 0.771},
                    bf16[] = {0.395, 0.543, 0.830, 1.483, 0.776, 1.179},
                    e4m3_hand_on[] = {1.119, 0.601, 0.737, 1.112, 0.803, 0.893},
                    bf16_hand_on[] = {1.336, 0.906, 1.250, 2.631, 0.991, 1.314},
                    meet[] = {0.000, 0.325, 0.203, 0.000, 0.759, 1.512};
static const double launch = 2.899, spare = 0.619, turn = 1.683, apart = 2.2;

/* A product by tiles TILES_OF[I], K over RANKS blocks of a cluster (0: tiles are cut). */
static double tile_us(size_t i, int ranks, bool fp8, int n_sms, size_t tiles, size_t groups) {
    const size_t sms = (size_t)n_sms, blocks = ranks ? tiles * (size_t)ranks : sms;
    const double busy = blocks < sms ? (double)blocks / n_sms : 1.0;
    const double stage = (fp8 ? e4m3 : bf16)[i] * (spare + (1.0 - spare) * busy);
    const double again = turn * tiles_of[i].tokens * tiles_of[i].rows / (128.0 * 128.0);
    const double waves = (double)tiles / n_sms;
    if (ranks == 0)
        return launch + waves * (double)groups * stage +
               (fp8 ? e4m3_hand_on : bf16_hand_on)[i] / (waves < 1.0 ? waves : 1.0) +
               again * (tiles <= sms ? waves : (double)(1 + tiles / sms));
    if (ranks > 1)
        return launch + (double)ceil_div(groups, (size_t)ranks) * stage + meet[i];
    return launch + (double)(ceil_div(tiles, sms) * groups) * stage +
           again * (double)(ceil_div(tiles, sms) - 1);
}

/* The tile and the way to share K of least time. Clusters are for one wave of tiles. MOST: how many groups of
 * K one accumulator may sum; more take a launch each, of whole tiles. */
static void choose_tile(gemm_choice *c, int n_sms, size_t m, size_t n, size_t groups, size_t most) {
    const bool fp8 = c->mode == NIB_GEMM_W4A8;
    double best = 0.0;
    for (size_t i = 0; i < N_TILES; i++) {
        const size_t tokens = (size_t)tiles_of[i].tokens;
        if (i > 0 && tokens >= 2 * m)
            continue;
        size_t tiles = ceil_div(n, (size_t)tiles_of[i].rows) * ceil_div(m, tokens);
        for (int ranks = 0; ranks <= tiles_of[i].most_ranks; ranks++) { /* 0: cut */
            if (ranks > 1 && ((int)tiles > clusters_of(n_sms, ranks) || groups < 4 * (size_t)ranks))
                continue;
            if (ranks != 1 && ceil_div(groups, ranks ? (size_t)ranks : 1) > most)
                continue;
            double us = tile_us(i, ranks, fp8, n_sms, tiles, groups) + (tokens == 256 ? apart : 0.0);
            us += (double)(ceil_div(groups, most) - 1) * launch;
            if (best == 0.0 || us < best) {
                best = us;
                c->tile_tokens = (int)tokens;
                c->tile_rows = tiles_of[i].rows;
                c->k_slices = ranks ? ranks : 1;
                c->cut = ranks == 0;
            }
        }
    }
}

void gemm_choose_exact_sums(int n_sms, size_t m, size_t n, size_t groups, gemm_choice *c) {
    choose_tile(c, n_sms, m, n, groups, GEMM_EXACT_GROUPS);
}

/* "w4a16 (any m), w4a8 (any m)": what ARCH has rows for. */
static void list_modes(int arch, char *text, size_t bytes) {
    size_t used = 0;
    text[0] = '\0';
    for (int mode = NIB_GEMM_W4A16; mode <= LAST_MODE; mode++)
        for (size_t i = 0; i < sizeof table / sizeof *table; i++)
            if (table[i].mode == (nib_gemm_mode)mode && arch >= table[i].first_arch &&
                arch <= table[i].last_arch) {
                used += (size_t)snprintf(text + used, bytes - used, "%s%s", used ? " and " : "",
                                         mode_names[mode]);
                break;
            }
}

nib_status gemm_choose(int arch, int n_sms, nib_gemm_mode mode, bool plain, size_t m, size_t n, size_t k,
                       gemm_choice *c, nib_error *err) {
    char modes[64];
    if (n == 0 || k == 0 || n % 16 || k % 16)
        return nib_fail(err, NIB_BAD_ARGUMENT, "n = %zu, k = %zu: expected multiples of 16", n, k);
    if ((unsigned)mode > LAST_MODE)
        return nib_fail(err, NIB_BAD_ARGUMENT, "mode %d: there are auto, w4a16, w4a8, w4a4 and w4a8-exact",
                        (int)mode);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        const row *r = &table[i];
        if (r->mode != mode || arch < r->first_arch || arch > r->last_arch || m < r->first_m ||
            m > r->last_m || (r->plain && !plain))
            continue;
        *c = (gemm_choice){.kernel = r->kernel,
                           .mode = r->becomes,
                           .tile_tokens = 1,
                           .k_slices = 1,
                           .k_parts = 1,
                           .run_here = arch == RUN_ARCH,
                           .name = kernel_names[r->kernel],
                           .why = r->why};
        if (c->kernel == GEMM_KERNEL_BLASLT && k % 32)
            return nib_fail(err, NIB_UNSUPPORTED,
                            "compute capability %d.%d: w4a4 with k = %zu: expected a multiple of 32",
                            arch / 10, arch % 10, k);
        if (c->mode == NIB_GEMM_W4A4 && m > GEMM_MOST_BLOCKS / (k / 16))
            return nib_fail(err, NIB_UNSUPPORTED,
                            "w4a4 with m = %zu, k = %zu: expected at most 2^36 - 2^24 activations", m, k);
        if (c->kernel == GEMM_KERNEL_PAIRS && !pairs_shape(n_sms, n, gemm_groups(k)))
            continue;
        if (c->kernel == GEMM_KERNEL_FEW && !few_shape(c, n_sms, m, n, gemm_groups(k)))
            continue;
        if (c->kernel == GEMM_KERNEL_GEMV16) {
            c->tile_tokens = m <= 8 ? 8 : 16;
            c->k_slices = gemv16_slices(arch, m, gemm_groups(k));
        } else if (c->kernel == GEMM_KERNEL_WGMMA_BF16 || c->kernel == GEMM_KERNEL_WGMMA_E4M3) {
            choose_tile(c, n_sms, m, n, gemm_groups(k), gemm_groups(k));
        } else if (c->kernel == GEMM_KERNEL_TILE_BF16 || c->kernel == GEMM_KERNEL_TILE_E4M3 ||
                   c->kernel == GEMM_KERNEL_TILE_E4M3_EXACT || c->kernel == GEMM_KERNEL_TILE_E2M1) {
            c->tile_tokens = 64;
        }
        return NIB_OK;
    }
    list_modes(arch, modes, sizeof modes);
    if (!modes[0])
        return nib_fail(err, NIB_UNSUPPORTED, "compute capability %d.%d: no kernels; expected 8.0 to 12.1",
                        arch / 10, arch % 10);
    return nib_fail(err, NIB_UNSUPPORTED, "compute capability %d.%d has no %s: it has %s", arch / 10,
                    arch % 10, mode_names[mode], modes);
}

nib_status gemm_choose_on(const nib_gemm *g, nib_gemm_mode mode, bool plain, size_t m, size_t n, size_t k,
                          gemm_choice *c, nib_error *err) {
    NIB_TRY(gemm_choose(g->arch, g->n_sms, mode, plain, m, n, k, c, err));
    if (c->kernel == GEMM_KERNEL_BLASLT && !g->lt)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "w4a4 on this GPU is cuBLASLt's: libcublasLt.so.13 (or .12) cannot be used: is it in "
                        "LD_LIBRARY_PATH?");
    return NIB_OK;
}

nib_status nib_gemm_explain(const nib_gemm *g, int arch, nib_gemm_mode mode, size_t m, size_t n, size_t k,
                            char *text, size_t text_bytes, nib_error *err) {
    gemm_choice c;
    bool other = arch != 0 && (!g || arch != g->arch);
    if (arch == 0 && !g)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_explain: expected a context or an architecture");
    arch = arch ? arch : g->arch;
    m = m ? m : 1;
    if (other)
        NIB_TRY(gemm_choose(arch, g ? g->n_sms : 132, mode, true, m, n, k, &c, err));
    else
        NIB_TRY(gemm_choose_on(g, mode, true, m, n, k, &c, err));
    char form[96] = "tiles are the library's";
    if (c.kernel != GEMM_KERNEL_BLASLT && c.cut)
        snprintf(form, sizeof form, "%d tokens a tile, tiles cut into equal runs of K", c.tile_tokens);
    else if (c.kernel != GEMM_KERNEL_BLASLT)
        snprintf(form, sizeof form, "%d token%s a tile, K in %d slice%s", c.tile_tokens,
                 c.tile_tokens == 1 ? "" : "s", c.k_slices, c.k_slices == 1 ? "" : "s");
    int used =
        snprintf(text, text_bytes,
                 "%s [%zu, %zu] x %zu tokens on compute capability %d.%d%s%s: %s.\nKernel: %s, %s; %s.",
                 mode_names[mode], n, k, m, arch / 10, arch % 10, other ? "" : ", ", other ? "" : g->name,
                 mode_names[c.mode], c.name, form, c.why);
    if (!c.run_here && used > 0 && (size_t)used < text_bytes)
        snprintf(text + used, text_bytes - (size_t)used, " Not yet run on this GPU.");
    return NIB_OK;
}

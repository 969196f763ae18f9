/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention's kernels against FP64 of the very keys, values and queries they read, on inputs of awkward
 * shapes: one key that outweighs all, equal keys, scores that rise or fall along the sequence, scores in
 * thousands, queries of zeros, outliers, large and small values; windows, pages' edges. Every element has a
 * limit of its own, which no order of summation can pass: what the operands' rounding may do to each weight.
 * Decode with and without clusters, decode that makes its queries, prompts by mma.sync and wgmma, and the one
 * launch for all layers.
 */
#include "attend_world.h"
#include "cuda/pass.h"

enum { HIDDEN = 4096 };

typedef enum way { DECODE = 0, DECODE_TWICE, PROMPTS_MMA, PROMPTS_WGMMA, DECODE_MAKES, ONE_LAUNCH, WAYS } way;

static const char *const way_names[] = {"decode, clusters", "decode, two kernels",       "prompts, mma.sync",
                                        "prompts, wgmma",   "decode that makes queries", "the one launch"};

static cuda_lane lane;
static check_family families[WAYS];

static double *decoded(const world *w, const void *at, const float *at_scales) {
    const size_t d = (size_t)w->p.head_dim, n = w->cells * d;
    const void *codes = here(at);
    const float *scales = here(at_scales);
    double *x = malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = w->kv.format == KV_FP8
                   ? (double)e4m3_to_f32(((const uint8_t *)codes)[i]) * (double)scales[i / d]
                   : (double)bf16_to_f32(((const uint16_t *)codes)[i]);
    return x;
}

/* ---- FP64, and how far from it rounding may lead ---- */

typedef struct weighed {
    double p, most_off; /* a key's weight, and how far the kernel's may be away from it */
} weighed;

/* The score of a key, and how wrong rounding may make it: the operands' (UNIT: half a step, relative), what
 * FP16 has below its normal range, FP32's sums. */
static double score_of(const world *w, const float *q, const double *k, const float *mean, double unit,
                       double *off) {
    double s = 0, size = 0, q_size = 0, k_size = 0;
    const double scale = (double)w->p.scale, cap = (double)w->p.cap;
    for (int i = 0; i < w->p.head_dim; i++) {
        const double less = mean ? (double)mean[i] : 0;
        s += (double)q[i] * (k[i] - less);
        size += fabs((double)q[i]) * (fabs(k[i]) + fabs(less));
        q_size += fabs((double)q[i]);
        k_size += fabs(k[i]) + fabs(less);
    }
    s *= scale;
    *off = scale * size * (2 * unit + 0x1p-19) + 0x1p-25 * (scale * q_size + k_size) + fabs(s) * 0x1p-21;
    if (cap == 0)
        return s;
    *off += cap * 0x1p-19;
    return cap * tanh(s / cap);
}

/* Weights of the keys from FIRST to LAST that head H of row R sees; the sum of exp(score - the largest). */
static double weigh(const world *w, const double *k, int r, int h, int first, int last, double unit,
                    weighed *out) {
    static double s[MOST_KEYS], off[MOST_KEYS];
    const size_t d = (size_t)w->p.head_dim;
    const int kv_head = h / (w->p.n_heads / w->p.n_kv_heads);
    double most = -INFINITY, sum = 0, high = 0, low = 0;
    for (int key = first; key <= last; key++) {
        s[key] = score_of(w, (const float *)here(w->q) + (size_t)r * w->q_cols + (size_t)h * d,
                          k + cell_at(w, r, kv_head, key) * d,
                          w->mean && key == 0 ? w->mean + (size_t)kv_head * d : NULL, unit, &off[key]);
        most = fmax(most, s[key]);
    }
    for (int key = first; key <= last; key++) {
        sum += exp(s[key] - most);
        high += exp(s[key] + off[key] - most);
        low += exp(s[key] - off[key] - most);
    }
    for (int key = first; key <= last; key++) {
        const double p = exp(s[key] - most) / sum, e = exp(s[key] + off[key] - most),
                     l = exp(s[key] - off[key] - most);
        const double up = e / (e + (low - l)), down = l / (l + (high - e));
        out[key] = (weighed){p, fmax(up - p, p - down) + up * (3 * unit + 0x1p-18)};
    }
    return sum;
}

/* What comes out in FP64, [rows, heads * D], and how far a kernel may be from it. */
typedef struct truth {
    double *want, *limit;
} truth;

/* Of rows that stand ALONE or of the others. */
static truth make_truth(const world *w, bool alone) {
    static weighed weights[MOST_KEYS];
    const size_t d = (size_t)w->p.head_dim, n = (size_t)w->n_rows * w->q_cols;
    const bool fp8 = w->kv.format == KV_FP8;
    double *k = decoded(w, w->kv.k, w->kv.k_scales), *v = decoded(w, w->kv.v, w->kv.v_scales);
    truth t = {calloc(n, sizeof(double)), calloc(n, sizeof(double))};
    for (int i = 0; i < w->n_rows * w->p.n_heads; i++) {
        const int r = i / w->p.n_heads, h = i % w->p.n_heads, last = w->positions[r],
                  first = w->p.window && last >= w->p.window ? last - w->p.window + 1 : 0;
        double *want = t.want + (size_t)i * d, *limit = t.limit + (size_t)i * d;
        if ((w->prompt[r] < 0) != alone)
            continue;
        const double sum = weigh(w, k, r, h, first, last, fp8 ? 0x1p-11 : 0x1p-9, weights);
        for (int key = first; key <= last; key++) {
            const double *at = v + cell_at(w, r, h / (w->p.n_heads / w->p.n_kv_heads), key) * d;
            /* weights and codes below FP16's normal range */
            const double less = fp8 ? 0x1p-25 / sum : 0;
            for (size_t e = 0; e < d; e++) {
                want[e] += weights[key].p * at[e];
                limit[e] += (weights[key].most_off + less) * fabs(at[e]);
            }
        }
        for (size_t e = 0; e < d; e++)
            limit[e] += fp8 ? (last - first + 1) * 448 * 0x1p-33 / sum + 0x1p-26 : 0x1p-100;
    }
    free(k), free(v);
    return t;
}

/* The worst distance of GOT, in limits, a row. */
static void compare(const world *w, way by, const truth *t, const float *got, const char *what) {
    const bool alone = by != PROMPTS_MMA && by != PROMPTS_WGMMA;
    char text[128];
    for (int r = 0; r < w->n_rows; r++) {
        double worst = 0;
        if ((w->prompt[r] < 0) != alone)
            continue;
        for (size_t i = (size_t)r * w->q_cols; i < (size_t)(r + 1) * w->q_cols; i++) {
            /* the result is BF16; FP16 has four times a value's scale, to 2^-25 */
            const double more = by == ONE_LAUNCH      ? fabs(t->want[i]) * 0x1p-8
                                : by == PROMPTS_WGMMA ? 448 * 0x1p-27
                                                      : 0;
            const double e = fabs((double)got[i] - t->want[i]) / (t->limit[i] + more);
            worst = worst >= e || isnan(worst) ? worst : e;
        }
        snprintf(text, sizeof text, "%s, %s, position %d, head_dim %d, window %d", way_names[by], what,
                 w->positions[r], w->p.head_dim, w->p.window);
        family_take(&families[by], text, worst, 1);
    }
}

/* ---- the kernels ---- */

static bool serves(const world *w, way by) {
    const bool prompts = w->n_alone < w->n_rows;
    switch (by) {
    case DECODE:
    case DECODE_TWICE:
        return decode_supports(&w->p, w->kv.format) && w->n_alone > 0;
    case DECODE_MAKES:
        return !prompts && decode_makes(&lane, &w->p, w->kv.format, w->n_alone);
    case PROMPTS_MMA:
        return prompts && prefill_supports(&w->p, w->kv.format);
    case PROMPTS_WGMMA:
        return prompts && prefill_wgmma_supports(&lane, &w->p, w->kv.format);
    default:
        return !prompts && w->n_rows <= PASS_ROWS &&
               pass_serves(&lane, &w->p, w->kv.format, HIDDEN, HIDDEN, false, w->n_rows);
    }
}

enum {
    PLACE = 1 << 18,
    PARTS = PASS_ROWS * PASS_SPLITS * PASS_SPLITS * PASS_COLUMNS * (128 + 2) * 8,
    COUNTERS = 256
};

/* A list of one op, whose rows of qkv stand where a product would have left it; its result, BF16, at OUT. */
static pass *list_attention(const world *w, void *out) {
    static pass a;
    uint8_t *memory = place(NULL, COUNTERS + PARTS + PASS_NOWHERE * PLACE);
    memset(here(memory), 0, COUNTERS + PARTS + PASS_NOWHERE * PLACE);
    a = (pass){.n_ops = 1,
               .n_views = 1,
               .hidden = HIDDEN,
               .max_k = HIDDEN,
               .n_blocks = pass_blocks(&lane, HIDDEN),
               .format = w->kv.format,
               .n_rows = w->n_rows,
               .stream_stride = HIDDEN,
               .plain_stride = (int)w->q_cols,
               .stream = place(NULL, PASS_ROWS * HIDDEN * sizeof(float)),
               .counters = (uint32_t *)(void *)memory,
               .parts = (uint64_t *)(void *)(memory + COUNTERS)};
    for (size_t i = 0; i < PASS_NOWHERE; i++)
        a.places[i] = (uint32_t *)(void *)(memory + COUNTERS + PARTS + i * PLACE);
    memcpy(here(a.places[PASS_QKV]), here(w->qkv), (size_t)w->n_rows * w->qkv_cols * sizeof(float));
    a.views[0] = (pass_view){w->p, w->step, (uint8_t *)w->kv.v - (uint8_t *)w->kv.k,
                             (uint8_t *)w->kv.v_scales - (uint8_t *)w->kv.k_scales};
    a.ops[0] = (pass_op){.kind = PASS_ATTEND, .from = PASS_QKV, .to = PASS_HEADS, .plain = out};
    a.ops[0].attention.k_mean = w->p.k_mean;
    a.ops[0].attention.k = w->kv.k;
    a.ops[0].attention.k_scales = w->kv.k_scales;
    return &a;
}

/* Results [rows, heads * D] of a kernel, which finds all memory as it was made. */
static float *run(const world *w, way by) {
    const size_t n = (size_t)w->n_rows * w->q_cols, before = taken;
    float *out = place(NULL, n * sizeof(float)), *got = malloc(n * sizeof(float));
    const act_view to = {ACT_F32, out, NULL, w->q_cols}, from = {ACT_F32, w->qkv, NULL, w->qkv_cols};
    cuda_lane on = lane;
    if (by == DECODE_TWICE)
        memset(on.clusters, 0, sizeof on.clusters);
    on.wgmma = on.wgmma && by == PROMPTS_WGMMA;
    void *partial = place(NULL, decode_partial_bytes(&on, &w->p, w->n_alone) + 16);
    const pass *list = by == ONE_LAUNCH ? list_attention(w, out) : NULL;
    CK(cudaMemcpy(block, image, taken, cudaMemcpyHostToDevice));
    CK(by == ONE_LAUNCH     ? pass_launch(&on, list)
       : by == DECODE_MAKES ? decode_make_launch(&on, to, from, &w->p, &w->kv, &w->step, w->n_alone)
       : by == DECODE || by == DECODE_TWICE
           ? decode_launch(&on, to, w->q, w->q_cols, &w->p, &w->kv, &w->step, w->n_alone, partial)
           : prefill_launch(&on, to, w->q, w->q_cols, &w->p, &w->kv, &w->step, w->n_rows));
    CK(cudaDeviceSynchronize());
    CK(cudaMemcpy(image, block, taken, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++)
        got[i] =
            by == ONE_LAUNCH ? bf16_to_f32(((const uint16_t *)here(out))[i]) : ((const float *)here(out))[i];
    taken = before;
    return got;
}

static void test(const shape *s, kv_format format, const batch *b, texture t) {
    static const float still[WIDEST] = {0}; /* frequencies: nothing turns */
    static world w;
    const size_t d = (size_t)s->head_dim;
    taken = 0;
    w = (world){.p = {.n_heads = s->n_heads,
                      .n_kv_heads = s->n_kv_heads,
                      .head_dim = s->head_dim,
                      .n_freq = s->head_dim / 2,
                      .rope_scale = 1,
                      .inv_freq = place(still, sizeof still),
                      .scale = 1 / sqrtf((float)d),
                      .window = s->window,
                      .cap = s->cap},
                .kv.format = format,
                .q_cols = (size_t)s->n_heads * d,
                .qkv_cols = (size_t)(s->n_heads + 2 * s->n_kv_heads) * d,
                .cells = (size_t)PAGES * (size_t)s->n_kv_heads * KV_PAGE};
    if (s->mean && format == KV_FP8) {
        w.mean = rnd_floats((size_t)s->n_kv_heads * d, 1);
        w.p.k_mean = place(w.mean, (size_t)s->n_kv_heads * d * sizeof(float));
    }
    make_batch(&w, b);
    fill(&w, b, t);
    truth known = {NULL, NULL};
    for (way by = 0; by < WAYS; by++) {
        if (!serves(&w, by))
            continue;
        float *got = run(&w, by);
        if (by != DECODE_TWICE && by != PROMPTS_WGMMA) { /* other rows, or another own key in the cache */
            free(known.want), free(known.limit);
            known = make_truth(&w, by != PROMPTS_MMA);
        }
        compare(&w, by, &known, got, texture_names[t]);
        free(got);
    }
    free(known.want), free(known.limit), free(w.mean);
}

int main(void) {
    static const batch batches[] = {
        {8, {{0, 1}, {15, 1}, {16, 1}, {63, 1}, {64, 1}, {511, 1}, {512, 1}, {1023, 1}}},
        {4, {{0, 66}, {300, 1}, {60, 5}, {448, 33}}},
        {1, {{0, 1}}},
        {1, {{64, 1}}},
        {1, {{511, 1}}},
        {1, {{1000, 1}}},
        {2, {{0, 1}, {511, 1}}},
        {2, {{1000, 1}, {64, 1}}},
        {2, {{800, 1}, {1023, 1}}},
    };
    static const size_t whole[] = {
        [KV_BF16] = 1, [KV_FP8] = 5}; /* so many of the shapes with every texture */
    static const shape shapes[] = {
        {8, 2, 128, 0, 0, false},   {8, 2, 128, 0, 0, true},  {6, 2, 64, 0, 0, false},
        {4, 1, 96, 0, 0, true},     {2, 1, 256, 0, 0, false}, {4, 2, 128, 1, 0, false},
        {4, 2, 128, 16, 0, false},  {4, 2, 128, 64, 0, true}, {3, 1, 64, 65, 0, false},
        {4, 2, 128, 130, 0, false}, {4, 2, 128, 0, 2, false}, {2, 1, 256, 63, 30, false},
    };
    setvbuf(stdout, NULL, _IOLBF, 0);
    CK(cudaSetDevice(0));
    CK(cudaDeviceGetAttribute(&lane.n_sms, cudaDevAttrMultiProcessorCount, 0));
    cudaStream_t stream;
    CK(cudaStreamCreate(&stream));
    image = malloc(ROOM);
    CK(cudaMalloc((void **)&block, ROOM));
    int major;
    CK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    lane.stream = stream;
    lane.pdl = major >= 9;
    lane.wgmma = major == 9;
    if (major >= 9)
        CK(decode_know_clusters(&lane));
    for (int i = 0; i < WAYS; i++)
        families[i].name = way_names[i];
    for (int f = KV_BF16; f <= KV_FP8; f++)
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
            for (size_t b = 0; b < sizeof batches / sizeof *batches; b++)
                for (texture t = 0; t < (s < whole[f] ? TEXTURES : 1); t++)
                    test(&shapes[s], (kv_format)f, &batches[b], t);
    for (int i = 0; i < WAYS; i++)
        family_print(&families[i]);
    printf("attend: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

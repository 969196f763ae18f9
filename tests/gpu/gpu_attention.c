/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention's kernels against FP64 on the host: norm, rotation and storing of keys and values in every cache
 * format; then attention over what was stored, with decode rows and prompts in one batch, windows, groups,
 * pages in random order, poisoned outputs, behind what others left in the pages: values that are no numbers.
 */
#include "cuda/launchers.h"
#include "gpu_check.h"
#include "num/bf16.h"
#include "num/fp8.h"

static cuda_lane lane;

enum { MAX_SEQS = 48, MAX_HEADS = 16, N_PAGES = 160 };

typedef struct sequence {
    int pos, n_rows;
} sequence;

typedef struct world {
    attn_view p; /* device pointers */
    float *q_norm, *k_norm, *inv_freq;
    float *k_mean; /* NULL: none */
    kv_view kv;
    size_t cells; /* of keys: pages * kv heads * KV_PAGE */
    int n_rows, n_seqs, n_alone;
    sequence seqs[MAX_SEQS];
    int32_t *positions, *first_page, *table, *alone, *prompt;
    step_view step;
    float *qkv;
    void *d_qkv, *d_q;
    size_t q_cols, qkv_cols;
} world;

static size_t kv_each(kv_format f) {
    return f == KV_F32 ? 4 : f == KV_BF16 ? 2 : 1;
}

/* Pages in random order; sequences that stand alone have one row. */
static void make_batch(world *w, const sequence *seqs, int n_seqs) {
    static int32_t pages[N_PAGES];
    int next = 0, row = 0, n_alone = 0;
    for (int i = 0; i < N_PAGES; i++)
        pages[i] = i;
    for (int i = N_PAGES - 1; i > 0; i--) {
        int j = (int)(rnd() % (uint32_t)(i + 1)), t = pages[i];
        pages[i] = pages[j];
        pages[j] = t;
    }
    w->n_seqs = n_seqs;
    w->n_rows = 0;
    for (int s = 0; s < n_seqs; s++)
        w->n_rows += seqs[s].n_rows;
    size_t bytes = (size_t)w->n_rows * 4;
    w->positions = malloc(bytes), w->first_page = malloc(bytes), w->alone = malloc(bytes),
    w->prompt = malloc(bytes);
    for (int s = 0; s < n_seqs; s++) {
        w->seqs[s] = seqs[s];
        for (int i = 0; i < seqs[s].n_rows; i++, row++) {
            w->positions[row] = seqs[s].pos + i;
            w->first_page[row] = next;
            w->prompt[row] = seqs[s].n_rows == 1 ? -1 : s;
            if (seqs[s].n_rows == 1)
                w->alone[n_alone++] = row;
        }
        next += (seqs[s].pos + seqs[s].n_rows + KV_PAGE - 1) / KV_PAGE;
    }
    if (next > N_PAGES)
        abort();
    w->n_alone = n_alone;
    w->table = pages;
    w->step = (step_view){.positions = to_device(w->positions, bytes),
                          .first_page = to_device(w->first_page, bytes),
                          .page_table = to_device(pages, sizeof pages),
                          .alone = to_device(w->alone, bytes),
                          .prompt = to_device(w->prompt, bytes),
                          .brief = true};
    for (int s = 0; s < n_seqs; s++)
        w->step.brief = w->step.brief && (seqs[s].n_rows > 1 || seqs[s].pos < BRIEF_KEYS);
}

/* Keys and values of every position are stored: the batch's by the kernel, earlier ones at random here. */
static void make_cache(world *w, kv_format format) {
    size_t d = (size_t)w->p.head_dim, n, each = kv_each(format);
    w->cells = (size_t)N_PAGES * (size_t)w->p.n_kv_heads * KV_PAGE;
    n = w->cells * d;
    uint8_t *k = malloc(n * each), *v = malloc(n * each);
    float *ks = malloc(w->cells * 4), *vs = malloc(w->cells * 4);
    const float k_unit = w->p.k_scale != 0 ? w->p.k_scale : 0.01f,
                v_unit = w->p.v_scale != 0 ? w->p.v_scale : 0.01f;
    for (size_t i = 0; i < n; i++) {
        float a = rnd_normal(), b = rnd_normal();
        if (format == KV_F32) {
            ((float *)k)[i] = a, ((float *)v)[i] = b;
        } else if (format == KV_BF16) {
            ((uint16_t *)k)[i] = bf16_from_f32(a), ((uint16_t *)v)[i] = bf16_from_f32(b);
        } else {
            k[i] = e4m3_from_f32_sat(a / k_unit), v[i] = e4m3_from_f32_sat(b / v_unit);
        }
    }
    for (size_t i = 0; i < w->cells; i++) {
        ks[i] = key_scale((0.5f + fabsf(rnd_uniform())) * k_unit);
        vs[i] = (0.5f + fabsf(rnd_uniform())) * v_unit;
        ks[i] = w->p.k_scale != 0 ? w->p.k_scale : ks[i];
        vs[i] = w->p.v_scale != 0 ? w->p.v_scale : vs[i];
    }
    w->kv = (kv_view){format, to_device(k, n * each), to_device(v, n * each), to_device(ks, w->cells * 4),
                      to_device(vs, w->cells * 4)};
    free(k), free(v), free(ks), free(vs);
}

static size_t cell_at(const world *w, int row0_page, int head, int position) {
    int32_t page = w->table[row0_page + position / KV_PAGE];
    return ((size_t)page * (size_t)w->p.n_kv_heads + (size_t)head) * KV_PAGE + (size_t)(position % KV_PAGE);
}

/* Elements of a stored vector. */
static void read_cell(const world *w, const uint8_t *bytes, const float *scales, size_t cell, double *dst) {
    size_t d = (size_t)w->p.head_dim;
    for (size_t i = 0; i < d; i++)
        dst[i] = w->kv.format == KV_F32    ? ((const float *)bytes)[cell * d + i]
                 : w->kv.format == KV_BF16 ? bf16_to_f32(((const uint16_t *)bytes)[cell * d + i])
                                           : (double)e4m3_to_f32(bytes[cell * d + i]) * scales[cell];
}

static void norm_rotate(const world *w, const float *x, const float *norm, int position, double *out) {
    int d = w->p.head_dim, n = w->p.n_freq;
    double s = 0;
    for (int i = 0; i < d; i++)
        s += (double)x[i] * x[i];
    for (int i = 0; i < d; i++)
        out[i] = norm ? x[i] / sqrt(s / d + (double)w->p.norm_eps) * norm[i] : x[i];
    for (int i = 0; i < n; i++) {
        double angle = (double)((float)position * w->inv_freq[i]);
        double *a = w->p.interleaved ? out + 2 * i : out + i, *b = w->p.interleaved ? a + 1 : a + n, a0 = *a,
               b0 = *b;
        double c = cos(angle) * (double)w->p.rope_scale, sn = sin(angle) * (double)w->p.rope_scale;
        *a = a0 * c - b0 * sn;
        *b = b0 * c + a0 * sn;
    }
}

/* From FP32 and from BF16, which holds the same values: the same bits. */
static void store_rows(world *w) {
    size_t n = (size_t)w->n_rows * w->qkv_cols, q_bytes = (size_t)w->n_rows * w->q_cols * 4;
    size_t kv_bytes = w->cells * (size_t)w->p.head_dim * kv_each(w->kv.format);
    uint16_t *narrow = malloc(n * 2);
    for (size_t i = 0; i < n; i++)
        narrow[i] = bf16_from_f32(w->qkv[i]);
    act_view bf16 = {ACT_BF16, to_device(narrow, n * 2), NULL, w->qkv_cols},
             f32 = {ACT_F32, w->d_qkv, NULL, w->qkv_cols};
    CK(qkv_launch(&lane, w->d_q, w->q_cols, bf16, &w->p, &w->kv, &w->step, w->n_rows));
    void *q = from_device(w->d_q, q_bytes), *k = from_device(w->kv.k, kv_bytes);
    CK(cudaMemset(w->d_q, 0xff, q_bytes));
    CK(qkv_launch(&lane, w->d_q, w->q_cols, f32, &w->p, &w->kv, &w->step, w->n_rows));
    void *q2 = from_device(w->d_q, q_bytes), *k2 = from_device(w->kv.k, kv_bytes);
    check_equal("queries from BF16", q, q2, q_bytes);
    check_equal("keys from BF16", k, k2, kv_bytes);
    cudaFree(bf16.data);
    free(narrow), free(q), free(k), free(q2), free(k2);
}

/* The sum of w (v^ - v)^2, v = x / SCALE, times SCALE^2. */
static double weighed_error(const double *x, const double *w, size_t n, double scale) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)e4m3_to_f32(e4m3_from_f32_sat((float)(x[i] / scale))) - x[i] / scale;
        sum += w[i] * e * e;
    }
    return sum * scale * scale;
}

/* What mistakes of a key meet (cpu/kvscale.h): W weighs their squares, ALONG sums them. QUERIES [group, n]:
 * the head's. */
static void gauge_of(double *w, double *along, const double *queries, int group, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        w[i] = along[i] = 0;
        for (int h = 0; h < group; h++) {
            const double q = queries[(size_t)h * n + i];
            w[i] += q * q;
            along[i] += q * sqrt(0.3 / group);
        }
        sum += w[i];
    }
    for (size_t i = 0; i < n; i++)
        w[i] += 0.1 * sum / (double)n;
}

/* Key X under SCALE: how much more its error is than the best of the scales that a CPU tries
 * (cpu/kvscale.h), as a share. */
static double lost_by_scale(const double *x, const double *queries, int group, size_t n, double scale) {
    double w[256], along[256], most = 0, best = INFINITY;
    gauge_of(w, along, queries, group, n);
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs(x[i]));
    for (int step = 0; step < 32; step++)
        best = fmin(best, weighed_error(x, w, n, most / 448 * (1 + step / 32.0)));
    return weighed_error(x, w, n, scale) / best - 1;
}

/* What is made small where elements go to their other side, of the stored Y. */
static double steered_error(const double *x, const double *y, const double *w, const double *along,
                            size_t n) {
    double sum = 0, together = 0;
    for (size_t i = 0; i < n; i++) {
        sum += w[i] * (y[i] - x[i]) * (y[i] - x[i]);
        together += along[i] * (y[i] - x[i]);
    }
    return sum + together * together;
}

/* Y becomes X under SCALE with two elements at most at their other side, as a CPU has it; what is wrong
 * with the nearest codes. */
static double steer(const double *x, double *y, const double *w, const double *along, size_t n,
                    double scale) {
    for (size_t i = 0; i < n; i++)
        y[i] = (double)e4m3_to_f32(e4m3_from_f32_sat((float)(x[i] / scale))) * scale;
    const double nearest = steered_error(x, y, w, along, n);
    for (int turn = 0; turn < 2; turn++) {
        double least = steered_error(x, y, w, along, n), to = 0;
        size_t at = n;
        for (size_t i = 0; i < n; i++) {
            const double was = y[i];
            const uint8_t code = e4m3_from_f32_sat((float)(was / scale)), sign = code & 0x80,
                          up = (uint8_t)(fabs(x[i]) >= fabs(was) ? (code & 0x7f) + 1 : (code & 0x7f) - 1);
            if (up >= 0x7f)
                continue;
            y[i] = (double)e4m3_to_f32((uint8_t)((was == 0 && x[i] < 0 ? 0x80 : sign) | up)) * scale;
            const double error = steered_error(x, y, w, along, n);
            if (error < least)
                least = error, at = i, to = y[i];
            y[i] = was;
        }
        if (at == n)
            break;
        y[at] = to;
    }
    return nearest;
}

/* How much more is wrong with the stored Y of key X than a CPU's steering leaves, as a share of what nearest
 * codes have. */
static double lost_by_steering(const double *x, const double *y, const double *queries, int group, size_t n,
                               double scale) {
    double w[256], along[256], want[256];
    gauge_of(w, along, queries, group, n);
    const double nearest = steer(x, want, w, along, n, scale);
    return (steered_error(x, y, w, along, n) - steered_error(x, want, w, along, n)) / nearest;
}

/* What the kernel stored, and the queries it made, against FP64. */
static void check_stored(world *w, check_family *f, check_family *f8) {
    size_t d = (size_t)w->p.head_dim, each = kv_each(w->kv.format), n = w->cells * d * each;
    uint8_t *k = from_device(w->kv.k, n), *v = from_device(w->kv.v, n);
    float *ks = from_device(w->kv.k_scales, w->cells * 4), *vs = from_device(w->kv.v_scales, w->cells * 4);
    float *q = from_device(w->d_q, (size_t)w->n_rows * w->q_cols * 4);
    double want[256], got[256], queries[MAX_HEADS * 256];
    const int group = w->p.n_heads / w->p.n_kv_heads;
    double limit = w->kv.format == KV_F32    ? 3e-7
                   : w->kv.format == KV_BF16 ? 3.9e-3
                                             : 0x1p-4; /* half a step of E4M3 */
    for (int r = 0; r < w->n_rows; r++) {
        const float *row = w->qkv + (size_t)r * w->qkv_cols;
        for (int h = 0; h < w->p.n_heads; h++) {
            double *query = queries + (size_t)h * d;
            norm_rotate(w, row + (size_t)h * d, w->q_norm, w->positions[r], query);
            family_take(f, "query", l2_error(q + (size_t)r * w->q_cols + (size_t)h * d, query, d), 4e-7);
        }
        for (int g = 0; g < 2 * w->p.n_kv_heads; g++) {
            int head = g % w->p.n_kv_heads;
            bool is_k = g < w->p.n_kv_heads;
            const float *x = row + (size_t)(w->p.n_heads + g) * d;
            if (is_k)
                norm_rotate(w, x, w->k_norm, w->positions[r], want);
            if (is_k && w->k_mean && w->positions[r] > 0)
                for (size_t i = 0; i < d; i++)
                    want[i] -= (double)w->k_mean[(size_t)head * d + i];
            if (!is_k)
                for (size_t i = 0; i < d; i++)
                    want[i] = x[i];
            size_t cell = cell_at(w, w->first_page[r], head, w->positions[r]);
            read_cell(w, is_k ? k : v, is_k ? ks : vs, cell, got);
            float as_float[256];
            for (size_t i = 0; i < d; i++)
                as_float[i] = (float)got[i];
            family_take(w->kv.format == KV_FP8 ? f8 : f, is_k ? "stored key" : "stored value",
                        l2_error(as_float, want, d), is_k && w->kv.format == KV_FP8 ? 2 * limit : limit);
            if (is_k && w->kv.format == KV_FP8 && w->p.k_scale == 0)
                family_take(f8, "scale of a key",
                            lost_by_scale(want, queries + (size_t)(head * group) * d, group, d, ks[cell]),
                            0.08);
            if (is_k && w->kv.format == KV_FP8 && w->p.k_scale == 0)
                family_take(
                    f8, "a steered key",
                    lost_by_steering(want, got, queries + (size_t)(head * group) * d, group, d, ks[cell]),
                    0.1);
        }
    }
    free(k), free(v), free(ks), free(vs), free(q);
}

/* softmax(cap(scale q K^T)) V of the stored keys and values and the kernel's queries, FP64; of key 0 less the
 * mean, where there is one. */
static double *attend(const world *w) {
    size_t d = (size_t)w->p.head_dim, n = w->cells * d * kv_each(w->kv.format);
    uint8_t *k = from_device(w->kv.k, n), *v = from_device(w->kv.v, n);
    float *ks = from_device(w->kv.k_scales, w->cells * 4), *vs = from_device(w->kv.v_scales, w->cells * 4);
    float *q = from_device(w->d_q, (size_t)w->n_rows * w->q_cols * 4);
    double *out = calloc((size_t)w->n_rows * w->q_cols, 8), *s = malloc(20000 * 8), vec[256];
    int group = w->p.n_heads / w->p.n_kv_heads;
    for (int r = 0; r < w->n_rows; r++)
        for (int h = 0; h < w->p.n_heads; h++) {
            int last = w->positions[r], first = w->p.window ? last - w->p.window + 1 : 0;
            first = first < 0 ? 0 : first;
            double most = -INFINITY, sum = 0, *to = out + (size_t)r * w->q_cols + (size_t)h * d;
            for (int key = first; key <= last; key++) {
                read_cell(w, k, ks, cell_at(w, w->first_page[r], h / group, key), vec);
                s[key] = 0;
                for (size_t i = 0; i < d; i++)
                    s[key] += (vec[i] -
                               (w->k_mean && key == 0 ? (double)w->k_mean[(size_t)(h / group) * d + i] : 0)) *
                              q[(size_t)r * w->q_cols + (size_t)h * d + i];
                s[key] *= (double)w->p.scale;
                if (w->p.cap != 0)
                    s[key] = (double)w->p.cap * tanh(s[key] / (double)w->p.cap);
                most = fmax(most, s[key]);
            }
            for (int key = first; key <= last; key++)
                sum += exp(s[key] - most);
            for (int key = first; key <= last; key++) {
                read_cell(w, v, vs, cell_at(w, w->first_page[r], h / group, key), vec);
                for (size_t i = 0; i < d; i++)
                    to[i] += exp(s[key] - most) / sum * vec[i];
            }
        }
    free(k), free(v), free(ks), free(vs), free(q), free(s);
    return out;
}

static void run_fast(const cuda_lane *on, const world *w, act_view out) {
    void *partial = to_device(NULL, decode_partial_bytes(on, &w->p, w->n_alone) + 16);
    if (w->n_alone < w->n_rows)
        CK(prefill_launch(on, out, w->d_q, w->q_cols, &w->p, &w->kv, &w->step, w->n_rows));
    CK(decode_launch(on, out, w->d_q, w->q_cols, &w->p, &w->kv, &w->step, w->n_alone, partial));
    CK(cudaDeviceSynchronize());
    cudaFree(partial);
}

/* HOPPER: as there, else as on any GPU, with splits that meet in a second kernel. */
static void check_fast(const world *w, act_view out, const double *want, bool hopper, check_family *fast) {
    size_t n = (size_t)w->n_rows * w->q_cols;
    cuda_lane on = lane;
    if (!hopper) {
        memset(on.clusters, 0, sizeof on.clusters);
        on.wgmma = false;
    }
    CK(cudaMemset(out.data, 0xff, n * 4));
    run_fast(&on, w, out);
    float *got = from_device(out.data, n * 4);
    for (int r = 0; r < w->n_rows; r++)
        family_take(fast, w->prompt[r] < 0 ? "attention, decode" : "attention, prefill",
                    l2_error(got + (size_t)r * w->q_cols, want + (size_t)r * w->q_cols, w->q_cols),
                    w->kv.format == KV_FP8 ? 2e-3 : 8e-3);
    run_fast(&on, w, out);
    float *again = from_device(out.data, n * 4);
    check_equal("attention again", got, again, n * 4);
    free(got), free(again);
}

/* The cells of this step's keys and values hold NaN. */
static void poison_cells(const world *w) {
    size_t bytes = (size_t)w->p.head_dim * kv_each(w->kv.format);
    for (int r = 0; r < w->n_rows; r++)
        for (int h = 0; h < w->p.n_kv_heads; h++) {
            size_t cell = cell_at(w, w->first_page[r], h, w->positions[r]);
            CK(cudaMemset((uint8_t *)w->kv.k + cell * bytes, 0xff, bytes));
            CK(cudaMemset((uint8_t *)w->kv.v + cell * bytes, 0xff, bytes));
            CK(cudaMemset(w->kv.k_scales + cell, 0xff, 4));
            CK(cudaMemset(w->kv.v_scales + cell, 0xff, 4));
        }
}

/* Attention that makes its queries itself: the bits of the two kernels, in what comes out and in the cache.
 */
static void check_made(const world *w, act_view out) {
    size_t n = (size_t)w->n_rows * w->q_cols * 4,
           bytes = w->cells * (size_t)w->p.head_dim * kv_each(w->kv.format);
    void *cache[4] = {w->kv.k, w->kv.v, w->kv.k_scales, w->kv.v_scales}, *before[4];
    size_t sizes[4] = {bytes, bytes, w->cells * 4, w->cells * 4};
    act_view qkv = {ACT_F32, w->d_qkv, NULL, w->qkv_cols};
    if (w->n_alone < w->n_rows || !decode_makes(&lane, &w->p, w->kv.format, w->n_alone))
        return;
    size_t n_qkv = (size_t)w->n_rows * w->qkv_cols;
    uint16_t *half = malloc(n_qkv * 2); /* the same values */
    for (size_t i = 0; i < n_qkv; i++)
        half[i] = bf16_from_f32(w->qkv[i]);
    act_view bf16 = {ACT_BF16, to_device(half, n_qkv * 2), NULL, w->qkv_cols};
    run_fast(&lane, w, out);
    void *want = from_device(out.data, n);
    for (int i = 0; i < 4; i++)
        before[i] = from_device(cache[i], sizes[i]);
    for (int wide = 0; wide < 2; wide++) { /* from BF16, then from FP32 */
        CK(cudaMemset(out.data, 0xff, n));
        poison_cells(w);
        CK(decode_make_launch(&lane, out, wide ? qkv : bf16, &w->p, &w->kv, &w->step, w->n_alone));
        void *got = from_device(out.data, n);
        check_equal("attention with its own queries", got, want, n);
        free(got);
    }
    for (int i = 0; i < (w->kv.format == KV_FP8 ? 4 : 2); i++) {
        void *after = from_device(cache[i], sizes[i]);
        check_equal("the cache behind it", after, before[i], sizes[i]);
        free(after);
    }
    for (int i = 0; i < 4; i++)
        free(before[i]);
    cudaFree(bf16.data);
    free(want), free(half);
}

/* A key whose scale is NaN makes NaN of all that sees it, capped or not. */
static void check_poisoned(const world *w, act_view out) {
    if (w->kv.format != KV_FP8 || w->n_alone == 0)
        return;
    const int row = w->alone[0], last = w->positions[row];
    const int first = w->p.window && last >= w->p.window ? last - w->p.window + 1 : 0;
    float *at = w->kv.k_scales + cell_at(w, w->first_page[row], 0, first);
    float *sound = from_device(at, sizeof *at);
    CK(cudaMemset(at, 0xff, sizeof *at));
    run_fast(&lane, w, out);
    float *got = from_device((float *)out.data + (size_t)row * w->q_cols, sizeof *got);
    check_error("a key with the scale NaN is seen", isnan(*got) ? 0 : 1, 0);
    CK(cudaMemcpy(at, sound, sizeof *at, cudaMemcpyHostToDevice));
    free(got), free(sound);
}

/* ---- values that are no number ---- */

/* The batch's rows with such values, NaN and infinity, in the rows with BROKEN (NULL: in all), on the device.
 */
static void *break_values(const world *w, const bool *broken) {
    const size_t d = (size_t)w->p.head_dim, n = (size_t)w->n_rows * w->qkv_cols;
    float *qkv = malloc(n * 4);
    memcpy(qkv, w->qkv, n * 4);
    for (int r = 0; r < w->n_rows; r++)
        for (int h = 0; h < w->p.n_kv_heads && (!broken || broken[r]); h++) {
            float *value = qkv + (size_t)r * w->qkv_cols + (size_t)(w->p.n_heads + w->p.n_kv_heads + h) * d;
            value[(size_t)(r * 7 + h) % d] = (r + h) % 2 ? NAN : -INFINITY;
        }
    void *to = to_device(qkv, n * 4);
    free(qkv);
    return to;
}

/* A step whose rows are the tokens behind the end of their sequences, where there is room in the page. */
static step_view step_behind(const world *w) {
    int32_t *at = malloc((size_t)w->n_rows * 4);
    for (int s = 0, row = 0; s < w->n_seqs; s++)
        for (int i = 0; i < w->seqs[s].n_rows; i++, row++) {
            const int end = w->seqs[s].pos + w->seqs[s].n_rows;
            at[row] = end % KV_PAGE ? end : w->positions[row];
        }
    step_view step = w->step;
    step.positions = to_device(at, (size_t)w->n_rows * 4);
    free(at);
    return step;
}

static bool makes_all(const world *w) {
    return w->n_alone == w->n_rows && decode_supports(&w->p, w->kv.format) &&
           decode_makes(&lane, &w->p, w->kv.format, w->n_alone);
}

/* Where this step's rows will end others have left values that are no numbers. */
static void leave_broken(const world *w) {
    step_view step = step_behind(w);
    act_view qkv = {ACT_F32, break_values(w, NULL), NULL, w->qkv_cols};
    CK(qkv_launch(&lane, w->d_q, w->q_cols, qkv, &w->p, &w->kv, &step, w->n_rows));
    if (makes_all(w)) {
        act_view out = {ACT_F32, w->d_q, NULL, w->q_cols};
        CK(decode_make_launch(&lane, out, qkv, &w->p, &w->kv, &step, w->n_alone));
    }
    CK(cudaDeviceSynchronize());
    cudaFree((void *)step.positions), cudaFree(qkv.data);
}

/* Of OUT all rows that see a broken one are NaN, all others numbers. */
static void check_seen(const world *w, const bool *broken, act_view out, const char *what) {
    const size_t n = (size_t)w->n_rows * w->q_cols;
    float *got = from_device(out.data, n * 4);
    int wrong = 0;
    for (int s = 0, row = 0; s < w->n_seqs; row += w->seqs[s++].n_rows)
        for (int r = row; r < row + w->seqs[s].n_rows; r++) {
            bool sees = false;
            for (int b = row; b <= r; b++)
                sees = sees || (broken[b] && (w->p.window == 0 || r - b < w->p.window));
            for (size_t i = 0; i < w->q_cols; i++)
                wrong +=
                    sees ? !isnan(got[(size_t)r * w->q_cols + i]) : !isfinite(got[(size_t)r * w->q_cols + i]);
        }
    check_error(what, wrong, 0);
    free(got);
}

/* A row in the middle of each sequence has such a value. */
static void check_broken(const world *w, act_view out) {
    bool *broken = calloc((size_t)w->n_rows, sizeof *broken);
    for (int s = 0, row = 0; s < w->n_seqs; row += w->seqs[s++].n_rows)
        broken[row + w->seqs[s].n_rows / 2] = true;
    act_view qkv = {ACT_F32, break_values(w, broken), NULL, w->qkv_cols};
    cuda_lane plain = lane;
    memset(plain.clusters, 0, sizeof plain.clusters);
    plain.wgmma = false;
    CK(qkv_launch(&lane, w->d_q, w->q_cols, qkv, &w->p, &w->kv, &w->step, w->n_rows));
    run_fast(&plain, w, out);
    check_seen(w, broken, out, "a value that is no number, on any GPU");
    run_fast(&lane, w, out);
    check_seen(w, broken, out, "a value that is no number");
    if (makes_all(w)) {
        poison_cells(w);
        CK(decode_make_launch(&lane, out, qkv, &w->p, &w->kv, &w->step, w->n_alone));
        check_seen(w, broken, out, "a value that is no number, made");
    }
    cudaFree(qkv.data);
    free(broken);
}

static void check_attention(const world *w, check_family *exact, check_family *fast) {
    size_t n = (size_t)w->n_rows * w->q_cols;
    double *want = attend(w);
    act_view out = {ACT_F32, to_device(NULL, n * 4), NULL, w->q_cols};
    CK(attention_exact_launch(&lane, out, w->d_q, w->q_cols, &w->p, &w->kv, &w->step, w->n_rows));
    float *got = from_device(out.data, n * 4);
    for (int r = 0; r < w->n_rows; r++)
        family_take(exact, "attention, exact",
                    l2_error(got + (size_t)r * w->q_cols, want + (size_t)r * w->q_cols, w->q_cols), 2e-6);
    free(got);
    if (decode_supports(&w->p, w->kv.format)) {
        check_fast(w, out, want, false, fast);
        check_fast(w, out, want, true, fast);
        check_made(w, out);
        check_poisoned(w, out);
        check_broken(w, out);
    }
    cudaFree(out.data);
    free(want);
}

typedef struct shape {
    int n_heads, n_kv_heads, head_dim, n_freq, window;
    bool interleaved, norm;
    float cap, k_scale, v_scale; /* 0: none */
    bool mean;                   /* FP8 keys are stored less one */
} shape;

/* A shape's norms, angles and mean; no batch yet. */
static world make_world(const shape *s, kv_format format) {
    size_t d = (size_t)s->head_dim;
    world w = {.p = {.n_heads = s->n_heads,
                     .n_kv_heads = s->n_kv_heads,
                     .head_dim = s->head_dim,
                     .norm_eps = 1e-6f,
                     .n_freq = s->n_freq,
                     .rope_scale = s->norm ? 1.0f : 1.1f,
                     .interleaved = s->interleaved,
                     .scale = 1.0f / sqrtf((float)d),
                     .window = s->window,
                     .cap = s->cap,
                     .k_scale = s->k_scale,
                     .v_scale = s->v_scale}};
    w.q_norm = s->norm ? rnd_floats(d, 1) : NULL;
    w.k_norm = s->norm ? rnd_floats(d, 1) : NULL;
    w.inv_freq = malloc((size_t)s->n_freq * 4 + 4);
    for (int i = 0; i < s->n_freq; i++)
        w.inv_freq[i] = powf(10000.0f, -(float)i / (float)s->n_freq);
    w.p.q_norm = w.q_norm ? to_device(w.q_norm, d * 4) : NULL;
    w.p.k_norm = w.k_norm ? to_device(w.k_norm, d * 4) : NULL;
    w.p.inv_freq = to_device(w.inv_freq, (size_t)s->n_freq * 4);
    w.k_mean = s->mean && format == KV_FP8 ? rnd_floats((size_t)s->n_kv_heads * d, 1) : NULL;
    w.p.k_mean = w.k_mean ? to_device(w.k_mean, (size_t)s->n_kv_heads * d * 4) : NULL;
    w.q_cols = (size_t)s->n_heads * d;
    w.qkv_cols = (size_t)(s->n_heads + 2 * s->n_kv_heads) * d;
    return w;
}

static void test_shape(const shape *s, kv_format format, check_family *stored, check_family *stored8,
                       check_family *exact, check_family *fast) {
    const sequence batches[][MAX_SEQS] = {
        {{0, 1}},
        {{511, 1}, {0, 1}, {160, 1}},
        {{332, 1}, {0, 5}, {63, 1}, {64, 1}, {130, 70}, {1000, 1}},
        {{0, 200}, {700, 33}, {15, 1}, {0, 3}},
        {{300, 1}, {0, 20}, {5, 1}}, /* a prompt between rows that stand alone */
        {{600, 1}},                  /* and others: so many rows that few are split */
    };
    const int n_seqs[] = {1, 3, 6, 4, 3, 40};
    const size_t d = (size_t)s->head_dim;
    world w = make_world(s, format);
    for (size_t b = 0; b < sizeof n_seqs / sizeof *n_seqs; b++) {
        sequence seqs[MAX_SEQS];
        for (int i = 0; i < MAX_SEQS; i++)
            seqs[i] = batches[b][i].n_rows > 0 ? batches[b][i] : (sequence){(int)(rnd() % 180), 1};
        make_batch(&w, seqs, n_seqs[b]);
        make_cache(&w, format);
        w.qkv = rnd_floats((size_t)w.n_rows * w.qkv_cols, 1);
        for (size_t i = 0; i < (size_t)w.n_rows * w.qkv_cols; i++)
            w.qkv[i] = bf16_to_f32(bf16_from_f32(w.qkv[i]));
        w.d_qkv = to_device(w.qkv, (size_t)w.n_rows * w.qkv_cols * 4);
        w.d_q = to_device(NULL, (size_t)w.n_rows * w.q_cols * 4);
        leave_broken(&w);
        store_rows(&w);
        check_stored(&w, stored, stored8);
        if (d % 4 == 0)
            check_attention(&w, exact, fast);
        cudaFree(w.kv.k), cudaFree(w.kv.v), cudaFree(w.d_q), cudaFree(w.d_qkv);
        free(w.qkv);
    }
}

/* q, k and v of N_ROWS under one KV head. All dimensions of a key but the first are alike, and its queries
 * have the same elements in each, in other orders: only roundings of their sums, so the order in which they
 * are added, decide which codes are steered. */
static float *make_ties(const shape *s, int n_rows) {
    const size_t d = (size_t)s->head_dim, group = (size_t)s->n_heads, cols = (group + 2) * d;
    float *qkv = rnd_floats((size_t)n_rows * cols, 1);
    for (float *row = qkv; row < qkv + (size_t)n_rows * cols; row += cols) {
        const float of_key = 1 + fabsf(rnd_uniform());
        for (size_t i = 1; i < d; i++)
            for (size_t h = 0; h < group; h++)
                row[h * d + i] = row[(h + i) % group * d];
        for (size_t i = 0; i < d; i++)
            row[group * d + i] = i > 0 ? of_key : 9;
    }
    return qkv;
}

/* Keys that come in one step of many rows and in steps of few: the same bits, whatever the group. */
static void test_few_and_many(const shape *s, kv_format format) {
    enum { ROWS = 600, FEW = 40 };
    world w = make_world(s, format);
    make_batch(&w, &(sequence){0, ROWS}, 1);
    make_cache(&w, format);
    w.qkv = make_ties(s, ROWS);
    w.d_qkv = to_device(w.qkv, ROWS * w.qkv_cols * 4);
    w.d_q = to_device(NULL, ROWS * w.q_cols * 4);
    const size_t q_bytes = ROWS * w.q_cols * 4, kv_bytes = w.cells * (size_t)s->head_dim * kv_each(format);
    void *q[2], *k[2], *scales[2];
    for (int few = 0; few < 2; few++) {
        CK(cudaMemset(w.d_q, 0xff, q_bytes));
        CK(cudaMemset(w.kv.k, 0, kv_bytes));
        CK(cudaMemset(w.kv.k_scales, 0, w.cells * 4));
        for (int row = 0; row < ROWS; row += few ? FEW : ROWS) {
            step_view step = w.step;
            step.positions += row, step.first_page += row;
            const act_view qkv = {ACT_F32, (float *)w.d_qkv + (size_t)row * w.qkv_cols, NULL, w.qkv_cols};
            CK(qkv_launch(&lane, (float *)w.d_q + (size_t)row * w.q_cols, w.q_cols, qkv, &w.p, &w.kv, &step,
                          few ? FEW : ROWS));
        }
        q[few] = from_device(w.d_q, q_bytes), k[few] = from_device(w.kv.k, kv_bytes);
        scales[few] = from_device(w.kv.k_scales, w.cells * 4);
    }
    check_equal("queries of few and many rows", q[0], q[1], q_bytes);
    check_equal("keys of few and many rows", k[0], k[1], kv_bytes);
    check_equal("scales of few and many rows", scales[0], scales[1], w.cells * 4);
    for (int few = 0; few < 2; few++)
        free(q[few]), free(k[few]), free(scales[few]);
    cudaFree(w.kv.k), cudaFree(w.kv.v), cudaFree(w.d_q), cudaFree(w.d_qkv);
    free(w.qkv);
}

/* "short": what a sanitizer has the patience for. */
int main(int argc, char **argv) {
    const bool brief = argc > 1 && strcmp(argv[1], "short") == 0;
    CK(cudaSetDevice(0));
    CK(cudaDeviceGetAttribute(&lane.n_sms, cudaDevAttrMultiProcessorCount, 0));
    cudaStream_t stream;
    CK(cudaStreamCreate(&stream));
    lane.stream = stream;
    int major;
    CK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0));
    lane.pdl = major >= 9;
    lane.wgmma = major == 9;
    if (major >= 9)
        CK(decode_know_clusters(&lane));
    const shape shapes[] = {
        {.n_heads = 3, 1, 10, 5, 0, true, false},
        {.n_heads = 6, 2, 48, 24, 70, false, true, .mean = true},
        {.n_heads = 9, 3, 64, 32, 0, true, false, .mean = true},
        {.n_heads = 4, 1, 256, 128, 100, false, true, .mean = true},
        {.n_heads = 8, 2, 128, 64, 0, false, true, .cap = 2, .k_scale = 0.04f, .v_scale = 0.02f},
        {.n_heads = 4, 2, 96, 24, 0, false, false, .mean = true},
        {.n_heads = 16, 1, 128, 32, 70, false, false},
        {.n_heads = 2, 2, 256, 128, 0, true, false, .cap = 2},
        {.n_heads = 6, 1, 64, 32, 65, false, true, .k_scale = 0.04f, .v_scale = 0.02f},
        {.n_heads = 8, 2, 128, 64, 0, false, true},
        {.n_heads = 8, 2, 128, 64, 0, false, true, .mean = true},
    };
    static const char *const names[] = {"f32", "bf16", "fp8"};
    for (int f = 0; f < 3; f++) {
        char a[64], b[64], c[64], e[64];
        snprintf(a, sizeof a, "qkv, cache %s: exact parts", names[f]);
        snprintf(b, sizeof b, "qkv, cache %s: stored vectors", names[f]);
        snprintf(c, sizeof c, "attention exact, cache %s", names[f]);
        snprintf(e, sizeof e, "attention on tensor cores, cache %s", names[f]);
        check_family stored = {.name = a}, stored8 = {.name = b}, exact = {.name = c}, fast = {.name = e};
        for (size_t i = 0; i < (brief ? 5 : sizeof shapes / sizeof shapes[0]); i++)
            test_shape(&shapes[i], (kv_format)f, &stored, &stored8, &exact, &fast);
        family_print(&stored), family_print(&stored8), family_print(&exact), family_print(&fast);
    }
    const shape groups[] = {
        {.n_heads = 8, 1, 128, 0, 0, false, false},
        {.n_heads = 12, 1, 64, 0, 0, false, false},
        {.n_heads = 16, 1, 128, 0, 0, false, false},
        {.n_heads = 71, 1, 64, 0, 0, false, false},
    };
    for (size_t i = 0; i < (brief ? 0 : sizeof groups / sizeof groups[0]); i++)
        test_few_and_many(&groups[i], KV_FP8);
    printf("attention: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

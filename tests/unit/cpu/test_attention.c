/* SPDX-License-Identifier: Apache-2.0
 *
 * Queries, keys and values: norms, rotation, storing and attention on every rung, in every KV format, against
 * FP64 of the same operands. Attention's operands are the rotated queries and the keys and values as stored.
 */
#include "cpu_fixture.h"

#include "../sanitized.h"
#include "cpu/kernels.h"
#include "cpu/kvscale.h"
#include "cpu/queue.h"

enum { LAYERS = 2, LAYER = 1, MAX_ROWS = 640 };

typedef struct rig {
    backend *be;
    const op_shape *shape;
    nib_kv_dtype type;
    cache *kv;
    attn_params p;
    float *inv_freq, *q_norm, *k_norm;
    vec *vecs[3];
    buf *qkv, *q, *out;
    char where[256];
} rig;

static rig rig_open(uint32_t features, int threads, nib_activations mode, const op_shape *shape,
                    nib_kv_dtype type) {
    rig r = {.be = fixture_open(features, threads, mode), .shape = shape, .type = type};
    size_t h = (size_t)shape->n_heads, g = (size_t)shape->n_kv_heads, d = (size_t)shape->head_dim;
    r.inv_freq = test_malloc(d / 2 * sizeof(float));
    for (size_t i = 0; i < d / 2; i++)
        r.inv_freq[i] = (float)pow(10000, -2.0 * (double)i / (double)d);
    r.q_norm = fixture_vector(d, PATTERN_NORMAL, 0, 11);
    r.k_norm = fixture_vector(d, PATTERN_NORMAL, 0, 12);
    r.qkv = fixture_buf(r.be, BUF_F32, MAX_ROWS, (h + 2 * g) * d);
    r.q = fixture_buf(r.be, BUF_F32, MAX_ROWS, h * d);
    r.out = fixture_buf(r.be, BUF_ACT, MAX_ROWS, h * d);
    r.kv =
        fixture_cache(r.be, type, LAYERS, shape->n_kv_heads, shape->head_dim, FIXTURE_SEQS * FIXTURE_PAGES);
    r.vecs[0] = fixture_vec(r.be, r.q_norm, d);
    r.vecs[1] = fixture_vec(r.be, r.k_norm, d);
    r.vecs[2] = fixture_vec(r.be, r.inv_freq, d / 2);
    r.p = (attn_params){.layer = LAYER,
                        .n_heads = shape->n_heads,
                        .n_kv_heads = shape->n_kv_heads,
                        .head_dim = shape->head_dim,
                        .q_norm = shape->qk_norm ? r.vecs[0] : NULL,
                        .k_norm = shape->qk_norm ? r.vecs[1] : NULL,
                        .norm_eps = 1e-6f,
                        .inv_freq = r.vecs[2],
                        .rope_scale = 1,
                        .interleaved = shape->interleaved,
                        .scale = 1 / sqrtf((float)d),
                        .window = shape->window};
    return r;
}

static void rig_close(rig *r) {
    r->be->buf_free(r->be, r->qkv);
    r->be->buf_free(r->be, r->q);
    r->be->buf_free(r->be, r->out);
    for (int i = 0; i < 3; i++)
        r->be->vec_free(r->be, r->vecs[i]);
    r->be->cache_free(r->be, r->kv);
    r->be->close(r->be);
    test_free(r->inv_freq);
    test_free(r->q_norm);
    test_free(r->k_norm);
}

static void rig_step(rig *r, const fixture_batch *f, const float *qkv) {
    fixture_set(r->qkv, qkv, (size_t)f->b.n_rows);
    step_begin(r->be, &f->b, 0);
    op_qk_norm_rope_store(r->be, r->q, r->qkv, &r->p, r->kv);
    op_attention(r->be, r->out, r->q, &r->p, r->kv, NULL);
    fixture_finish(r->be);
}

static void norm_rope64(const rig *r, const float *x, const float *norm, int pos, double *out) {
    size_t d = (size_t)r->p.head_dim, half = d / 2;
    double squares = 0;
    for (size_t i = 0; i < d; i++)
        squares += (double)x[i] * x[i];
    double factor = norm ? 1 / sqrt(squares / (double)d + (double)r->p.norm_eps) : 1;
    for (size_t i = 0; i < half; i++) {
        size_t a = r->p.interleaved ? 2 * i : i, b = r->p.interleaved ? 2 * i + 1 : i + half;
        double xa = x[a] * factor * (norm ? norm[a] : 1), xb = x[b] * factor * (norm ? norm[b] : 1);
        double angle = (float)pos * r->inv_freq[i]; /* FP32 product, as in transformers */
        out[a] = xa * cos(angle) - xb * sin(angle);
        out[b] = xb * cos(angle) + xa * sin(angle);
    }
}

/* A stored vector lies within half a step of its format, an FP8 key within a step. */
static void check_stored(const rig *r, bool is_k, int page, int head, size_t t, const double *want) {
    size_t d = (size_t)r->p.head_dim;
    double amax = 0;
    for (size_t i = 0; i < d; i++)
        amax = fabs(want[i]) > amax ? fabs(want[i]) : amax;
    for (size_t i = 0; i < d; i++) {
        double got = fixture_kv_at(r->kv, is_k, LAYER, page, head, t, i), slack = amax * 4e-7;
        double half_step = r->type == NIB_KV_FP32   ? 0
                           : r->type == NIB_KV_BF16 ? fabs(want[i]) * 0x1p-8
                                                    : fmax(fabs(want[i]) * 0x1p-4, amax / 448 * 0x1p-9);
        if (r->type == NIB_KV_FP8 && is_k)
            half_step *= 2;
        if (!(fabs(got - want[i]) <= half_step + slack))
            fail_msg("%s: %s of dimension %zu is %g, not %g", r->where, is_k ? "key" : "value", i, got,
                     want[i]);
    }
}

static void check_store(const rig *r, const fixture_batch *f, const float *qkv) {
    size_t h = (size_t)r->p.n_heads, g = (size_t)r->p.n_kv_heads, d = (size_t)r->p.head_dim;
    double *want = test_malloc(h * d * sizeof *want);
    for (int32_t s = 0; s < f->b.n_seqs; s++)
        for (int32_t i = 0; i < f->seqs[s].n_rows; i++) {
            size_t row = (size_t)(f->seqs[s].row + i);
            int pos = f->seqs[s].pos + i, page = f->seqs[s].pages[0][pos / KV_PAGE_TOKENS];
            const float *x = qkv + row * (h + 2 * g) * d;
            for (size_t k = 0; k < h; k++)
                norm_rope64(r, x + k * d, r->p.q_norm ? r->q_norm : NULL, pos, want + k * d);
            fixture_check(OP_qk_norm_rope_store, r->where, fixture_row(r->q, row), want, h * d);
            for (size_t k = 0; k < g; k++) {
                norm_rope64(r, x + (h + k) * d, r->p.k_norm ? r->k_norm : NULL, pos, want);
                check_stored(r, true, page, (int)k, (size_t)(pos % KV_PAGE_TOKENS), want);
                for (size_t c = 0; c < d; c++)
                    want[c] = x[(h + g + k) * d + c];
                check_stored(r, false, page, (int)k, (size_t)(pos % KV_PAGE_TOKENS), want);
            }
        }
    test_free(want);
}

/* Softmax over the row's keys in FP64. KEYS, VALUES: [positions][d] as stored. Returns the largest sum of
 * |q||k| of a score: what rounding in a score is measured by. */
static double attend64(const rig *r, const float *q, const double *keys, const double *values, int pos,
                       double *out) {
    size_t d = (size_t)r->p.head_dim;
    int first = r->p.window && pos >= r->p.window ? pos - r->p.window + 1 : 0;
    double *s = test_malloc((size_t)(pos + 1) * sizeof *s), max = -INFINITY, sum = 0, size = 0;
    for (int t = first; t <= pos; t++) {
        double magnitude = 0;
        s[t] = 0;
        for (size_t i = 0; i < d; i++) {
            s[t] += q[i] * keys[(size_t)t * d + i];
            magnitude += fabs(q[i] * keys[(size_t)t * d + i]);
        }
        size = fmax(size, magnitude * (double)r->p.scale);
        s[t] *= (double)r->p.scale;
        max = s[t] > max ? s[t] : max;
    }
    memset(out, 0, d * sizeof *out);
    for (int t = first; t <= pos; t++) {
        double w = exp(s[t] - max);
        sum += w;
        for (size_t i = 0; i < d; i++)
            out[i] += w * values[(size_t)t * d + i];
    }
    for (size_t i = 0; i < d; i++)
        out[i] /= sum;
    test_free(s);
    return size;
}

static double worst_share; /* of the tolerance, so far */

/* A rounding error of a score is a relative error of its weight, so the tolerance grows with the scores. */
static void check_attention(const rig *r, const fixture_batch *f) {
    size_t h = (size_t)r->p.n_heads, g = (size_t)r->p.n_kv_heads, d = (size_t)r->p.head_dim;
    double *want = test_malloc(d * sizeof *want);
    for (int32_t s = 0; s < f->b.n_seqs; s++) {
        const batch_seq *seq = &f->seqs[s];
        size_t n = (size_t)(seq->pos + seq->n_rows);
        double *keys = test_malloc(n * d * sizeof *keys), *values = test_malloc(n * d * sizeof *values);
        for (size_t kv_head = 0; kv_head < g; kv_head++) {
            for (size_t t = 0; t < n; t++)
                for (size_t i = 0; i < d; i++) {
                    int page = seq->pages[0][t / KV_PAGE_TOKENS];
                    size_t at = t % KV_PAGE_TOKENS;
                    keys[t * d + i] = fixture_kv_at(r->kv, true, LAYER, page, (int)kv_head, at, i);
                    values[t * d + i] = fixture_kv_at(r->kv, false, LAYER, page, (int)kv_head, at, i);
                }
            for (int32_t i = 0; i < seq->n_rows; i += 1 + seq->n_rows / 16)
                for (size_t k = kv_head * (h / g); k < (kv_head + 1) * (h / g); k++) {
                    size_t row = (size_t)(seq->row + i);
                    double size =
                        attend64(r, fixture_row(r->q, row) + k * d, keys, values, seq->pos + i, want);
                    double e = fixture_error(OP_ERROR_L2, fixture_row(r->out, row) + k * d, want, d);
                    double tolerance = op_infos[OP_attention].tolerance * fmax(1, size / 8);
                    if (!(e <= tolerance))
                        fail_msg("attention, %s, row %zu, head %zu: error %g, tolerance %g", r->where, row, k,
                                 e, tolerance);
                    worst_share = fmax(worst_share, e / tolerance);
                }
        }
        test_free(keys);
        test_free(values);
    }
    test_free(want);
}

/* A prompt, then a step that mixes its continuation with the starts of others. */
static void run_case(uint32_t features, const op_shape *shape, nib_kv_dtype type, fixture_pattern pattern,
                     int prompt) {
    rig r = rig_open(features, 2, NIB_ACTIVATIONS_F32, shape, type);
    size_t width = (size_t)(shape->n_heads + 2 * shape->n_kv_heads) * (size_t)shape->head_dim;
    float *qkv = fixture_vector(MAX_ROWS * width, pattern, 3.0f, 21);
    snprintf(r.where, sizeof r.where, "%s, %s, KV %d, prompt %d, pattern %d", r.be->path, shape->name,
             (int)type, prompt, (int)pattern);
    fixture_batch *f = test_calloc(1, sizeof *f);
    fixture_add(f, 3, 0, prompt);
    rig_step(&r, f, qkv);
    check_store(&r, f, qkv);
    check_attention(&r, f);
    memset(f, 0, sizeof *f);
    fixture_add(f, 3, prompt, 1);
    fixture_add(f, 5, 0, 7);
    fixture_add(f, 1, 0, 1);
    rig_step(&r, f, qkv + 13 * width);
    check_store(&r, f, qkv + 13 * width);
    check_attention(&r, f);
    test_free(f);
    test_free(qkv);
    rig_close(&r);
}

static const nib_kv_dtype kv_types[] = {NIB_KV_BF16, NIB_KV_FP8, NIB_KV_FP32};

static void report(size_t rung) {
    print_message("rung %zu: largest error %.2f of the tolerance\n", rung, worst_share);
    worst_share = 0;
}

static void test_shapes(void **state) {
    (void)state;
    static const int prompts[] = {1, 7, 64, 513};
    for (size_t rung = 0; rung < fixture_n_rungs(); report(rung), rung++)
        for (size_t s = 0; s < OP_N_SHAPES; s++)
            for (size_t t = 0; t < 3; t++)
                for (size_t i = 0; i < (SANITIZED && t > 0 ? 3 : 4); i++)
                    if (rung > 0 || op_shapes[s].dim < 100 || prompts[i] < 64)
                        run_case(fixture_rungs[rung], &op_shapes[s], kv_types[t], PATTERN_NORMAL, prompts[i]);
}

static void test_patterns(void **state) {
    (void)state;
    for (size_t rung = 0; rung < fixture_n_rungs(); report(rung), rung++)
        for (size_t t = 0; t < 3; t++)
            for (int p = 0; p < N_PATTERNS; p++)
                run_case(fixture_rungs[rung], &op_shapes[1], kv_types[t], (fixture_pattern)p,
                         SANITIZED ? 30 : 130);
}

/* Integer attention within two percent of exact attention on normal operands: one mistake would show. */
static void test_int_mode(void **state) {
    (void)state;
    for (size_t rung = 1; rung < fixture_n_rungs(); rung++)
        for (size_t t = 0; t < 3; t++) {
            const op_shape *shape = &op_shapes[3];
            rig exact = rig_open(fixture_rungs[rung], 2, NIB_ACTIVATIONS_F32, shape, kv_types[t]);
            rig fast = rig_open(fixture_rungs[rung], 2, NIB_ACTIVATIONS_INT8, shape, kv_types[t]);
            size_t width = (size_t)(shape->n_heads + 2 * shape->n_kv_heads) * (size_t)shape->head_dim;
            size_t cols = (size_t)(shape->n_heads * shape->head_dim);
            float *qkv = fixture_vector(MAX_ROWS * width, PATTERN_NORMAL, 0, 31);
            double *want = test_malloc(cols * sizeof *want);
            fixture_batch *f = test_calloc(1, sizeof *f);
            fixture_add(f, 2, 0, 600);
            rig_step(&exact, f, qkv);
            rig_step(&fast, f, qkv);
            for (size_t row = 0; row < 600; row++) {
                for (size_t i = 0; i < cols; i++)
                    want[i] = fixture_row(exact.out, row)[i];
                double e = fixture_error(OP_ERROR_L2, fixture_row(fast.out, row), want, cols);
                if (!(e <= 0.02))
                    fail_msg("%s, KV %d, row %zu: error %g", fast.be->path, (int)kv_types[t], row, e);
            }
            test_free(f);
            test_free(want);
            test_free(qkv);
            rig_close(&exact);
            rig_close(&fast);
        }
}

/* FP8 keys are the same keys in FP32, rounded at the scale that kvscale.h finds for them and for their own
 * group's queries, and steered along these. */
static void test_fp8_keys(void **state) {
    (void)state;
    enum { ROWS = 70 };
    static float weights[ATTN_INT_MAX_DIM], along[ATTN_INT_MAX_DIM];
    for (size_t s = 0; s < OP_N_SHAPES; s++)
        for (size_t rung = 0; rung < fixture_n_rungs(); rung++) {
            const op_shape *shape = &op_shapes[s];
            size_t d = (size_t)shape->head_dim, g = (size_t)shape->n_kv_heads,
                   group = (size_t)shape->n_heads / g;
            rig exact = rig_open(fixture_rungs[rung], 2, NIB_ACTIVATIONS_F32, shape, NIB_KV_FP32);
            rig fp8 = rig_open(fixture_rungs[rung], 2, NIB_ACTIVATIONS_F32, shape, NIB_KV_FP8);
            float *qkv = fixture_vector(ROWS * (group + 2) * g * d, PATTERN_NORMAL, 0, 51);
            float *k = test_malloc(d * sizeof *k);
            fixture_batch *f = test_calloc(1, sizeof *f);
            fixture_add(f, 2, 0, ROWS);
            rig_step(&exact, f, qkv);
            rig_step(&fp8, f, qkv);
            for (size_t row = 0; row < ROWS; row++)
                for (size_t head = 0; head < g; head++) {
                    int page = f->seqs[0].pages[0][row / KV_PAGE_TOKENS];
                    size_t t = row % KV_PAGE_TOKENS;
                    for (size_t i = 0; i < d; i++)
                        k[i] = (float)fixture_kv_at(exact.kv, true, LAYER, page, (int)head, t, i);
                    const float *queries = fixture_row(exact.q, row) + head * group * d;
                    kvscale_weigh(weights, along, queries, group, d);
                    float scale = kvscale_fit(k, weights, d);
                    kvscale_steer(k, scale, weights, along, d);
                    for (size_t i = 0; i < d; i++)
                        if (fixture_kv_at(fp8.kv, true, LAYER, page, (int)head, t, i) !=
                            (double)e4m3_to_f32(e4m3_from_f32_sat(k[i] * (1.0f / scale))) * scale)
                            fail_msg("%s, %s, row %zu, head %zu: dimension %zu", fp8.be->path, shape->name,
                                     row, head, i);
                }
            test_free(f);
            test_free(k);
            test_free(qkv);
            rig_close(&exact);
            rig_close(&fp8);
        }
}

/* Attention cut by pages keeps within the room for partial results, or does without. */
static void test_partial_room(void **state) {
    (void)state;
    enum { DEPTH = 300, ROWS = 8, PAGES = (DEPTH + ROWS - 1) / KV_PAGE_TOKENS + 1 };
    op_shape shape = op_shapes[3];
    shape.window = 0;
    size_t d = (size_t)shape.head_dim, h = (size_t)shape.n_heads,
           width = (h + 2 * (size_t)shape.n_kv_heads) * d;
    size_t wanted = ROWS * h * PAGES * (d + 2), more = 4096;
    float *qkv = fixture_vector(DEPTH * width, PATTERN_NORMAL, 0, 61);
    float *first = test_malloc(ROWS * h * d * sizeof *first);
    for (size_t lack = 0; lack < 2; lack++) {
        rig r = rig_open(cpu_features(), 2, NIB_ACTIVATIONS_F32, &shape, NIB_KV_BF16);
        cpu_backend *cb = queue_backend(r.be);
        fixture_batch *f = test_calloc(1, sizeof *f);
        fixture_add(f, 2, 0, DEPTH);
        rig_step(&r, f, qkv);
        memset(f, 0, sizeof *f);
        fixture_add(f, 2, DEPTH, ROWS);
        assert_true(cb->partial_floats > wanted + more);
        cb->partial_floats = wanted - lack;
        for (size_t i = 0; i < wanted + more; i++)
            cb->partial[i] = 12345;
        rig_step(&r, f, qkv);
        size_t used = 0;
        for (size_t i = 0; i < wanted + more; i++)
            used = cb->partial[i] != 12345 ? i + 1 : used;
        assert_int_equal(used, lack ? 0 : wanted);
        for (size_t row = 0; row < ROWS && !lack; row++)
            memcpy(first + row * h * d, fixture_row(r.out, row), h * d * sizeof *first);
        for (size_t row = 0; row < ROWS; row++)
            assert_memory_equal(first + row * h * d, fixture_row(r.out, row), h * d * sizeof *first);
        test_free(f);
        rig_close(&r);
    }
    test_free(first);
    test_free(qkv);
}

enum { NAN_ROWS = 131, NAN_ROW = 70, NAN_GROUP = 1, NAN_HEAD = 4, NAN_PARTS = 3 };

/* A prompt and a step of one row; the results of both: [NAN_ROWS, heads, head_dim] */
static void attend_prompt(rig *r, const float *qkv, float *out) {
    size_t width = (size_t)(r->p.n_heads + 2 * r->p.n_kv_heads) * (size_t)r->p.head_dim;
    size_t cols = (size_t)(r->p.n_heads * r->p.head_dim);
    fixture_batch *f = test_calloc(1, sizeof *f);
    fixture_add(f, 2, 0, NAN_ROWS - 1);
    rig_step(r, f, qkv);
    for (size_t row = 0; row < NAN_ROWS - 1; row++)
        memcpy(out + row * cols, fixture_row(r->out, row), cols * sizeof *out);
    memset(f, 0, sizeof *f);
    fixture_add(f, 2, NAN_ROWS - 1, 1);
    rig_step(r, f, qkv + (NAN_ROWS - 1) * width);
    memcpy(out + (NAN_ROWS - 1) * cols, fixture_row(r->out, 0), cols * sizeof *out);
    test_free(f);
}

/* OUT, of operands with one NaN in PART (0: q, 1: k, 2: v), beside CLEAN. */
static void check_nan(const rig *r, int part, const float *out, const float *clean) {
    size_t d = (size_t)r->p.head_dim, h = (size_t)r->p.n_heads;
    for (size_t row = 0; row < NAN_ROWS; row++)
        for (size_t head = 0; head < h; head++) {
            const float *got = out + (row * h + head) * d, *want = clean + (row * h + head) * d;
            bool sees = row >= NAN_ROW && (!r->p.window || row < NAN_ROW + (size_t)r->p.window) &&
                        head / (h / (size_t)r->p.n_kv_heads) == NAN_GROUP;
            bool hit = part == 0 ? row == NAN_ROW && head == NAN_HEAD : sees, finite = true;
            for (size_t i = 0; i < d; i++)
                finite = finite && isfinite(got[i]);
            if (!hit && part == 0 && r->type == NIB_KV_FP8 && sees)
                assert_true(finite); /* the query had a say in the key's rounding */
            else if (hit ? finite : memcmp(got, want, d * sizeof *got) != 0)
                fail_msg("%s, KV %d, window %d, NaN in %c, row %zu, head %zu: %s", r->be->path, (int)r->type,
                         r->p.window, "qkv"[part], row, head, hit ? "finite" : "other bits");
        }
}

/* One NaN among the operands: seen by whom it should be, and by nobody else. */
static void test_nan(void **state) {
    (void)state;
    op_shape shape = op_shapes[2];
    size_t d = (size_t)shape.head_dim, h = (size_t)shape.n_heads, g = (size_t)shape.n_kv_heads;
    size_t width = (h + 2 * g) * d, slots[NAN_PARTS] = {NAN_HEAD, h + NAN_GROUP, h + g + NAN_GROUP};
    float *qkv = fixture_vector(NAN_ROWS * width, PATTERN_NORMAL, 0, 41);
    float *clean = test_malloc(NAN_ROWS * h * d * sizeof *clean),
          *out = test_malloc(NAN_ROWS * h * d * sizeof *out);
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++)
        for (int mode = 0; mode < 2; mode++)
            for (size_t type = 0; type < 3; type++)
                for (shape.window = 0; shape.window <= 40; shape.window += 40) {
                    rig r =
                        rig_open(fixture_rungs[rung], 2, mode ? NIB_ACTIVATIONS_INT8 : NIB_ACTIVATIONS_F32,
                                 &shape, kv_types[type]);
                    attend_prompt(&r, qkv, clean);
                    for (int part = 0; part < NAN_PARTS; part++) {
                        float *x = qkv + NAN_ROW * width + slots[part] * d + 5, was = *x;
                        *x = NAN;
                        attend_prompt(&r, qkv, out);
                        check_nan(&r, part, out, clean);
                        *x = was;
                    }
                    rig_close(&r);
                }
    test_free(out);
    test_free(clean);
    test_free(qkv);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes),       cmocka_unit_test(test_patterns),
                                       cmocka_unit_test(test_int_mode),     cmocka_unit_test(test_fp8_keys),
                                       cmocka_unit_test(test_partial_room), cmocka_unit_test(test_nan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * What each op reads, how it is called, and what FP64 says of it. Written from the formulas in ops.h; shares
 * no line with any backend.
 */
#include <math.h>

#include "ops/cases/op_rig.h"
#include "ops/cases/sample_oracle.h"

#define EPS 1e-6f

static dtype weight_format(int variant) {
    static const dtype formats[] = {DT_F32, DT_NVFP4, DT_Q8_0, DT_BF16};
    return variant == RIG_BRANCHES ? DT_NVFP4 : formats[variant % 4];
}

static const char *const format_names[] = {"f32",         "nvfp4",       "q8_0",
                                           "bf16",        "f32 + bias",  "nvfp4 + bias",
                                           "q8_0 + bias", "bf16 + bias", "nvfp4 + branches"};
static const char *const plain_names[] = {"f32"};

/* ---- embed ---- */

static nib_status embed_open(op_case *c) {
    size_t rows = RIG_VOCAB;
    c->x = op_rig_random(c, c->s.rows, OP_PATTERN_ZEROS, 0); /* the tokens are the operand */
    if (!c->x)
        return NIB_NO_MEMORY;
    NIB_TRY(op_rig_buf(c, &c->in, BUF_F32, 1));
    NIB_TRY(op_rig_buf(c, &c->out, BUF_F32, c->dim));
    return op_rig_weight(c, weight_format(c->s.variant), &rows, 1, c->dim);
}

static void embed_queue(op_case *c) {
    op_embed(c->be, c->out, c->w, 3.7f);
}

static void embed_want(op_case *c, size_t row, double *out) {
    for (size_t i = 0; i < c->dim; i++)
        out[i] = (double)c->values[(size_t)c->tokens[row] * c->dim + i] * 3.7f;
}

const op_fns op_fns_embed = {.n_variants = 4,
                             .names = format_names,
                             .format = weight_format,
                             .open = embed_open,
                             .queue = embed_queue,
                             .want = embed_want};

/* ---- norms ---- */

static nib_status norm_open(op_case *c) {
    c->x = op_rig_random(c, c->s.rows * c->dim, c->s.pattern, 1e15f);
    if (!c->x)
        return NIB_NO_MEMORY;
    NIB_TRY(op_rig_buf(c, &c->in, BUF_F32, c->dim));
    NIB_TRY(op_rig_buf(c, &c->out, c->s.op == OP_rmsnorm_add ? BUF_F32 : BUF_ACT, c->dim));
    if (c->s.op == OP_rmsnorm_add && !(c->y = op_rig_random(c, c->s.rows * c->dim, c->s.pattern, 2)))
        return NIB_NO_MEMORY;
    return op_rig_vec(c, 0, c->dim, 0.5f);
}

static void norm64(const float *x, const float *w, size_t n, float eps, double *out) {
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    double factor = 1 / sqrt(squares / (double)n + (double)eps);
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * factor * w[i];
}

static void rmsnorm_queue(op_case *c) {
    op_rmsnorm(c->be, c->out, c->in, c->v[0], EPS, NULL);
}

static void rmsnorm_want(op_case *c, size_t row, double *out) {
    norm64(c->x + row * c->dim, c->v_values[0], c->dim, EPS, out);
}

static void rmsnorm_out_queue(op_case *c) {
    op_rmsnorm_out(c->be, c->out, c->in, c->v[0], EPS, NULL);
}

static void rmsnorm_out_want(op_case *c, size_t row, double *out) {
    rmsnorm_want(c, (size_t)c->out_rows[row], out);
}

static void rmsnorm_add_queue(op_case *c) {
    op_rmsnorm_add(c->be, c->out, c->in, c->v[0], EPS);
}

static void rmsnorm_add_want(op_case *c, size_t row, double *out) {
    rmsnorm_want(c, row, out);
    for (size_t i = 0; i < c->dim; i++)
        out[i] += c->y[row * c->dim + i];
}

const op_fns op_fns_rmsnorm = {
    .n_variants = 1, .names = plain_names, .open = norm_open, .queue = rmsnorm_queue, .want = rmsnorm_want};
const op_fns op_fns_rmsnorm_out = {.n_variants = 1,
                                   .names = plain_names,
                                   .open = norm_open,
                                   .queue = rmsnorm_out_queue,
                                   .want = rmsnorm_out_want};
const op_fns op_fns_rmsnorm_add = {.n_variants = 1,
                                   .names = plain_names,
                                   .open = norm_open,
                                   .queue = rmsnorm_add_queue,
                                   .want = rmsnorm_add_want};

/* ---- caps ---- */

static nib_status softcap_open(op_case *c) {
    c->x = op_rig_random(c, c->s.rows * c->dim, c->s.pattern, 1e6f);
    if (!c->x)
        return NIB_NO_MEMORY;
    NIB_TRY(op_rig_buf(c, &c->in, BUF_F32, c->dim)); /* not read */
    c->y = c->x;
    return op_rig_buf(c, &c->out, BUF_F32, c->dim);
}

static void softcap_queue(op_case *c) {
    op_softcap(c->be, c->out, 3);
}

static void softcap_want(op_case *c, size_t row, double *out) {
    for (size_t i = 0; i < c->dim; i++)
        out[i] = 3 * tanh((double)c->x[row * c->dim + i] / 3);
}

const op_fns op_fns_softcap = {.n_variants = 1,
                               .names = plain_names,
                               .open = softcap_open,
                               .queue = softcap_queue,
                               .want = softcap_want};

/* ---- products ---- */

/* in ACT [rows, IN] times a weight of parts. */
static nib_status product_open(op_case *c, const size_t *rows, size_t n_parts, size_t in) {
    c->x = op_rig_random(c, c->s.rows * in, c->s.pattern, 1e6f);
    if (!c->x)
        return NIB_NO_MEMORY;
    NIB_TRY(op_rig_buf(c, &c->in, BUF_ACT, in));
    return op_rig_weight(c, weight_format(c->s.variant), rows, n_parts, in);
}

static nib_status open_bias(op_case *c) {
    return c->s.variant < 4 || c->s.variant == RIG_BRANCHES ? NIB_OK : op_rig_vec(c, 0, c->w->rows, 0.5f);
}

/* In eight sums, which the compiler takes side by side. Most of what the oracles do is done here, over memory
 * that the case owns: sanitizers look elsewhere. */
__attribute__((no_sanitize("address"), no_sanitize("undefined"))) static double
dot64(const op_case *c, size_t row, size_t out) {
    const size_t n = c->w->cols, whole = n - n % 8;
    const float *x = c->x + row * n, *w = c->values + out * n;
    double sums[8] = {0};
    for (size_t i = 0; i < whole; i += 8)
        for (size_t k = 0; k < 8; k++)
            sums[k] += (double)x[i + k] * w[i + k];
    for (size_t i = whole; i < n; i++)
        sums[i - whole] += (double)x[i] * w[i];
    return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

/* sqrt(sum (x w)^2): what relative errors of x, each by itself, become in the product. */
__attribute__((no_sanitize("address"), no_sanitize("undefined"))) static double
spread64(const op_case *c, size_t row, size_t out) {
    const float *x = c->x + row * c->w->cols, *w = c->values + out * c->w->cols;
    double sum = 0;
    for (size_t i = 0; i < c->w->cols; i++)
        sum += (double)x[i] * w[i] * ((double)x[i] * w[i]);
    return sqrt(sum);
}

static double product_condition(const op_case *c, size_t row, const double *want) {
    double moved = 0, size = 0;
    for (size_t o = 0; o < c->w->rows; o++) {
        const double by = spread64(c, row, o);
        moved += by * by;
        size += want[o] * want[o];
    }
    return sqrt(moved / size);
}

static nib_status matmul_open(op_case *c) {
    size_t rows[] = {c->h * c->d, c->g * c->d, c->g * c->d};
    NIB_TRY(product_open(c, rows, 3, c->dim));
    NIB_TRY(op_rig_buf(c, &c->out, BUF_F32, c->w->rows));
    return open_bias(c);
}

static void matmul_queue(op_case *c) {
    op_matmul(c->be, c->out, c->in, c->w, c->v[0]);
}

static void matmul_want(op_case *c, size_t row, double *out) {
    for (size_t o = 0; o < c->w->rows; o++)
        out[o] = dot64(c, row, o) + (c->v[0] ? (double)c->v_values[0][o] : 0);
}

static nib_status matmul_add_open(op_case *c) {
    NIB_TRY(product_open(c, &c->dim, 1, c->ffn));
    NIB_TRY(op_rig_buf(c, &c->out, BUF_F32, c->dim));
    if (!(c->y = op_rig_random(c, c->s.rows * c->dim, OP_PATTERN_NORMAL, 0)))
        return NIB_NO_MEMORY;
    return open_bias(c);
}

static void matmul_add_queue(op_case *c) {
    op_matmul_add(c->be, c->out, c->in, c->w, c->v[0]);
}

static void matmul_add_want(op_case *c, size_t row, double *out) {
    matmul_want(c, row, out);
    for (size_t o = 0; o < c->dim; o++)
        out[o] += c->y[row * c->dim + o];
}

const op_fns op_fns_matmul = {.n_variants = 9,
                              .names = format_names,
                              .format = weight_format,
                              .open = matmul_open,
                              .queue = matmul_queue,
                              .want = matmul_want,
                              .condition = product_condition};
const op_fns op_fns_matmul_add = {.n_variants = 9,
                                  .names = format_names,
                                  .format = weight_format,
                                  .open = matmul_add_open,
                                  .queue = matmul_add_queue,
                                  .want = matmul_add_want,
                                  .condition = product_condition};

/* ---- gated product: even formats through SiLU, odd ones through GELU ---- */

static const char *const glu_names[] = {"f32, silu",  "nvfp4, gelu", "q8_0, silu",
                                        "bf16, gelu", "f32, gelu",   "nvfp4, silu",
                                        "q8_0, gelu", "bf16, silu",  "nvfp4 + branches, silu"};

static glu_kind glu_of(int variant) {
    return (variant + variant / 4) % 2 ? GLU_GELU_TANH : GLU_SILU;
}

static nib_status matmul_glu_open(op_case *c) {
    size_t rows[] = {c->ffn, c->ffn};
    NIB_TRY(product_open(c, rows, 2, c->dim));
    return op_rig_buf(c, &c->out, BUF_ACT, c->ffn);
}

static void matmul_glu_queue(op_case *c) {
    op_matmul_glu(c->be, c->out, c->in, c->w, glu_of(c->s.variant), NULL);
}

static double glu64(glu_kind kind, double g, double up) {
    if (kind == GLU_SILU)
        return g / (1 + exp(-g)) * up;
    return g / (1 + exp(-2 * sqrt(2 / acos(-1)) * (g + 0.044715 * g * g * g))) * up;
}

static void matmul_glu_want(op_case *c, size_t row, double *out) {
    for (size_t o = 0; o < c->ffn; o++)
        out[o] = glu64(glu_of(c->s.variant), dot64(c, row, o), dot64(c, row, c->ffn + o));
}

/* Terms that cancel, and where GELU is steep. */
static double matmul_glu_condition(const op_case *c, size_t row, const double *want) {
    const glu_kind kind = glu_of(c->s.variant);
    double moved = 0, size = 0;
    for (size_t o = 0; o < c->ffn; o++) {
        const double g = dot64(c, row, o), up = dot64(c, row, c->ffn + o), step = 1e-5 * fmax(1, fabs(g));
        const double slope = (glu64(kind, g + step, up) - glu64(kind, g - step, up)) / (2 * step);
        const double by_gate = slope * spread64(c, row, o),
                     by_up = glu64(kind, g, 1) * spread64(c, row, c->ffn + o);
        moved += by_gate * by_gate + by_up * by_up;
        size += want[o] * want[o];
    }
    return sqrt(moved / size);
}

const op_fns op_fns_matmul_glu = {.n_variants = 9,
                                  .names = glu_names,
                                  .format = weight_format,
                                  .open = matmul_glu_open,
                                  .queue = matmul_glu_queue,
                                  .want = matmul_glu_want,
                                  .condition = matmul_glu_condition};

/* ---- attention ---- */

static const char *const kv_names[] = {
    "kv fp32",         "kv bf16",        "kv fp8",          "kv fp32, window",
    "kv bf16, window", "kv fp8, window", "kv fp32, capped", "kv fp8, keys less a mean"};
static const char *const store_names[] = {"kv fp32",
                                          "kv bf16",
                                          "kv fp8",
                                          "kv fp32, window",
                                          "kv bf16, window",
                                          "kv fp8, window",
                                          "kv fp32, queries that grow"};

static nib_kv_dtype kv_of(int variant) {
    static const nib_kv_dtype types[] = {NIB_KV_FP32, NIB_KV_BF16, NIB_KV_FP8};
    return variant == RIG_KEY_MEAN ? NIB_KV_FP8 : types[variant % 3];
}

/* A head's norm and rotation at POS. */
static void head64(const op_case *c, const float *x, const float *norm, int pos, double *out) {
    size_t n = c->d / 2;
    if (c->attn.q_norm)
        norm64(x, norm, c->d, EPS, out);
    else
        for (size_t i = 0; i < c->d; i++)
            out[i] = x[i];
    for (size_t i = 0; i < n; i++) {
        size_t a = c->attn.interleaved ? 2 * i : i, b = c->attn.interleaved ? 2 * i + 1 : i + n;
        double angle = (float)pos * c->v_values[2][i]; /* FP32 product, as in transformers */
        double xa = out[a], xb = out[b];
        out[a] = xa * cos(angle) - xb * sin(angle);
        out[b] = xb * cos(angle) + xa * sin(angle);
    }
}

static const batch_seq *seq_of(const op_case *c, size_t row) {
    const batch_seq *s = c->seqs;
    while ((int32_t)row >= s->row + s->n_rows)
        s++;
    return s;
}

static int pos_of(const op_case *c, size_t row) {
    const batch_seq *s = seq_of(c, row);
    return s->pos + (int)row - s->row;
}

/* Joined q, k and v of position POS of a sequence. */
static const float *row_at(const op_case *c, const batch_seq *s, int pos) {
    size_t width = c->in->cols, i = (size_t)(s - c->seqs);
    if (pos < s->pos)
        return c->kv_rows + (i * (size_t)c->s.depth + (size_t)pos) * width;
    return c->x + (size_t)(s->row + pos - s->pos) * width;
}

static nib_status store_open(op_case *c) {
    bool grown = c->s.variant == RIG_QUERY_LOG;
    NIB_TRY(op_rig_attention(c, kv_of(c->s.variant), c->s.variant >= 3 && !grown));
    c->attn.query_log = grown ? 0.3f : 0;
    c->attn.query_log_len = 5;
    return op_rig_buf(c, &c->out, BUF_F32, c->h * c->d);
}

static void store_queue(op_case *c) {
    op_qk_norm_rope_store(c->be, c->out, c->in, &c->attn, c->cache);
}

static void store_want(op_case *c, size_t row, double *out) {
    double factor = 1 + c->attn.query_log * log(1 + pos_of(c, row) / c->attn.query_log_len);
    for (size_t k = 0; k < c->h; k++)
        head64(c, c->x + row * c->in->cols + k * c->d, c->v_values[0], pos_of(c, row), out + k * c->d);
    for (size_t i = 0; i < c->h * c->d; i++)
        out[i] *= factor;
}

/* Attention's queries and the newest keys and values come from the op before it. */
static nib_status attention_open(op_case *c) {
    bool capped = c->s.variant == RIG_CAPPED;
    NIB_TRY(op_rig_attention(c, kv_of(c->s.variant), c->s.variant >= 3 && c->s.variant < RIG_CAPPED));
    c->attn.cap = capped ? 2 : 0;
    c->keys = op_rig_memory(c, ((size_t)c->s.depth + c->s.rows) * c->g * c->d, sizeof *c->keys);
    if (!c->keys)
        return NIB_NO_MEMORY;
    NIB_TRY(op_rig_buf(c, &c->q, BUF_F32, c->h * c->d));
    return op_rig_buf(c, &c->out, BUF_ACT, c->h * c->d);
}

static void attention_queue(op_case *c) {
    op_qk_norm_rope_store(c->be, c->q, c->in, &c->attn, c->cache);
    op_attention(c->be, c->out, c->q, &c->attn, c->cache, NULL);
}

/* Rotated keys of all positions of S: keys [positions, G, D], kept for the rows of one sequence. */
static void rotate_keys(op_case *c, const batch_seq *s) {
    for (int p = 0; p < s->pos + s->n_rows; p++)
        for (size_t k = 0; k < c->g; k++)
            head64(c, row_at(c, s, p) + (c->h + k) * c->d, c->v_values[1], p,
                   c->keys + ((size_t)p * c->g + k) * c->d);
    c->keys_of = s;
}

/* out [D] = softmax(scale * q K^T) V of one head; position by position, rescaled when the maximum grows. */
static void attend64(op_case *c, size_t row, size_t head, double *out) {
    const batch_seq *s = seq_of(c, row);
    int pos = pos_of(c, row), window = c->attn.window;
    size_t kv_head = head / (c->h / c->g);
    double q[OP_MAX_HEAD_DIM], max = -INFINITY, sum = 0;
    if (c->keys_of != s)
        rotate_keys(c, s);
    head64(c, c->x + row * c->in->cols + head * c->d, c->v_values[0], pos, q);
    for (size_t i = 0; i < c->d; i++)
        out[i] = 0;
    for (int p = window && pos >= window ? pos - window + 1 : 0; p <= pos; p++) {
        const float *v = row_at(c, s, p) + (c->h + c->g + kv_head) * c->d;
        const double *k = c->keys + ((size_t)p * c->g + kv_head) * c->d;
        double score = 0, size = 0;
        for (size_t i = 0; i < c->d; i++)
            score += q[i] * k[i], size += fabs(q[i] * k[i]);
        c->score_size = fmax(c->score_size, size * (double)c->attn.scale);
        score *= (double)c->attn.scale;
        if (c->attn.cap != 0)
            score = (double)c->attn.cap * tanh(score / (double)c->attn.cap);
        double shrink = score > max ? exp(max - score) : 1;
        max = score > max ? score : max;
        double e = exp(score - max);
        sum = sum * shrink + e;
        for (size_t i = 0; i < c->d; i++)
            out[i] = out[i] * shrink + e * v[i];
    }
    for (size_t i = 0; i < c->d; i++)
        out[i] /= sum;
}

static void attention_want(op_case *c, size_t row, double *out) {
    for (size_t k = 0; k < c->h; k++)
        attend64(c, row, k, out + k * c->d);
}

const op_fns op_fns_qk_norm_rope_store = {
    .n_variants = 7, .names = store_names, .open = store_open, .queue = store_queue, .want = store_want};
const op_fns op_fns_attention = {.n_variants = 8,
                                 .names = kv_names,
                                 .open = attention_open,
                                 .queue = attention_queue,
                                 .want = attention_want};

/* ---- sums ---- */

static nib_status sum_squares_open(op_case *c) {
    c->x = op_rig_random(c, c->s.rows * c->ffn, c->s.pattern, 1e18f);
    if (!c->x)
        return NIB_NO_MEMORY;
    NIB_TRY(op_rig_buf(c, &c->in, BUF_ACT, c->ffn));
    return c->be->vec_new(c->be, &c->v[0], VEC_F64, c->ffn, NULL, c->err);
}

static void sum_squares_queue(op_case *c) {
    op_sum_squares(c->be, c->v[0], c->in);
}

static void sum_squares_want(op_case *c, size_t row, double *out) {
    (void)row;
    for (size_t i = 0; i < c->ffn; i++) {
        out[i] = 0;
        for (size_t r = 0; r < c->s.rows; r++)
            out[i] += (double)c->x[r * c->ffn + i] * c->x[r * c->ffn + i];
    }
}

static size_t sum_squares_cols(const op_case *c) {
    return c->ffn;
}

static void sum_squares_read(op_case *c, double *got) {
    c->be->vec_read(c->be, c->v[0], got);
}

const op_fns op_fns_sum_squares = {.n_variants = 1,
                                   .names = plain_names,
                                   .open = sum_squares_open,
                                   .queue = sum_squares_queue,
                                   .want = sum_squares_want,
                                   .cols = sum_squares_cols,
                                   .read = sum_squares_read};

/* ---- sample: a row is token, log-probability, and those of the best; log-probabilities as 1 - l ---- */

enum { SAMPLE_TOP = 3, SAMPLE_HISTORY = 90, SAMPLE_PROMPT = 40, SAMPLE_BIASED = 2 };

static const char *const sample_names[] = {"greedy", "temperature", "top-k", "top-p",
                                           "min-p",  "penalties",   "bias",  "mask"};

static void set_how(sample_row *how, int variant, size_t row) {
    *how = (sample_row){.temperature = variant ? 0.8f : 0,
                        .top_k = variant == 2 ? 20 : 0,
                        .top_p = variant == 3 ? 0.9f : 0,
                        .min_p = variant == 4 ? 0.05f : 0,
                        .repeat_penalty = variant == 5 ? 1.3f : 0,
                        .presence_penalty = variant == 5 ? 0.5f : 0,
                        .frequency_penalty = variant == 5 ? 0.25f : 0,
                        .penalty_window = 64,
                        .seed = 1000 + row,
                        .position = 7 * row,
                        .n_top = SAMPLE_TOP};
}

static nib_status sample_open(op_case *c) {
    size_t words = (c->ffn + 31) / 32;
    c->x = op_rig_random(c, c->s.rows * c->ffn, c->s.pattern, 9);
    c->rows = op_rig_memory(c, c->s.rows, sizeof *c->rows);
    c->samples = op_rig_memory(c, c->s.rows, sizeof *c->samples);
    int32_t *tokens = op_rig_memory(c, SAMPLE_HISTORY, sizeof *tokens);
    token_bias *bias = op_rig_memory(c, SAMPLE_BIASED, sizeof *bias);
    uint32_t *mask = op_rig_memory(c, words, sizeof *mask);
    if (!c->x || !c->rows || !c->samples || !tokens || !bias || !mask)
        return NIB_NO_MEMORY;
    for (size_t i = 0; i < SAMPLE_HISTORY; i++)
        tokens[i] = (int32_t)(i * 7 % c->ffn);
    bias[0] = (token_bias){3, 4};
    bias[1] = (token_bias){(int32_t)c->ffn - 1, -2};
    for (size_t i = 0; i < words; i++)
        mask[i] = 0xa5a50ff0u;
    for (size_t r = 0; r < c->s.rows; r++) {
        sample_row *how = &c->rows[r];
        set_how(how, c->s.variant, r);
        how->tokens = tokens;
        how->n_tokens = SAMPLE_HISTORY;
        how->n_prompt = SAMPLE_PROMPT;
        how->bias = bias;
        how->n_bias = c->s.variant == 6 ? SAMPLE_BIASED : 0;
        how->mask = c->s.variant == 7 ? mask : NULL;
    }
    return op_rig_buf(c, &c->in, BUF_F32, c->ffn);
}

static void sample_queue(op_case *c) {
    op_sample(c->be, c->samples, c->in, c->rows);
}

static size_t sample_cols(const op_case *c) {
    (void)c;
    return 2 + 2 * SAMPLE_TOP;
}

static void write_sampled(const sampled *s, double *to) {
    *to++ = s->token;
    *to++ = 1 - (double)s->logprob;
    for (int i = 0; i < SAMPLE_TOP; i++) {
        *to++ = s->top[i].token;
        *to++ = 1 - (double)s->top[i].logprob;
    }
}

static void sample_read(op_case *c, double *got) {
    for (size_t r = 0; r < c->s.rows; r++)
        write_sampled(&c->samples[r], got + r * sample_cols(c));
}

static void sample_want(op_case *c, size_t row, double *out) {
    sampled s;
    sample_oracle(&s, c->x + row * c->ffn, c->ffn, &c->rows[row]);
    write_sampled(&s, out);
}

const op_fns op_fns_sample = {.n_variants = 8,
                              .names = sample_names,
                              .open = sample_open,
                              .queue = sample_queue,
                              .want = sample_want,
                              .cols = sample_cols,
                              .read = sample_read};

/* ---- tolerances ---- */

/* What the mode does to activations, relative L2 of a product's row. Sharp bounds of a backend's own formats,
 * against FP64 of the operands as it rounded them, stand in its own tests. */
static double mode_tolerance(const op_case *c) {
    static const double l2[] = {[COMPUTE_EXACT] = 0,
                                [COMPUTE_W4A16] = 4e-3,
                                [COMPUTE_W4A8_INT8] = 1e-2,
                                [COMPUTE_W4A8_FP8] = 6e-2,
                                [COMPUTE_W4A4] = 0.15};
    return l2[c->be->mode];
}

double op_case_tolerance(const op_case *c) {
    static const double kv_l2[] = {[NIB_KV_FP32] = 0, [NIB_KV_BF16] = 8e-3, [NIB_KV_FP8] = 8e-2};
    double most = op_infos[c->s.op].tolerance;
    bool rounds = c->s.op == OP_matmul || c->s.op == OP_matmul_add;
    if (c->s.op == OP_matmul_glu)
        return most + 2 * mode_tolerance(c); /* of two products */
    if (c->s.op != OP_attention)
        return rounds ? most + mode_tolerance(c) : most;
    /* A rounding error of a score is a relative error of its weight: they grow with the scores. */
    double rounding = kv_l2[kv_of(c->s.variant)] + mode_tolerance(c);
    return most * fmax(1, c->score_size / 8) + rounding * fmax(1, c->score_size / 3);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The sample op on the device against nouns/sampling.h written out in doubles on the host: thousands of
 * random rows of every kind of setting, whose token must be the same; errors; log-probabilities; equal
 * logits.
 */
#include "gpu_check.h"
#include "ops/plugin.h"

extern const backend_plugin nibble_plugin;

enum { VOCAB = 32003, MAX_ROWS = 64, MAX_TOKENS = 300 };

typedef struct candidate {
    float logit;
    int id;
    double weight;
} candidate;

static int by_logit(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static double uniform(uint64_t seed, uint64_t n) {
    uint64_t z = seed * 0xD1342543DE82EF95u + (n + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static void adjust(float *x, const sample_row *r) {
    for (int i = 0; i < r->n_bias; i++)
        x[r->bias[i].token] += r->bias[i].bias;
    for (int i = 0; r->mask && i < VOCAB; i++)
        if (!(r->mask[i / 32] >> i % 32 & 1))
            x[i] = -INFINITY;
    static unsigned char seen[VOCAB];
    static int counts[VOCAB];
    memset(seen, 0, sizeof seen);
    memset(counts, 0, sizeof counts);
    int from = r->n_tokens - r->penalty_window;
    for (int i = from < 0 ? 0 : from; i < r->n_tokens; i++) {
        float *v = &x[r->tokens[i]];
        if (!seen[r->tokens[i]] && r->repeat_penalty > 0)
            *v = *v > 0 ? *v / r->repeat_penalty : *v * r->repeat_penalty;
        seen[r->tokens[i]] = 1;
    }
    for (int i = r->n_prompt; i < r->n_tokens; i++)
        counts[r->tokens[i]]++;
    for (int i = 0; i < VOCAB; i++)
        if (counts[i])
            x[i] -= r->presence_penalty + r->frequency_penalty * (float)counts[i];
}

/* The token; *MARGIN: how near the draw or a cut came to a boundary, of the whole. */
static int reference(const float *logits, const sample_row *r, double *margin) {
    static float x[VOCAB];
    static candidate c[VOCAB];
    memcpy(x, logits, sizeof x);
    *margin = 1;
    for (int i = 0; i < VOCAB; i++)
        if (isnan(x[i]) || x[i] == INFINITY)
            return -1;
    adjust(x, r);
    float max = -INFINITY;
    int best = -1, n = 0;
    for (int i = 0; i < VOCAB; i++)
        if (x[i] > max)
            max = x[i], best = i;
    if (best < 0 || r->temperature <= 0)
        return best;
    double inverse = 1.0 / r->temperature;
    for (int i = 0; i < VOCAB; i++) {
        float z = (float)((x[i] - max) * inverse);
        if (x[i] > -INFINITY)
            c[n++] = (candidate){x[i], i, z < -60 ? 0 : (double)expf(z)};
    }
    int top_k = r->top_k > 0 && r->top_k < VOCAB ? r->top_k : 0;
    float top_p = r->top_p > 0 && r->top_p < 1 ? r->top_p : 0;
    float floor_logit = r->min_p > 0 ? max + r->temperature * logf(fminf(r->min_p, 1)) : -INFINITY;
    double all = 0, sum = 0;
    if (top_k || top_p > 0) {
        qsort(c, (size_t)n, sizeof *c, by_logit);
        n = top_k && n > top_k ? top_k : n;
        for (int i = 0; i < n; i++)
            all += c[i].weight;
        for (int i = 0; i < n && top_p > 0; i++) {
            sum += c[i].weight;
            *margin = fmin(*margin, fabs(sum - top_p * all) / all);
            if (sum >= top_p * all)
                n = i + 1;
        }
        while (n > 1 && c[n - 1].logit < floor_logit)
            n--;
    } else {
        int kept = 0;
        for (int i = 0; i < n; i++)
            if (c[i].logit >= floor_logit)
                c[kept++] = c[i];
        n = kept;
    }
    double total = 0, u = uniform(r->seed, r->position);
    for (int i = 0; i < n; i++)
        total += c[i].weight;
    sum = 0;
    for (int i = 0; i < n; i++) {
        sum += c[i].weight;
        *margin = fmin(*margin, fabs(sum - u * total) / total);
        if (u * total < sum)
            return c[i].id;
    }
    return c[n - 1].id;
}

static float pick(const float *list, int n) {
    return list[rnd() % (uint32_t)n];
}

static sample_row random_row(int32_t *tokens, token_bias *bias, uint32_t *mask) {
    static const float temperatures[] = {0, 0.01f, 0.7f, 1, 1.5f, 5}, ps[] = {0, 0.1f, 0.5f, 0.9f, 0.999f, 1};
    static const float mins[] = {0, 0, 0.05f, 1}, repeat[] = {0, 1, 1.1f, 1.5f},
                       others[] = {0, 0, 0.5f, -0.3f};
    static const int ks[] = {0, 0, 1, 5, 40, 1000, VOCAB + 5};
    sample_row r = {.temperature = pick(temperatures, 6),
                    .top_k = ks[rnd() % 7],
                    .top_p = pick(ps, 6),
                    .min_p = pick(mins, 4),
                    .repeat_penalty = pick(repeat, 4),
                    .presence_penalty = pick(others, 4),
                    .frequency_penalty = pick(others, 4),
                    .penalty_window = 64,
                    .tokens = tokens,
                    .n_tokens = (int32_t)(rnd() % MAX_TOKENS),
                    .seed = rnd(),
                    .position = rnd() % 100,
                    .n_top = -1};
    r.n_prompt = r.n_tokens ? (int32_t)(rnd() % (uint32_t)r.n_tokens) : 0;
    for (int i = 0; i < r.n_tokens; i++)
        tokens[i] = (int32_t)(rnd() % (rnd() % 2 ? 50 : VOCAB));
    if (rnd() % 3 == 0) {
        r.n_bias = 1 + (int32_t)(rnd() % 5);
        for (int i = 0; i < r.n_bias; i++)
            bias[i] = (token_bias){(int32_t)(rnd() % 1000) + 1000 * i, rnd_uniform() * 10};
        r.bias = bias;
    }
    if (rnd() % 3 == 0) {
        for (int i = 0; i < (VOCAB + 31) / 32; i++)
            mask[i] = rnd() & rnd();
        r.mask = mask;
    }
    return r;
}

int main(void) {
    backend *be;
    buf *logits;
    nib_error err = {""};
    if (nibble_plugin.open(&be, &(device_options){.mode = COMPUTE_EXACT}, &err) != NIB_OK ||
        be->buf_new(be, &logits, BUF_F32, SPLIT_NONE, MAX_ROWS, VOCAB, &err) != NIB_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    float *x = malloc(sizeof(float) * MAX_ROWS * VOCAB);
    static int32_t tokens[MAX_ROWS][MAX_TOKENS];
    static token_bias bias[MAX_ROWS][5];
    static uint32_t masks[MAX_ROWS][(VOCAB + 31) / 32];
    sample_row rows[MAX_ROWS];
    sampled out[MAX_ROWS];
    batch_seq seq = {.n_rows = 1, .n_pages = 1};
    int32_t token = 0, page = 0, near = 0, n = 0;
    for (int g = 0; g < CACHE_MAX_GROUPS; g++)
        seq.pages[g] = &page;
    batch b = {.tokens = &token, .n_rows = 1, .seqs = &seq, .n_seqs = 1, .out_rows = &token, .n_out = 1};
    for (int round = 0; round < 30; round++) {
        float spread = round % 3 == 0 ? 0.02f : round % 3 == 1 ? 1.0f : 4.0f;
        for (size_t i = 0; i < (size_t)MAX_ROWS * VOCAB; i++)
            x[i] = round % 5 == 4 ? (float)(rnd() % 7) : rnd_normal() * spread;
        for (int r = 0; r < MAX_ROWS; r++)
            rows[r] = random_row(tokens[r], bias[r], masks[r]);
        if (round == 0) {
            x[5] = NAN, x[VOCAB + 7] = INFINITY, x[2 * VOCAB + 9] = -INFINITY;
            memset(masks[3], 0, sizeof masks[3]);
            rows[3].mask = masks[3];
        }
        for (int r = 0; r < MAX_ROWS && round % 4 == 1; r++)
            rows[r].n_top = r % 3 == 0 ? 0 : 20;
        be->buf_write(be, logits, x, MAX_ROWS, NULL);
        be->batch = &b;
        be->step_begin(be, &b, 0);
        be->op.sample(be, out, logits, rows);
        be->step_submit(be);
        if (be->step_wait(be, &err) != NIB_OK) {
            printf("%s\n", err.text);
            return 1;
        }
        for (int r = 0; r < MAX_ROWS; r++, n++) {
            double margin, lse = 0, most = -INFINITY;
            const float *l = x + (size_t)r * VOCAB;
            int want = reference(l, &rows[r], &margin);
            check_n++;
            if (want != out[r].token && margin < 1e-6) {
                near++;
            } else if (want != out[r].token) {
                check_failed++;
                printf(
                    "WRONG token %d, expected %d: row %d of round %d, T %g k %d p %g min %g, margin %.1e\n",
                    out[r].token, want, r, round, (double)rows[r].temperature, rows[r].top_k,
                    (double)rows[r].top_p, (double)rows[r].min_p, margin);
            }
            if (rows[r].n_top < 0 || want < 0)
                continue;
            for (int i = 0; i < VOCAB; i++)
                most = fmax(most, l[i]);
            for (int i = 0; i < VOCAB; i++)
                lse += exp(l[i] - most);
            lse = most + log(lse);
            check_error("logprob", fabs(out[r].logprob - (l[want] - lse)), 2e-5);
            check_error("n_top", out[r].n_top == rows[r].n_top ? 0 : 1, 0);
            for (int i = 0; i < out[r].n_top; i++) {
                int rank = 0, id = out[r].top[i].token;
                for (int j = 0; j < VOCAB; j++)
                    rank += l[j] > l[id] || (l[j] == l[id] && j < id);
                check_error("rank of an alternative", rank == i ? 0 : 1, 0);
                check_error("its logprob", fabs(out[r].top[i].logprob - (l[id] - lse)), 2e-5);
            }
        }
    }
    printf("sampler: %d rows, %d within 1e-6 of a boundary and other; %d checks, %d wrong\n", n, near,
           check_n, check_failed);
    be->close(be);
    return check_failed > 0;
}

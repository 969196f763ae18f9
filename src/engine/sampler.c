/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling without sorting. Logits fall into BUCKETS equal steps between the largest and the smallest, a
 * monotone map, so that the k largest (or the head that holds probability p) lie in a run of buckets from the
 * top; that run alone is gathered and sorted.
 */
#include "engine/sampler.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

enum { BUCKETS = 4096, LANES = 32 };

typedef struct candidate {
    float logit;
    int32_t id;
    double weight; /* exp((logit - max) / temperature) */
} candidate;

struct sampler {
    int vocab;
    float *logits;         /* [vocab] after the penalty */
    candidate *candidates; /* [vocab] */
    int counts[BUCKETS];
    double weights[BUCKETS];
};

nib_status sampler_open(sampler **out, int vocab, nib_error *err) {
    assert(vocab > 0);
    sampler *s = mem_array(1, sizeof *s);
    if (s) {
        s->vocab = vocab;
        s->logits = mem_array((size_t)vocab, sizeof *s->logits);
        s->candidates = mem_array((size_t)vocab, sizeof *s->candidates);
    }
    *out = s;
    if (s && s->logits && s->candidates)
        return NIB_OK;
    sampler_close(s);
    *out = NULL;
    return nib_fail(err, NIB_NO_MEMORY, "no memory to sample from %d tokens", vocab);
}

void sampler_close(sampler *s) {
    if (!s)
        return;
    mem_free(s->logits);
    mem_free(s->candidates);
    mem_free(s);
}

/* Largest and smallest; false when any of them is no finite number. Independent lanes: compilers vectorize
 * them. x - x is 0 for finite x and NaN otherwise, so the sums tell. */
static bool find_range(const float *x, int n, float *max, float *min) {
    float hi[LANES], lo[LANES], odd[LANES] = {0};
    for (int j = 0; j < LANES; j++)
        hi[j] = lo[j] = x[0];
    int i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++) {
            float v = x[i + j];
            hi[j] = v > hi[j] ? v : hi[j];
            lo[j] = v < lo[j] ? v : lo[j];
            odd[j] += v - v;
        }
    for (; i < n; i++) {
        hi[0] = x[i] > hi[0] ? x[i] : hi[0];
        lo[0] = x[i] < lo[0] ? x[i] : lo[0];
        odd[0] += x[i] - x[i];
    }
    for (int j = 1; j < LANES; j++) {
        hi[0] = hi[j] > hi[0] ? hi[j] : hi[0];
        lo[0] = lo[j] < lo[0] ? lo[j] : lo[0];
        odd[0] += odd[j];
    }
    *max = hi[0];
    *min = lo[0];
    return odd[0] == 0;
}

/* VALUE is there. Whole blocks are passed over by a loop that compilers vectorize. */
static int32_t first_equal(const float *x, int n, float value) {
    enum { BLOCK = 64 };
    int32_t i = 0;
    for (; i + BLOCK <= n; i += BLOCK) {
        int found = 0;
        for (int j = 0; j < BLOCK; j++)
            found |= x[i + j] == value;
        if (found)
            break;
    }
    while (x[i] != value)
        i++;
    return i;
}

/* Each token of the last SAMPLER_PENALTY_WINDOW is made less likely, once however often it stands there. */
static void penalize(sampler *s, float penalty, const int32_t *tokens, int n_tokens) {
    int first = n_tokens > SAMPLER_PENALTY_WINDOW ? n_tokens - SAMPLER_PENALTY_WINDOW : 0;
    for (int i = first; i < n_tokens; i++) {
        bool seen = false;
        for (int j = first; j < i && !seen; j++)
            seen = tokens[j] == tokens[i];
        float *logit = &s->logits[tokens[i]];
        if (!seen)
            *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
    }
}

/* A uniform number in [0, 1) from (seed, n): splitmix64's finalizer over a Weyl sequence. */
static double uniform(uint64_t seed, uint64_t n) {
    uint64_t z = seed * 0xD1342543DE82EF95u + (n + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* ---- the head of the distribution ---- */

typedef struct scale {
    float max;
    float per_logit; /* buckets per unit of logit */
    double per_temperature;
} scale;

static int bucket_of(const scale *c, float logit) {
    return (int)((c->max - logit) * c->per_logit);
}

static double weight_of(const scale *c, float logit) {
    float z = (float)((logit - c->max) * c->per_temperature);
    return z < -60 ? 0 : (double)expf(z); /* 1e-26: below the last bit of any sum here */
}

/* The last bucket of the head: K tokens and, where top-p alone decides, the probability P. */
static int head_end(sampler *s, const scale *c, int top_k, float top_p) {
    memset(s->counts, 0, sizeof s->counts);
    memset(s->weights, 0, sizeof s->weights);
    double total = 0;
    for (int i = 0; i < s->vocab; i++) {
        int b = bucket_of(c, s->logits[i]);
        s->counts[b]++;
        if (top_k == 0)
            s->weights[b] += weight_of(c, s->logits[i]);
    }
    for (int b = 0; b < BUCKETS; b++)
        total += s->weights[b];
    int n = 0, b = 0;
    double sum = 0;
    for (; b < BUCKETS - 1; b++) {
        n += s->counts[b];
        sum += s->weights[b];
        if (top_k > 0 ? n >= top_k : sum >= top_p * total)
            break;
    }
    return b;
}

static int by_logit(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->id > y->id) - (x->id < y->id);
}

static int gather(sampler *s, const scale *c, int last_bucket, float floor_logit) {
    int n = 0;
    for (int i = 0; i < s->vocab; i++) {
        float logit = s->logits[i];
        if (logit >= floor_logit && bucket_of(c, logit) <= last_bucket)
            s->candidates[n++] = (candidate){.logit = logit, .id = i, .weight = weight_of(c, logit)};
    }
    return n;
}

/* Sorted candidates are cut at K, then where their weights reach P of the whole. */
static int cut(const sampler *s, int n, int top_k, float top_p, double all) {
    if (top_k > 0 && n > top_k)
        n = top_k;
    if (top_p == 0)
        return n;
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++)
        total += s->candidates[i].weight;
    if (top_k == 0)
        total = all;
    for (int i = 0; i < n; i++) {
        sum += s->candidates[i].weight;
        if (sum >= top_p * total)
            return i + 1;
    }
    return n;
}

static int32_t draw(const sampler *s, int n, double u) {
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++)
        total += s->candidates[i].weight;
    for (int i = 0; i < n - 1; i++) {
        sum += s->candidates[i].weight;
        if (u * total < sum)
            return s->candidates[i].id;
    }
    return s->candidates[n - 1].id;
}

int32_t sampler_pick(sampler *s, const nib_sampling *how, const float *logits, const int32_t *tokens,
                     int n_tokens, uint64_t n_drawn) {
    float max, min;
    bool penalty = how->repeat_penalty > 0 && how->repeat_penalty != 1;
    if (how->temperature <= 0 && !penalty)
        return find_range(logits, s->vocab, &max, &min) ? first_equal(logits, s->vocab, max) : -1;
    memcpy(s->logits, logits, (size_t)s->vocab * sizeof *logits);
    if (penalty)
        penalize(s, how->repeat_penalty, tokens, n_tokens);
    if (!find_range(s->logits, s->vocab, &max, &min) || !isfinite(max - min))
        return -1;
    if (how->temperature <= 0)
        return first_equal(s->logits, s->vocab, max);

    int top_k = how->top_k > 0 && how->top_k < s->vocab ? how->top_k : 0;
    float top_p = how->top_p > 0 && how->top_p < 1 ? how->top_p : 0;
    /* One step below BUCKETS, so that the smallest logit still has a bucket after rounding. */
    float spread = max - min;
    scale c = {.max = max,
               .per_logit = spread > 1e-30f ? (BUCKETS - 1) / spread : 0,
               .per_temperature = 1.0 / how->temperature};
    int n, last = BUCKETS;
    float floor_logit = how->min_p > 0 ? max + how->temperature * logf(fminf(how->min_p, 1)) : min;
    if (top_k == 0 && top_p == 0) {
        n = gather(s, &c, last, floor_logit);
    } else {
        last = head_end(s, &c, top_k, top_p);
        double all = 0;
        for (int b = 0; b < BUCKETS; b++)
            all += s->weights[b];
        n = gather(s, &c, last, min);
        qsort(s->candidates, (size_t)n, sizeof *s->candidates, by_logit);
        n = cut(s, n, top_k, top_p, all);
        while (n > 1 && s->candidates[n - 1].logit < floor_logit)
            n--;
    }
    return draw(s, n, uniform(how->seed, n_drawn));
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling without sorting the vocabulary. One pass finds the largest logit of every block of 64; whatever
 * comes then looks only into blocks that can matter: those above the K-th largest block (top-k), above
 * min-p's floor, or within 60 temperatures of the largest (what lies below has no weight at all). Top-p alone
 * needs the whole sum: a histogram of that range tells where the head ends. The candidates left make a heap,
 * from which they are taken in order until the settings are met.
 */
#include "cpu/sample.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { BLOCK = 64, LANES = 16, BUCKETS = 4096 };

#define NO_WEIGHT (-60.0f) /* exp of it, 1e-26, is below the last bit of any sum here */

typedef struct candidate {
    float logit, weight; /* weight = exp((logit - max) / temperature) */
    int32_t id;
} candidate;

/* The scratch, in this order. */
typedef struct work {
    const float *logits; /* [vocab] the row's, or CHANGED */
    size_t vocab, n_blocks;
    float max;
    double per_temperature;
    float *changed;   /* [vocab] logits after bias, mask and penalties */
    float *block_max; /* [n_blocks] */
    int32_t *counts;  /* [BUCKETS] */
    double *weights;  /* [BUCKETS] */
    union {
        candidate *candidates; /* [vocab] */
        uint32_t *seen;        /* [vocab] how often a token stands there */
        float *weight;         /* [vocab] */
    };
} work;

static size_t align_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

size_t sample_scratch_bytes(size_t vocab) {
    return align_up(vocab * sizeof(float)) + align_up((vocab / BLOCK + 1) * sizeof(float)) +
           align_up(BUCKETS * sizeof(int32_t)) + align_up(BUCKETS * sizeof(double)) +
           align_up(vocab * sizeof(candidate));
}

static void lay_out(work *w, const float *logits, size_t vocab, void *scratch) {
    char *p = scratch;
    *w = (work){.logits = logits, .vocab = vocab, .n_blocks = (vocab + BLOCK - 1) / BLOCK};
    w->changed = (float *)p;
    p += align_up(vocab * sizeof(float));
    w->block_max = (float *)p;
    p += align_up((vocab / BLOCK + 1) * sizeof(float));
    w->counts = (int32_t *)p;
    p += align_up(BUCKETS * sizeof(int32_t));
    w->weights = (double *)p;
    p += align_up(BUCKETS * sizeof(double));
    w->candidates = (candidate *)p;
}

/* ---- the largest ---- */

static inline size_t block_end(const work *w, size_t block) {
    size_t end = (block + 1) * BLOCK;
    return end < w->vocab ? end : w->vocab;
}

/* block_max and max; false where there is a NaN, or the largest is no finite number. Lanes apart: compilers
 * vectorize them. */
static bool scan(work *w) {
    float max = -INFINITY;
    int32_t odd[LANES] = {0}, any = 0;
    for (size_t b = 0; b < w->n_blocks; b++) {
        const float *x = w->logits + b * BLOCK;
        size_t n = block_end(w, b) - b * BLOCK, i = 0;
        float hi[LANES], top = -INFINITY;
        for (int j = 0; j < LANES; j++)
            hi[j] = -INFINITY;
        for (; i + LANES <= n; i += LANES)
            for (int j = 0; j < LANES; j++) {
                hi[j] = x[i + (size_t)j] > hi[j] ? x[i + (size_t)j] : hi[j];
                odd[j] |= x[i + (size_t)j] != x[i + (size_t)j];
            }
        for (; i < n; i++) {
            top = x[i] > top ? x[i] : top;
            any |= x[i] != x[i];
        }
        for (int j = 0; j < LANES; j++)
            top = hi[j] > top ? hi[j] : top;
        w->block_max[b] = top;
        max = top > max ? top : max;
    }
    for (int j = 0; j < LANES; j++)
        any |= odd[j];
    w->max = max;
    return !any && isfinite(max);
}

static int32_t first_largest(const work *w) {
    size_t b = 0;
    while (w->block_max[b] != w->max)
        b++;
    size_t i = b * BLOCK;
    while (w->logits[i] != w->max)
        i++;
    return (int32_t)i;
}

/* ---- what the network gave ---- */

static double log_sum_exp(const work *w) {
    double sum = 0;
    for (size_t i = 0; i < w->vocab; i++)
        sum += (double)expf(w->logits[i] - w->max);
    return (double)w->max + log(sum);
}

static void find_top(const work *w, int32_t n, double log_sum, sampled *out) {
    token_logprob *top = out->top;
    for (size_t b = 0; b < w->n_blocks; b++) {
        if (out->n_top == n && w->block_max[b] <= top[n - 1].logprob)
            continue;
        for (size_t i = b * BLOCK; i < block_end(w, b); i++) {
            float logit = w->logits[i];
            if (out->n_top == n && logit <= top[n - 1].logprob)
                continue;
            int32_t at = out->n_top < n ? out->n_top++ : n - 1;
            for (; at > 0 && top[at - 1].logprob < logit; at--)
                top[at] = top[at - 1];
            top[at] = (token_logprob){(int32_t)i, logit};
        }
    }
    for (int32_t i = 0; i < out->n_top; i++)
        top[i].logprob = (float)((double)top[i].logprob - log_sum);
}

/* ---- bias, mask, penalties ---- */

static bool is_penalty(float repeat_penalty) {
    return repeat_penalty > 0 && repeat_penalty != 1;
}

static void mask_out(work *w, const uint32_t *mask) {
    for (size_t i = 0; i < w->vocab; i += 32) {
        uint32_t allowed = mask[i / 32];
        if (allowed == UINT32_MAX)
            continue;
        for (size_t j = i; j < i + 32 && j < w->vocab; j++, allowed >>= 1)
            if (!(allowed & 1))
                w->changed[j] = -INFINITY;
    }
}

/* Each token of the window is made less likely, once however often it stands there. */
static void penalize_repeats(work *w, const sample_row *how) {
    int32_t first = how->n_tokens > how->penalty_window ? how->n_tokens - how->penalty_window : 0;
    for (int32_t i = first; i < how->n_tokens; i++)
        w->seen[how->tokens[i]] = 0;
    for (int32_t i = first; i < how->n_tokens; i++) {
        float *logit = &w->changed[how->tokens[i]];
        if (w->seen[how->tokens[i]]++ == 0)
            *logit = *logit > 0 ? *logit / how->repeat_penalty : *logit * how->repeat_penalty;
    }
}

static void penalize_presence(work *w, const sample_row *how) {
    for (int32_t i = how->n_prompt; i < how->n_tokens; i++)
        w->seen[how->tokens[i]] = 0;
    for (int32_t i = how->n_prompt; i < how->n_tokens; i++)
        w->seen[how->tokens[i]]++;
    for (int32_t i = how->n_prompt; i < how->n_tokens; i++) {
        uint32_t *n = &w->seen[how->tokens[i]];
        if (*n > 0)
            w->changed[how->tokens[i]] -= how->presence_penalty + how->frequency_penalty * (float)*n;
        *n = 0;
    }
}

/* False where nothing is to be changed. */
static bool change(work *w, const sample_row *how) {
    bool repeats = is_penalty(how->repeat_penalty);
    bool presence = how->presence_penalty != 0 || how->frequency_penalty != 0;
    if (how->n_bias == 0 && !how->mask && !repeats && !presence)
        return false;
    memcpy(w->changed, w->logits, w->vocab * sizeof *w->changed);
    for (int32_t i = 0; i < how->n_bias; i++)
        w->changed[how->bias[i].token] += how->bias[i].bias;
    if (how->mask)
        mask_out(w, how->mask);
    if (repeats)
        penalize_repeats(w, how);
    if (presence)
        penalize_presence(w, how);
    w->logits = w->changed;
    return true;
}

/* ---- the draw ---- */

static float weight_of(const work *w, float logit) {
    float z = (float)((logit - w->max) * w->per_temperature);
    return z < NO_WEIGHT ? 0 : expf(z);
}

/* Among all tokens of at least FLOOR_LOGIT, in the order of their ids. */
static int32_t draw_unsorted(work *w, float floor_logit, double u) {
    double total = 0, sum = 0;
    int32_t last = first_largest(w);
    for (size_t b = 0; b < w->n_blocks; b++)
        for (size_t i = b * BLOCK; w->block_max[b] >= floor_logit && i < block_end(w, b); i++) {
            w->weight[i] = w->logits[i] >= floor_logit ? weight_of(w, w->logits[i]) : 0;
            total += (double)w->weight[i];
        }
    for (size_t b = 0; b < w->n_blocks; b++)
        for (size_t i = b * BLOCK; w->block_max[b] >= floor_logit && i < block_end(w, b); i++) {
            if (w->weight[i] == 0)
                continue;
            sum += (double)w->weight[i];
            last = (int32_t)i;
            if (u * total < sum)
                return last;
        }
    return last; /* the sum's last bit */
}

/* ---- the head of the distribution ---- */

/* [floor, max] in equal steps, a monotone map. */
typedef struct scale {
    float max, floor;
    double per_logit;
} scale;

static scale scale_of(float max, float floor_logit) {
    double spread = (double)max - (double)floor_logit;
    return (scale){max, floor_logit, spread > 1e-30 ? (BUCKETS - 1) / spread : 0};
}

static int bucket_of(const scale *c, float logit) {
    return (int)(((double)c->max - (double)logit) * c->per_logit);
}

/* A floor above which K logits lie at least: that of the K blocks with the largest ones. */
static float floor_of_top(work *w, size_t k, float floor_logit) {
    scale c = scale_of(w->max, floor_logit);
    size_t n = 0;
    int last = 0;
    memset(w->counts, 0, BUCKETS * sizeof *w->counts);
    for (size_t b = 0; b < w->n_blocks; b++)
        if (w->block_max[b] >= floor_logit)
            w->counts[bucket_of(&c, w->block_max[b])]++;
    for (; last < BUCKETS && (n += (size_t)w->counts[last]) < k; last++)
        ;
    if (n < k)
        return floor_logit;
    float least = w->max;
    for (size_t b = 0; b < w->n_blocks; b++) {
        float top = w->block_max[b];
        if (top >= floor_logit && top < least && bucket_of(&c, top) <= last)
            least = top;
    }
    return least;
}

/* The last bucket of the head that holds the probability P; *total is the weight of all. */
static int end_of_head(work *w, const scale *c, float top_p, double *total) {
    memset(w->weights, 0, BUCKETS * sizeof *w->weights);
    for (size_t b = 0; b < w->n_blocks; b++)
        for (size_t i = b * BLOCK; w->block_max[b] >= c->floor && i < block_end(w, b); i++)
            if (w->logits[i] >= c->floor)
                w->weights[bucket_of(c, w->logits[i])] += (double)weight_of(w, w->logits[i]);
    double sum = 0;
    int last = 0;
    *total = 0;
    for (int b = 0; b < BUCKETS; b++)
        *total += w->weights[b];
    for (; last < BUCKETS - 1 && (sum += w->weights[last]) < (double)top_p * *total; last++)
        ;
    return last;
}

static size_t gather(work *w, const scale *c, int last_bucket) {
    size_t n = 0;
    for (size_t b = 0; b < w->n_blocks; b++)
        for (size_t i = b * BLOCK; w->block_max[b] >= c->floor && i < block_end(w, b); i++) {
            float logit = w->logits[i];
            if (logit >= c->floor && bucket_of(c, logit) <= last_bucket)
                w->candidates[n++] = (candidate){logit, weight_of(w, logit), (int32_t)i};
        }
    return n;
}

static bool is_before(const candidate *a, const candidate *b) {
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static void sift_down(candidate *heap, size_t n, size_t at) {
    candidate x = heap[at];
    for (size_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!is_before(&heap[child], &x))
            break;
        heap[at] = heap[child];
    }
    heap[at] = x;
}

static void make_heap(candidate *heap, size_t n) {
    for (size_t i = n / 2; i-- > 0;)
        sift_down(heap, n, i);
}

/* The first of the N goes to the end, behind what is left of the heap. */
static const candidate *take_first(candidate *heap, size_t n) {
    candidate first = heap[0];
    heap[0] = heap[n - 1];
    sift_down(heap, n - 1, 0);
    heap[n - 1] = first;
    return &heap[n - 1];
}

/* The most probable that the settings leave, in that order: *order[0], then downwards in memory. TOTAL is the
 * weight that top-p is a part of, where top-k does not choose. */
static size_t choose(work *w, size_t n, size_t top_k, float top_p, double total, const candidate **order) {
    candidate *heap = w->candidates;
    size_t n_kept = 0, most = top_k > 0 && top_k < n ? top_k : n;
    double sum = 0, of_top_k = 0;
    make_heap(heap, n);
    *order = &heap[n - 1];
    while (n_kept < most) {
        sum += (double)take_first(heap, n - n_kept)->weight;
        n_kept++;
        if (top_k == 0 && sum >= (double)top_p * total)
            break;
    }
    if (top_k == 0 || top_p == 0)
        return n_kept;
    of_top_k = sum;
    sum = 0;
    for (size_t i = 0; i < n_kept; i++) {
        sum += (double)(*order - i)->weight;
        if (sum >= (double)top_p * of_top_k)
            return i + 1;
    }
    return n_kept;
}

static int32_t draw_sorted(const candidate *order, size_t n, double u) {
    double total = 0, sum = 0;
    for (size_t i = 0; i < n; i++)
        total += (double)order[-(ptrdiff_t)i].weight;
    for (size_t i = 0; i + 1 < n; i++) {
        sum += (double)order[-(ptrdiff_t)i].weight;
        if (u * total < sum)
            return order[-(ptrdiff_t)i].id;
    }
    return order[-(ptrdiff_t)(n - 1)].id;
}

static int32_t draw(work *w, const sample_row *how) {
    size_t top_k = how->top_k > 0 && (size_t)how->top_k < w->vocab ? (size_t)how->top_k : 0;
    float top_p = how->top_p > 0 && how->top_p < 1 ? how->top_p : 0, t = how->temperature;
    double u = sample_uniform(how->seed, how->position), total = 0;
    float lowest = fmaxf(w->max + 1.01f * NO_WEIGHT * t, -FLT_MAX); /* below it nothing has any weight */
    float min_p = how->min_p > 0 ? w->max + t * logf(fminf(how->min_p, 1)) : lowest;
    w->per_temperature = 1.0 / (double)t;
    if (top_k == 0 && top_p == 0)
        return draw_unsorted(w, fmaxf(min_p, lowest), u);
    scale c = scale_of(w->max, top_k > 0 && top_k <= w->n_blocks ? floor_of_top(w, top_k, lowest) : lowest);
    int last = top_k > 0 ? BUCKETS : end_of_head(w, &c, top_p, &total);
    const candidate *order;
    size_t n = choose(w, gather(w, &c, last), top_k, top_p, total, &order);
    while (n > 1 && order[-(ptrdiff_t)(n - 1)].logit < min_p)
        n--;
    return draw_sorted(order, n, u);
}

void sample_pick(sampled *out, const float *logits, size_t vocab, const sample_row *how, void *scratch) {
    work w;
    double log_sum = 0;
    assert(vocab > 0 && how->n_top <= SAMPLE_MAX_TOP);
    lay_out(&w, logits, vocab, scratch);
    *out = (sampled){.token = -1};
    if (!scan(&w))
        return;
    if (how->n_top >= 0)
        log_sum = log_sum_exp(&w);
    if (how->n_top > 0)
        find_top(&w, how->n_top, log_sum, out);
    if (change(&w, how) && !scan(&w))
        return;
    out->token = how->temperature > 0 ? draw(&w, how) : first_largest(&w);
    if (how->n_top >= 0)
        out->logprob = (float)((double)logits[out->token] - log_sum);
}

/* ---- the op ---- */

static void run_sample(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb;
    for (size_t r = begin; r < end; r++)
        sample_pick(&op->sampled[r], act_row(op->in, r), op->in->head.cols, &op->sample_rows[r], scratch);
}

void sample_tokens(backend *be, sampled *out, const buf *logits, const sample_row *rows) {
    queue_push(queue_backend(be), &(cpu_op){.run = run_sample,
                                            .kind = CPU_OP_SAMPLE,
                                            .units = logits->rows,
                                            .bytes = logits->rows * logits->cols * 4,
                                            .in = (const act *)logits,
                                            .sampled = out,
                                            .sample_rows = rows});
}

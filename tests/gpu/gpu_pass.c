/* SPDX-License-Identifier: Apache-2.0
 *
 * One row and two rows through all layers in one launch (cuda/pass.h) against the same row computed by a
 * kernel an op: the row between twins, other sequences with the same text, is a batch of three, which is
 * never a pass. A row of two is the row alone, bit for bit where attention cuts its keys alike. Contexts on
 * both sides of every cut of attention, each several times, by a graph and without one.
 */
#include "gpu_check.h"
#include "model/network.h"
#include "ops/plugin.h"
#include "store/shape_file.h"

extern const backend_plugin nibble_plugin;

enum { CHUNK = 512, LONGEST = 5000, PAGES = 80, LAYERS = 3, WIDEST = 8192, SEQS = 7, ALIKE = 1500 };

static model_file *shape;
static int32_t pages[SEQS][PAGES], tokens[LONGEST + 1];
static size_t vocab;

static void die(const char *what, const nib_error *err) {
    printf("WRONG %s: %s\n", what, err->text);
    exit(1);
}

typedef struct spot {
    int seq, pos;
} spot;

/* ROWS rows of each of N sequences, from where AT has them; the last row's logits of each into OUT, TURNED
 * the last sequence's first. */
static void forward(model *m, const spot *at, int n, int rows, bool turned, float *out) {
    static int32_t ids[3 * CHUNK];
    batch_seq s[3];
    int32_t last[3];
    const float *logits;
    nib_error err = {""};
    for (int i = 0; i < n; i++) {
        s[i] = (batch_seq){.pages = CACHE_EVERY_GROUP(pages[at[i].seq]),
                           .n_pages = PAGES,
                           .row = i * rows,
                           .n_rows = rows,
                           .pos = at[i].pos};
        last[turned ? n - 1 - i : i] = (i + 1) * rows - 1;
        memcpy(ids + i * rows, tokens + at[i].pos, (size_t)rows * sizeof *ids);
    }
    batch b = {.tokens = ids, .n_rows = n * rows, .seqs = s, .n_seqs = n, .out_rows = last, .n_out = n};
    if (model_forward(m, &b, &logits, &err) != NIB_OK)
        die("a step", &err);
    memcpy(out, logits, (size_t)n * vocab * sizeof *out);
}

static double relative(const float *a, const float *b) {
    double e = 0, s = 0;
    for (size_t i = 0; i < vocab; i++) {
        e += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(e / s);
}

/* Weights of the norms, others for each. */
static void vary_norms(void) {
    static float values[2 * WIDEST];
    tensor *tensors = (tensor *)(uintptr_t)shape->tensors;
    for (int i = 0; i < 2 * WIDEST; i++)
        values[i] = (shape->hp.norm_plus_one ? -0.5f : 0.5f) + (float)(i * 37 % 101) / 101;
    for (size_t i = 0; i < shape->n_tensors; i++)
        if (tensors[i].rows == 1)
            tensors[i].data = (const uint8_t *)(values + i * 64 % WIDEST);
}

/* The first LAYERS of shape NAME, which a pass takes all, or of the smallest shape none; of those with
 * windows the second sees everything. Whether a pass of two rows takes them: not where halves are normed
 * behind. */
static bool open_shape(backend **be, model **m, const char *name, nib_kv_dtype kv, bool eager) {
    nib_error err = {""};
    if (shape_file_open(&shape, name, &err) != NIB_OK)
        die("a shape", &err);
    shape->hp.n_layers = LAYERS;
    shape->hp.local[1] = false;
    vary_norms();
    vocab = (size_t)shape->hp.vocab;
    model_limits limits = {
        .max_rows = 2 * CHUNK, .max_out = 3, .n_pages = CACHE_EVERY_GROUP(SEQS * PAGES), .kv_dtype = kv};
    if (nibble_plugin.open(be, &(device_options){.mode = COMPUTE_W4A16, .eager = eager}, &err) != NIB_OK ||
        model_open(m, shape, *be, &limits, NULL, &err) != NIB_OK)
        die("opening", &err);
    const bool hopper = strstr((*be)->path, "sm_90,"), all = strstr((*be)->path, "3 of 3 layers"),
               some = strstr((*be)->path, "layers in one launch"),
               two = strstr((*be)->path, "one row or two: 3 of 3");
    const bool taken = hopper && strcmp(name, "smollm2-135m") != 0,
               paired = taken && strcmp(name, "gemma3-27b") != 0;
    check_error((*be)->path, (taken ? all : !some) && two == paired ? 0 : 1, 0);
    return paired;
}

static void close_shape(backend *be, model *m) {
    model_close(m);
    be->close(be);
    model_file_close(shape);
}

typedef struct tried {
    model *m;
    bool paired;                               /* a pass takes two rows */
    double bound, worst;                       /* of errors */
    int at, before;                            /* where the worst was; the context before this one, or -1 */
    float *alone, *again, *few, *late, *first; /* logits: [vocab], [vocab], [3, vocab], [2, vocab], [vocab] */
} tried;

/* Every sequence gets the keys of positions FROM to TO, each by the same kernels: their caches are equal. */
static void read_prompt(tried *t, int from, int to, int n_seqs, int first_seq) {
    for (int rows; from < to; from += rows) {
        rows = to - from < CHUNK ? to - from : CHUNK;
        for (int i = first_seq; i < first_seq + n_seqs; i++)
            forward(t->m, &(spot){i, from}, 1, rows, false, t->again);
    }
}

static void check_row(tried *t, const char *what, const float *got, const float *want, bool same, int pos) {
    if (same) {
        check_equal(what, got, want, vocab * sizeof *got);
        return;
    }
    const double e = relative(got, want);
    t->at = e > t->worst ? pos : t->at;
    t->worst = e > t->worst ? e : t->worst;
    check_error(what, e, t->bound);
}

/* One row and two of a context of POS keys, each three times: the third is a replay. */
static void try_context(tried *t, int pos) {
    const spot three[] = {{3, pos}, {4, pos}, {5, pos}}, two[] = {{1, pos}, {2, pos}};
    for (int i = 0; i < 3; i++) {
        forward(t->m, &(spot){0, pos}, 1, 1, false, i == 0 ? t->alone : t->again);
        if (i > 0)
            check_equal("a pass repeated", t->alone, t->again, vocab * sizeof *t->alone);
    }
    forward(t->m, three, 3, 1, false, t->few);
    check_row(t, "a pass", t->alone, t->few, false, pos);
    check_error("the twin", relative(t->few + vocab, t->few), 1e-6);
    for (int i = 0; i < 3; i++) {
        forward(t->m, two, 2, 1, false, t->few);
        check_row(t, "the first row of two", t->few, t->alone, t->paired && pos < ALIKE, pos);
        check_row(t, "the second row of two", t->few + vocab, t->few, t->paired, pos);
    }
}

/* The row at POS beside one of another sequence, whose keys end where the context before did, in both orders
 * of what comes out. */
static void try_uneven(tried *t, int pos) {
    const spot two[] = {{6, t->before}, {1, pos}};
    for (int i = 0; i < 3; i++) {
        forward(t->m, two, 2, 1, false, t->late);
        check_row(t, "a row beside a longer one", t->late, t->first, t->paired && t->before < ALIKE, pos);
        check_row(t, "a row beside a shorter one", t->late + vocab, t->few, t->paired, pos);
    }
    for (int i = 0; i < 3; i++) {
        forward(t->m, two, 2, 1, true, t->late);
        check_row(t, "the longer row first", t->late, t->few, false, pos);
        check_row(t, "the shorter row last", t->late + vocab, t->first, false, pos);
    }
}

/* SCALED: the checkpoint has scales for its cache, other ones in each layer. */
static void run(const char *name, nib_kv_dtype kv, bool eager, bool scaled, int longest) {
    static const int contexts[] = {0, 1, 63, 255, 510, 511, 512, 513, 700, 1023, 2048, 4095, LONGEST};
    backend *be;
    tried t = {.bound = kv == NIB_KV_FP8 ? 6e-2 : 3e-2, .before = -1}; /* FP8: a key's scale may be another */
    t.paired = open_shape(&be, &t.m, name, kv, eager);
    for (int i = 0; scaled && i < LAYERS; i++) {
        t.m->w.layers[i].attn.k_scale = 0.02f + 0.01f * (float)i;
        t.m->w.layers[i].attn.v_scale = 0.03f - 0.01f * (float)i;
    }
    float *all = malloc(8 * vocab * sizeof *all);
    t.alone = all, t.again = all + vocab, t.first = all + 2 * vocab, t.few = all + 3 * vocab,
    t.late = all + 6 * vocab;
    int have = 0, late = 0;
    for (size_t c = 0; c < sizeof contexts / sizeof *contexts && contexts[c] <= longest; c++) {
        const int pos = contexts[c];
        read_prompt(&t, have, pos, 6, 0);
        have = pos;
        try_context(&t, pos);
        if (t.before >= 0) {
            read_prompt(&t, late, t.before, 1, 6);
            late = t.before;
            try_uneven(&t, pos);
        }
        memcpy(t.first, t.alone, vocab * sizeof *t.first);
        t.before = pos;
    }
    printf("%-14s cache %s%s, %s: %.1e at most, context %d\n", name, kv == NIB_KV_FP8 ? "fp8" : "bf16",
           scaled ? " with scales" : "", eager ? "eager" : "graphs", t.worst, t.at);
    free(all);
    close_shape(be, t.m);
}

/* "short": what a sanitizer has the patience for. */
int main(int argc, char **argv) {
    const bool brief = argc > 1 && strcmp(argv[1], "short") == 0;
    static const char *const shapes[] = {"qwen3-8b", "llama3-8b", "gemma3-27b", "llama3-1b"};
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i <= LONGEST; i++)
        tokens[i] = (i * 7919 + 13) % 32000;
    for (int s = 0; s < SEQS; s++)
        for (int i = 0; i < PAGES; i++)
            pages[s][i] = (i * 7 % PAGES) * SEQS + s;
    for (size_t i = brief ? 3 : 0; i < sizeof shapes / sizeof *shapes; i++) {
        run(shapes[i], NIB_KV_FP8, i == 1, false, brief ? 513 : LONGEST);
        run(shapes[i], NIB_KV_BF16, i != 1, false, brief ? 63 : LONGEST);
    }
    run("llama3-1b", NIB_KV_FP8, true, true, 513);
    run("smollm2-135m", NIB_KV_FP8, false, false, 63);
    printf("pass: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * One row through all layers in one launch (cuda/pass.h) against the same row computed by a kernel an op: the
 * row beside its twin, another sequence with the same text, is a batch of two, which is never a pass.
 * Contexts on both sides of every cut of attention, each twice, by a graph and without one.
 */
#include "gpu_check.h"
#include "model/network.h"
#include "ops/plugin.h"
#include "store/shape_file.h"

extern const backend_plugin nibble_plugin;

enum { CHUNK = 512, LONGEST = 5000, PAGES = 80, LAYERS = 3, WIDEST = 8192 };

static model_file *shape;
static int32_t pages[3][PAGES], tokens[LONGEST + 1];
static size_t vocab;

static void die(const char *what, const nib_error *err) {
    printf("WRONG %s: %s\n", what, err->text);
    exit(1);
}

/* ROWS rows of each of N sequences from FIRST on, at POS; the last row's logits of each into OUT. */
static void forward(model *m, int first, int n, int pos, int rows, float *out) {
    static int32_t ids[2 * CHUNK];
    batch_seq s[2];
    int32_t last[2];
    const float *logits;
    nib_error err = {""};
    for (int i = 0; i < n; i++) {
        s[i] = (batch_seq){.pages = CACHE_EVERY_GROUP(pages[first + i]),
                           .n_pages = PAGES,
                           .row = i * rows,
                           .n_rows = rows,
                           .pos = pos};
        last[i] = (i + 1) * rows - 1;
        memcpy(ids + i * rows, tokens + pos, (size_t)rows * sizeof *ids);
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

/* The first LAYERS of shape NAME, which a pass takes all; of those with windows the second sees everything.
 */
static void open_shape(backend **be, model **m, const char *name, nib_kv_dtype kv, bool eager) {
    nib_error err = {""};
    if (shape_file_open(&shape, name, &err) != NIB_OK)
        die("a shape", &err);
    shape->hp.n_layers = LAYERS;
    shape->hp.local[1] = false;
    vary_norms();
    vocab = (size_t)shape->hp.vocab;
    model_limits limits = {
        .max_rows = 2 * CHUNK, .max_out = 2, .n_pages = CACHE_EVERY_GROUP(3 * PAGES), .kv_dtype = kv};
    if (nibble_plugin.open(be, &(device_options){.mode = COMPUTE_W4A16, .eager = eager}, &err) != NIB_OK ||
        model_open(m, shape, *be, &limits, NULL, &err) != NIB_OK)
        die("opening", &err);
    const bool hopper = strstr((*be)->path, "sm_90,"), all = strstr((*be)->path, "3 of 3 layers"),
               some = strstr((*be)->path, "layers in one launch");
    check_error((*be)->path, (hopper ? all : !some) ? 0 : 1, 0);
}

static void close_shape(backend *be, model *m) {
    model_close(m);
    be->close(be);
    model_file_close(shape);
}

/* SCALED: the checkpoint has scales for its cache, other ones in each layer. */
static void run(const char *name, nib_kv_dtype kv, bool eager, bool scaled, int longest) {
    static const int contexts[] = {0, 1, 63, 255, 510, 511, 512, 513, 700, 1023, 2048, 4095, LONGEST};
    backend *be;
    model *m;
    double worst = 0;
    open_shape(&be, &m, name, kv, eager);
    for (int i = 0; scaled && i < LAYERS; i++) {
        m->w.layers[i].attn.k_scale = 0.02f + 0.01f * (float)i;
        m->w.layers[i].attn.v_scale = 0.03f - 0.01f * (float)i;
    }
    float *alone = malloc(vocab * sizeof *alone), *again = malloc(vocab * sizeof *again),
          *both = malloc(2 * vocab * sizeof *both);
    int have = 0, at = 0;
    for (size_t c = 0; c < sizeof contexts / sizeof *contexts && contexts[c] <= longest; c++) {
        const int pos = contexts[c];
        for (; have < pos; have += pos - have < CHUNK ? pos - have : CHUNK) {
            const int rows = pos - have < CHUNK ? pos - have : CHUNK;
            forward(m, 0, 1, have, rows,
                    again); /* each sequence by the same kernels: their caches are equal */
            forward(m, 1, 1, have, rows, again);
            forward(m, 2, 1, have, rows, again);
        }
        forward(m, 1, 2, pos, 1, both);
        for (int i = 0; i < 3; i++) { /* the third is a replay */
            forward(m, 0, 1, pos, 1, i == 0 ? alone : again);
            if (i > 0)
                check_equal("a pass repeated", alone, again, vocab * sizeof *alone);
        }
        const double e = relative(alone, both);
        at = e > worst ? pos : at;
        worst = e > worst ? e : worst;
        check_error("a pass", e, kv == NIB_KV_FP8 ? 6e-2 : 3e-2); /* FP8: a key's scale may be another */
        check_error("the twin", relative(both + vocab, both), 1e-6);
    }
    printf("%-14s cache %s%s, %s: %.1e at most, context %d\n", name, kv == NIB_KV_FP8 ? "fp8" : "bf16",
           scaled ? " with scales" : "", eager ? "eager" : "graphs", worst, at);
    free(alone), free(again), free(both);
    close_shape(be, m);
}

/* "short": what a sanitizer has the patience for. */
int main(int argc, char **argv) {
    const bool brief = argc > 1 && strcmp(argv[1], "short") == 0;
    static const char *const shapes[] = {"qwen3-8b", "llama3-8b", "gemma3-27b", "smollm2-135m"};
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 0; i <= LONGEST; i++)
        tokens[i] = (i * 7919 + 13) % 32000;
    for (int s = 0; s < 3; s++)
        for (int i = 0; i < PAGES; i++)
            pages[s][i] = (i * 7 % PAGES) * 3 + s;
    for (size_t i = brief ? 3 : 0; i < sizeof shapes / sizeof *shapes; i++) {
        run(shapes[i], NIB_KV_FP8, i == 1, false, brief ? 513 : LONGEST);
        run(shapes[i], NIB_KV_BF16, i != 1, false, brief ? 63 : LONGEST);
    }
    run("smollm2-135m", NIB_KV_FP8, true, true, 513);
    printf("pass: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * A network of SmolLM2-135M's shape with random NVFP4 weights, on the GPU in each mode and cache against the
 * CPU's exact mode: logits and what a reader of them would notice; without low-rank branches and with. Then
 * what a mode promises of itself: the same bits in a repeated step and in a replayed CUDA graph, and a row of
 * a batch near the row alone. Then two layers of Qwen3-8B's shape in steps of as many rows as were asked for,
 * on both sides of every change of kernel: scratch is as large as they need, and the last row is as the exact
 * mode has it. Then block scales below 1 / 8, as files without tensor scales have them: the bits of 256 times
 * as large ones under a tensor scale as much smaller.
 */
#include "cpu/cpu.h"
#include "gpu_check.h"
#include "model/model.h"
#include "num/bf16.h"
#include "num/nvfp4.h"
#include "ops/plugin.h"
#include "store/shape_file.h"

extern const backend_plugin nibble_plugin;

enum { TOKENS = 160, SEQS = 5, PAGES = 4 * SEQS };

typedef struct network {
    backend *be;
    model *m;
    size_t vocab;
} network;

static model_file *shape;
static int32_t tokens[TOKENS], page_lists[SEQS][4];

static void die(const char *what, const nib_error *err) {
    printf("WRONG %s: %s\n", what, err->text);
    exit(1);
}

static network open_network(backend *be, nib_kv_dtype kv) {
    nib_error err = {""};
    network n = {.be = be, .vocab = (size_t)shape->hp.vocab};
    model_limits limits = {
        .max_rows = TOKENS, .max_out = TOKENS, .n_pages = CACHE_EVERY_GROUP(PAGES), .kv_dtype = kv};
    if (model_open(&n.m, shape, be, &limits, NULL, &err) != NIB_OK)
        die("opening the network", &err);
    return n;
}

static network open_gpu(compute_mode mode, nib_kv_dtype kv, bool eager) {
    backend *be;
    nib_error err = {""};
    if (nibble_plugin.open(&be, &(device_options){.mode = mode, .eager = eager}, &err) != NIB_OK)
        die("opening the GPU", &err);
    return open_network(be, kv);
}

static void close_network(network *n) {
    model_close(n->m);
    n->be->close(n->be);
}

/* Beside all matrices but the embedding and every fourth. All share their numbers, as a shape's codes do. */
static void add_branches(void) {
    enum { RANK = 24, WIDEST = 160000 };
    static uint16_t *numbers;
    tensor *tensors = (tensor *)(uintptr_t)shape->tensors;
    if (!numbers) {
        numbers = malloc((size_t)RANK * WIDEST * sizeof *numbers);
        for (size_t i = 0; i < (size_t)RANK * WIDEST; i++)
            numbers[i] = bf16_from_f32(rnd_normal());
    }
    for (size_t i = 0; i < shape->n_tensors; i++)
        if (tensors[i].block_scales && tensors[i].place.slot != SLOT_EMBED && i % 4 != 0)
            tensors[i].branch =
                (tensor_branch){RANK, numbers, numbers + 7, 0.3f / sqrtf((float)(RANK * tensors[i].cols))};
}

/* Logits [rows, vocab] of tokens [pos, pos + rows) of sequence SEQ, into OUT. */
static void forward(network *n, int seq, int pos, int rows, float *out) {
    int32_t out_rows[TOKENS];
    const float *logits;
    nib_error err = {""};
    for (int i = 0; i < rows; i++)
        out_rows[i] = i;
    batch_seq s = {.pages = CACHE_EVERY_GROUP(page_lists[seq]), .n_pages = 4, .n_rows = rows, .pos = pos};
    batch b = {
        .tokens = tokens + pos, .n_rows = rows, .seqs = &s, .n_seqs = 1, .out_rows = out_rows, .n_out = rows};
    if (model_forward(n->m, &b, &logits, &err) != NIB_OK)
        die("a step", &err);
    memcpy(out, logits, (size_t)rows * n->vocab * sizeof *out);
}

/* One token of each sequence at position POS, in one batch. */
static void forward_together(network *n, int pos, float *out) {
    batch_seq s[SEQS];
    int32_t rows[SEQS], ids[SEQS];
    const float *logits;
    nib_error err = {""};
    for (int i = 0; i < SEQS; i++) {
        s[i] = (batch_seq){
            .pages = CACHE_EVERY_GROUP(page_lists[i]), .n_pages = 4, .row = i, .n_rows = 1, .pos = pos};
        rows[i] = i;
        ids[i] = tokens[pos];
    }
    batch b = {.tokens = ids, .n_rows = SEQS, .seqs = s, .n_seqs = SEQS, .out_rows = rows, .n_out = SEQS};
    if (model_forward(n->m, &b, &logits, &err) != NIB_OK)
        die("a step", &err);
    memcpy(out, logits, SEQS * n->vocab * sizeof *out);
}

static double relative(const float *a, const float *b, size_t n) {
    double e = 0, s = 0;
    for (size_t i = 0; i < n; i++) {
        e += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        s += (double)b[i] * b[i];
    }
    return sqrt(e / s);
}

static double log_sum(const float *x, size_t n) {
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n; i++)
        max = fmax(max, x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* KL divergence of the distributions, mean over rows; *same: rows whose largest logit is the same token's. */
static double divergence(const float *got, const float *base, size_t rows, size_t vocab, int *same) {
    double all = 0;
    *same = 0;
    for (size_t r = 0; r < rows; r++, got += vocab, base += vocab) {
        double lp = log_sum(base, vocab), lq = log_sum(got, vocab);
        size_t a = 0, b = 0;
        for (size_t i = 0; i < vocab; i++) {
            all += exp(base[i] - lp) * ((base[i] - lp) - (got[i] - lq));
            a = base[i] > base[a] ? i : a;
            b = got[i] > got[b] ? i : b;
        }
        *same += a == b;
    }
    return all / (double)rows;
}

static void compare(const char *what, compute_mode mode, nib_kv_dtype kv, const float *base, double l2,
                    double kld) {
    network n = open_gpu(mode, kv, false);
    float *got = malloc(TOKENS * n.vocab * sizeof *got);
    int same;
    forward(&n, 0, 0, TOKENS, got);
    double e = relative(got, base, TOKENS * n.vocab), d = divergence(got, base, TOKENS, n.vocab, &same);
    for (int i = 0; i < TOKENS - 2;
         i++) /* token by token, in another sequence; the last by a replayed graph */
        forward(&n, 1, i, 1, got);
    double by_one = relative(got, base + (TOKENS - 3) * n.vocab, n.vocab);
    printf("%-28s prompt %.1e, token by token %.1e, KLD %.1e, the same best token %d of %d\n", what, e,
           by_one, d, same, TOKENS);
    check_error(what, e, l2);
    check_error("token by token", by_one, 2 * l2);
    check_error("divergence", d, kld);
    free(got);
    close_network(&n);
}

static void promises(compute_mode mode, nib_kv_dtype kv) {
    network graph = open_gpu(mode, kv, false), eager = open_gpu(mode, kv, true);
    float *a = malloc(SEQS * graph.vocab * sizeof *a), *b = malloc(TOKENS * graph.vocab * sizeof *b);
    double worst = 0;
    for (int i = 0; i < SEQS; i++) {
        forward(&graph, i, 0, 70, b);
        forward(&eager, i, 0, 70, b);
    }
    for (int pos = 70; pos < 80; pos++) { /* the third such step is a replay */
        forward_together(&graph, pos, a);
        forward_together(&eager, pos, b);
        check_equal("a replayed graph", a, b, SEQS * graph.vocab * sizeof *a);
        forward_together(&graph, pos, b);
        check_equal("a repeated step", a, b, SEQS * graph.vocab * sizeof *a);
    }
    forward(&eager, 3, 79, 1, b);
    worst = relative(b, a + 3 * graph.vocab, graph.vocab);
    printf("%s: a row alone and in a batch of %d differ by %.1e\n", compute_mode_name(mode), SEQS, worst);
    check_error("a row alone", worst, mode == COMPUTE_EXACT ? 1e-5 : 2e-2);
    free(a), free(b);
    close_network(&graph), close_network(&eager);
}

static network open_large(compute_mode mode, int rows) {
    backend *be;
    nib_error err = {""};
    network n;
    model_limits limits = {
        .max_rows = rows, .max_out = 1, .n_pages = CACHE_EVERY_GROUP(PAGES), .kv_dtype = NIB_KV_BF16};
    if (nibble_plugin.open(&be, &(device_options){.mode = mode, .eager = true}, &err) != NIB_OK ||
        model_open(&n.m, shape, be, &limits, NULL, &err) != NIB_OK)
        die("opening a large network", &err);
    n.be = be, n.vocab = (size_t)shape->hp.vocab;
    return n;
}

/* The last row's logits of a prompt of ROWS. */
static void read_prompt(network *n, int rows, float *out) {
    int32_t list[PAGES], ids[64 * PAGES], last = rows - 1;
    const float *logits;
    nib_error err = {""};
    for (int i = 0; i < PAGES; i++)
        list[i] = PAGES - 1 - i;
    for (int i = 0; i < rows; i++)
        ids[i] = (i * 7919 + 13) % 32000;
    batch_seq s = {.pages = CACHE_EVERY_GROUP(list), .n_pages = PAGES, .n_rows = rows};
    batch b = {.tokens = ids, .n_rows = rows, .seqs = &s, .n_seqs = 1, .out_rows = &last, .n_out = 1};
    if (model_forward(n->m, &b, &logits, &err) != NIB_OK)
        die("a step of as many rows as there is room for", &err);
    memcpy(out, logits, n->vocab * sizeof *out);
}

static void every_size(bool branches) {
    static const int sizes[] = {2, 16, 17, 32, 33, 50, 64, 65, 128, 129, 200, 256, 257, 513};
    static const struct {
        compute_mode mode;
        double most;
    } modes[] = {{COMPUTE_W4A16, 4e-2}, {COMPUTE_W4A8_FP8, 3e-1}, {COMPUTE_W4A4, 8e-1}};
    nib_error err = {""};
    double worst[3] = {0};
    if (shape_file_open(&shape, "qwen3-8b", &err) != NIB_OK)
        die("a shape", &err);
    shape->hp.n_layers = 2;
    if (branches)
        add_branches();
    network exact = open_large(COMPUTE_EXACT, 513);
    float *base = malloc(exact.vocab * sizeof *base), *got = malloc(exact.vocab * sizeof *got);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        read_prompt(&exact, sizes[i], base);
        for (int k = 0; k < 3; k++) {
            network n = open_large(modes[k].mode, sizes[i]);
            read_prompt(&n, sizes[i], got);
            const double e = relative(got, base, n.vocab);
            worst[k] = fmax(worst[k], e);
            check_error("a prompt as long as there is room for", e, modes[k].most);
            close_network(&n);
        }
    }
    printf("prompts of 2 to 513, 2 layers of qwen3-8b%s: %.1e (w4a16), %.1e (w4a8), %.1e (w4a4) at most\n",
           branches ? " with branches" : "", worst[0], worst[1], worst[2]);
    free(base), free(got);
    close_network(&exact);
    model_file_close(shape);
}

/* The same weights twice: under small block scales, and under those times 2^DOUBLED. */
static void small_scales(void) {
    enum { DOUBLED = 8 };
    static const compute_mode modes[] = {COMPUTE_W4A16, COMPUTE_W4A8_FP8};
    nib_error err = {""};
    size_t most = 0;
    if (shape_file_open(&shape, "smollm2-135m", &err) != NIB_OK)
        die("a shape", &err);
    shape->hp.n_layers = 2;
    tensor *tensors = (tensor *)(uintptr_t)shape->tensors;
    for (size_t i = 0; i < shape->n_tensors; i++) {
        const size_t n = tensors[i].block_scales ? tensors[i].rows * tensors[i].cols : 0;
        most = n > most ? n : most;
    }
    uint8_t *scales[2] = {malloc(most / 16), malloc(most / 16)};
    for (size_t i = 0; i < most / 16; i++) {
        scales[0][i] = (uint8_t)(1 + rnd() % 31); /* 2^-9 to 0.12 */
        scales[1][i] = nvfp4_doubled(scales[0][i], DOUBLED);
    }
    const size_t n_logits = TOKENS * (size_t)shape->hp.vocab;
    float *got[2] = {malloc(n_logits * sizeof(float)), malloc(n_logits * sizeof(float))};
    for (int m = 0; m < 2; m++) {
        for (int large = 0; large < 2; large++) {
            for (size_t i = 0; i < shape->n_tensors; i++)
                if (tensors[i].block_scales) {
                    tensors[i].block_scales = scales[large];
                    tensors[i].tensor_scale =
                        ldexpf(1 / sqrtf((float)tensors[i].cols), large ? 4 - DOUBLED : 4);
                }
            network n = open_gpu(modes[m], NIB_KV_BF16, true);
            forward(&n, 0, 0, TOKENS, got[large]);
            close_network(&n);
        }
        check_equal("small block scales", got[0], got[1], n_logits * sizeof(float));
    }
    for (int i = 0; i < 2; i++)
        free(scales[i]), free(got[i]);
    model_file_close(shape);
}

static void against_cpu(bool branches) {
    backend *cpu;
    nib_error err = {""};
    if (shape_file_open(&shape, "smollm2-135m", &err) != NIB_OK ||
        cpu_open(&cpu, &(cpu_options){.activations = NIB_ACTIVATIONS_F32}, &err) != NIB_OK)
        die("opening the CPU", &err);
    if (branches) {
        add_branches();
        printf("with low-rank branches:\n");
    }
    for (int i = 0; i < TOKENS; i++)
        tokens[i] = (i * 7919 + 13) % shape->hp.vocab;
    network host = open_network(cpu, NIB_KV_FP32);
    float *base = malloc(TOKENS * host.vocab * sizeof *base);
    forward(&host, 0, 0, TOKENS, base);
    close_network(&host);
    compare("exact, cache fp32", COMPUTE_EXACT, NIB_KV_FP32, base, 2e-3, 1e-4);
    compare("exact, cache bf16", COMPUTE_EXACT, NIB_KV_BF16, base, 2e-2, 1e-3);
    compare("w4a16, cache bf16", COMPUTE_W4A16, NIB_KV_BF16, base, 4e-2, 2e-3);
    compare("w4a16, cache fp8", COMPUTE_W4A16, NIB_KV_FP8, base, 1e-1, 1e-2);
    compare("w4a8-fp8, cache fp8", COMPUTE_W4A8_FP8, NIB_KV_FP8, base, 3e-1, 1e-1);
    promises(COMPUTE_EXACT, NIB_KV_FP32);
    promises(COMPUTE_W4A16, NIB_KV_FP8);
    promises(COMPUTE_W4A8_FP8, NIB_KV_BF16);
    free(base);
    model_file_close(shape);
}

int main(void) {
    for (int i = 0; i < PAGES; i++)
        page_lists[i % SEQS][i / SEQS] = i;
    for (int branches = 0; branches < 2; branches++) {
        against_cpu(branches);
        every_size(branches);
    }
    small_scales();
    printf("network: %d checks, %d wrong\n", check_n, check_failed);
    return check_failed > 0;
}

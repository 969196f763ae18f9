/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory plan against sums done by hand: an 8B network fits everywhere, 70B not on 24 GB, and the words
 * say by how much.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/fit.h"

enum { MAX_TENSORS = 16 };

typedef struct made {
    model_file f;
    tensor t[MAX_TENSORS];
} made;

static void add(made *m, slot s, size_t rows, size_t cols, dtype type) {
    size_t bytes = 0;
    assert_true(dtype_bytes(type, rows * cols, &bytes));
    m->t[m->f.n_tensors++] = (tensor){.place = place_of(s, place_is_in_layer(s) ? 0 : -1),
                                      .dtype = type,
                                      .rows = rows,
                                      .cols = cols,
                                      .bytes = bytes,
                                      .block_scales = type == DT_NVFP4 ? (const uint8_t *)"" : NULL,
                                      .tensor_scale = 1};
    m->f.tensors = m->t;
}

/* A network of N layers in few tensors: as many elements as its layers have stand in one. */
static void make(made *m, int layers, int dim, int ffn, int heads, int kv_heads, int vocab) {
    memset(m, 0, sizeof *m);
    m->f.hp = (hparams){.n_layers = layers,
                        .dim = dim,
                        .ffn_dim = ffn,
                        .n_heads = heads,
                        .n_kv_heads = kv_heads,
                        .head_dim = 128,
                        .vocab = vocab,
                        .context_len = 131072};
    size_t d = (size_t)dim, each = (size_t)(2 * heads + 2 * kv_heads) * 128 + 3 * (size_t)ffn;
    add(m, SLOT_EMBED, (size_t)vocab, d, DT_BF16);
    add(m, SLOT_HEAD, (size_t)vocab, d, DT_NVFP4);
    add(m, SLOT_Q, each * (size_t)layers, d, DT_NVFP4);
    add(m, SLOT_NONE, 4096, 4096, DT_F32); /* carried along: not loaded */
}

static const fit_card *card(const char *name) {
    for (int i = 0; i < FIT_N_CARDS; i++)
        if (strcmp(fit_cards[i].name, name) == 0)
            return &fit_cards[i];
    fail_msg("no card %s", name);
    return NULL;
}

static void test_8b(void **state) {
    (void)state;
    made m;
    fit_options o = {.max_model_len = 16384};
    fit_plan p;
    char text[256];
    make(&m, 36, 4096, 12288, 32, 8, 151936);
    fit_needs(&m.f, &o, &p);
    double linear = 36.0 * ((2 * 32 + 2 * 8) * 128 + 3 * 12288) * 4096, head = 151936.0 * 4096;
    assert_true(p.token > (linear + head) * 0.5625 && p.token < (linear + head) * 0.5625 + 1e3);
    assert_true(p.weights == p.token + head * 2);
    assert_true(p.kv_page == 64 * 36 * 8 * 2.0 * (128 + 4)); /* FP8 is the default */
    assert_true(p.kv_one == p.kv_page * 256);
    fit_on(&p, &o, card("RTX 4090"));
    assert_true(p.usable == 24e9 * 0.9 && p.kv_tokens > 100000 && p.kv_tokens % 64 == 0);
    assert_true(p.tokens_per_s > 235 && p.tokens_per_s < 240); /* 1008 GB/s over 4.26 GB */
    assert_true(p.tokens_per_s_full < p.tokens_per_s);
    fit_words(&p, &o, text, sizeof text);
    assert_non_null(strstr(text, "fits: "));
}

static void test_70b(void **state) {
    (void)state;
    made m;
    fit_options o = {0};
    fit_plan p;
    char text[256];
    make(&m, 80, 8192, 28672, 64, 8, 128256);
    fit_needs(&m.f, &o, &p);
    assert_int_equal(o.max_model_len, 4096);
    fit_on(&p, &o, card("RTX 4090"));
    assert_true(p.kv < 0 && p.kv_tokens == 0);
    fit_words(&p, &o, text, sizeof text);
    assert_non_null(strstr(text, "does not fit: weights, activations and context take 4"));
    assert_non_null(strstr(text, "of 21.6 usable"));
    fit_on(&p, &o, card("H100"));
    assert_true(p.kv > p.kv_one);
    o.max_model_len = 131072; /* a cache of one sequence of 21.6 GB, in BF16 of 42 */
    o.kv_dtype = NIB_KV_BF16;
    fit_needs(&m.f, &o, &p);
    fit_on(&p, &o, card("H100"));
    fit_words(&p, &o, text, sizeof text);
    assert_non_null(strstr(text, "no sequence of 131072 tokens fits: "));
}

/* Local layers keep their window and a page. */
static void test_windows(void **state) {
    (void)state;
    made m;
    fit_options o = {.max_model_len = 8192};
    fit_plan p;
    make(&m, 6, 1024, 4096, 8, 4, 1000);
    m.f.hp.sliding_window = 1024;
    for (int i = 0; i < 5; i++)
        m.f.hp.local[i] = true;
    fit_needs(&m.f, &o, &p);
    double row = 2.0 * 4 * (128 + 4);
    assert_true(p.kv_one == row * (5 * (1024 + 64) + 8192));
}

/* A low-rank branch is two BF16 matrices more, read for each token, and what lies between them. */
static void test_branches(void **state) {
    (void)state;
    made m;
    fit_options o = {.max_num_batched_tokens = 512};
    fit_plan without, with;
    make(&m, 36, 4096, 12288, 32, 8, 151936);
    fit_needs(&m.f, &o, &without);
    m.t[2].branch.rank = 32;
    fit_needs(&m.f, &o, &with);
    const double more = 32.0 * 2 * ((double)m.t[2].rows + 4096);
    assert_true(with.weights == without.weights + more && with.token == without.token + more);
    assert_true(with.activations == without.activations + 512.0 * 4 * 3 * 32);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_8b),
        cmocka_unit_test(test_70b),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_branches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * The budget of KV pages over a simulated backend that says what a page takes: never more than the budget,
 * never fewer than one whole sequence needs; and a request for which there can never be pages enough ends in
 * words, while others run.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "../ops/plain_backend.h"
#include "engine/engine.h"
#include "engine/loaded.h"
#include "nouns/batch.h"
#include "sched/sched.h"

#define TINY TESTS_DIR "/golden/models/llama-words"

/* ---- a backend that has nothing but pages of a size ---- */

static size_t page_bytes;

static size_t sim_page_bytes(backend *be, const cache_shape *shape) {
    (void)be;
    assert_true(shape->n_layers == 28 || shape->n_layers == 7 || shape->n_layers == 21);
    assert_int_equal(shape->dtype, NIB_KV_FP8);
    return page_bytes;
}

static int pages(size_t bytes, int max_len, int max_seqs) {
    backend be = {.cache_page_bytes = sim_page_bytes};
    hparams hp = {.n_layers = 28, .n_kv_heads = 8, .head_dim = 128};
    nib_options o = {.max_model_len = max_len, .max_num_seqs = max_seqs, .kv_cache = NIB_KV_FP8};
    int n[CACHE_MAX_GROUPS];
    page_bytes = bytes;
    loaded_kv_pages(&be, &hp, &o, LOADED_KV_BUDGET, n);
    return n[0];
}

/* ---- the budget ---- */

enum { MIB = 1 << 20 };

static void test_pages(void **state) {
    (void)state;
    /* room for all: 16 sequences of 4096 tokens in pages of 64 positions */
    assert_int_equal(pages(1000, 4096, 16), 16 * 64);
    assert_int_equal(pages(LOADED_KV_BUDGET / 1024, 4096, 16), 1024);
    /* the budget's last page */
    assert_int_equal(pages(LOADED_KV_BUDGET / 1024 + 1, 4096, 16), 1023);
    assert_int_equal(pages(MIB, 4096, 16), 512);
    /* one whole sequence, whatever it takes */
    assert_int_equal(pages(8 * MIB, 4096, 16), 64);
    assert_int_equal(pages(64 * MIB, 4096, 16), 64);
    assert_int_equal(pages(2 * LOADED_KV_BUDGET, 4096, 16), 64);
    /* a page that is begun is a page */
    assert_int_equal(pages(MIB, 1, 1), 1);
    assert_int_equal(pages(MIB, KV_PAGE_TOKENS, 3), 3);
    assert_int_equal(pages(MIB, KV_PAGE_TOKENS + 1, 3), 6);
    /* the largest that nib_options takes */
    assert_int_equal(pages(MIB, 1 << 30, 1024), (1 << 30) / KV_PAGE_TOKENS);
    assert_int_equal(pages(1, 1 << 20, 1024), (1 << 20) / KV_PAGE_TOKENS * 1024);
}

static void test_bounds(void **state) {
    (void)state;
    for (size_t bytes = 1; bytes < 4 * LOADED_KV_BUDGET; bytes = bytes * 3 / 2 + 1)
        for (int len = 1; len < 100000; len = len * 2 + 1)
            for (int seqs = 1; seqs <= 1024; seqs *= 4) {
                int n = pages(bytes, len, seqs), of_one = (len + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
                assert_true(n >= of_one && n <= of_one * seqs);
                assert_true(n == of_one || (size_t)n * bytes <= LOADED_KV_BUDGET);
                /* and no page less than fits */
                assert_true(n == of_one * seqs || ((size_t)n + 1) * bytes > LOADED_KV_BUDGET);
            }
}

/* Of 28 layers 21 see the last 1000 positions: their pages need not grow with the sequences. */
static void test_windows(void **state) {
    (void)state;
    backend be = {.cache_page_bytes = sim_page_bytes};
    static hparams hp = {.n_layers = 28, .n_kv_heads = 8, .head_dim = 128, .sliding_window = 1000};
    for (int i = 0; i < 28; i++)
        hp.local[i] = i % 4 != 3;
    for (size_t bytes = 1; bytes < LOADED_KV_BUDGET; bytes = bytes * 3 / 2 + 1)
        for (int len = 2; len < 100000; len = len * 2 + 1)
            for (int seqs = 1; seqs <= 64; seqs *= 4) {
                nib_options o = {.max_model_len = len,
                                 .max_num_seqs = seqs,
                                 .max_num_batched_tokens = 512,
                                 .kv_cache = NIB_KV_FP8};
                int n[CACHE_MAX_GROUPS], of_one = (len + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
                page_bytes = bytes;
                loaded_kv_pages(&be, &hp, &o, LOADED_KV_BUDGET, n);
                assert_true(n[0] >= of_one && n[0] <= of_one * seqs && n[1] <= n[0]);
                assert_true(n[1] == n[0] || n[1] == 18 * seqs + 8);
                assert_true(n[0] == of_one || (size_t)(n[0] + n[1]) * bytes <= LOADED_KV_BUDGET);
                sched *s; /* takes them */
                sched_limits l = {.n_groups = 2,
                                  .groups = {{.kind = CACHE_FULL, .n_pages = n[0]},
                                             {.kind = CACHE_WINDOW, .window = 1000, .n_pages = n[1]}},
                                  .max_seqs = seqs,
                                  .max_rows = 512,
                                  .max_out = seqs,
                                  .max_len = len};
                if (n[0] < 5000)
                    assert_int_equal(sched_open(&s, &l, NULL), NIB_OK);
                if (n[0] < 5000)
                    sched_close(s);
            }
}

/* Of memory of its own a backend gives a share, less what weights and buffers have taken. */
static size_t left;

static size_t sim_memory_free(backend *be) {
    (void)be;
    return left;
}

static void test_own_memory(void **state) {
    (void)state;
    const size_t gib = (size_t)1 << 30;
    backend be = {.cache_page_bytes = sim_page_bytes};
    nib_options o = {.max_model_len = 4096, .max_num_seqs = 16, .kv_cache = NIB_KV_FP8};
    hparams hp = {.n_layers = 28, .n_kv_heads = 8, .head_dim = 128};
    int n[CACHE_MAX_GROUPS];
    o.gpu_memory_utilization = 0.5f;
    left = 60 * gib;
    assert_int_equal(loaded_kv_budget(&be, &hp, &o, 80 * gib), LOADED_KV_BUDGET); /* the host's */
    be.memory_free = sim_memory_free;
    assert_int_equal(loaded_kv_budget(&be, &hp, &o, 80 * gib), 20 * gib);
    left = 30 * gib;
    assert_int_equal(loaded_kv_budget(&be, &hp, &o, 80 * gib), 0); /* the weights take more than the share */
    left = 90 * gib;                                               /* another program has ended */
    assert_int_equal(loaded_kv_budget(&be, &hp, &o, 80 * gib), 40 * gib);
    o.max_num_batched_tokens = 2048;
    hp.dim = 4096; /* hidden states, 4 bytes each */
    assert_int_equal(loaded_kv_budget(&be, &hp, &o, 80 * gib), 40 * gib - 32 * MIB);
    page_bytes = 10 * MIB;
    loaded_kv_pages(&be, &hp, &o, 5 * gib, n);
    assert_int_equal(n[0], 512);
    loaded_kv_pages(&be, &hp, &o, 20 * gib, n);
    assert_int_equal(n[0], 1024);
    loaded_kv_pages(&be, &hp, &o, 0, n);
    assert_int_equal(n[0], 64);
}

/* An engine on such a backend asks once before the weights and once after, and takes its defaults. */
static size_t shrinking_memory_free(backend *be) {
    (void)be;
    return left -= left / 4;
}

static void test_open_on_own_memory(void **state) {
    (void)state;
    nib_engine *e;
    nib_error err = {""};
    nib_options o = {.max_model_len = 300};
    backend be = plain_backend;
    be.memory_free = shrinking_memory_free;
    left = (size_t)1 << 20; /* then 768 KiB, then 576; .9 of 768 less 192 leaves 499 KiB, less hidden */
    if (engine_open(&e, TINY, &o, &(loaded_needs){.be = &be}, &err) != NIB_OK)
        fail_msg("%s", err.text);
    nib_options got = e->l->options;
    assert_int_equal(got.max_num_batched_tokens, 2048);
    assert_int_equal(got.kv_cache, NIB_KV_FP8);
    assert_true(got.gpu_memory_utilization == 0.9f);
    size_t page = loaded_page_bytes(&be, &e->l->file->hp, NIB_KV_FP8);
    const double hidden = 2048.0 * e->l->file->hp.dim * 4;
    size_t want = (size_t)(0.9 * 786432.0 - 196608.0 - hidden) / page, most = 5 * 16;
    assert_int_equal(e->l->limits.n_pages[0], want > most ? most : want < 5 ? 5 : want);
    nib_close(e);
    static const float bad[] = {-0.1f, 1.5f, NAN};
    for (int i = 0; i < 3; i++) {
        o.gpu_memory_utilization = bad[i];
        assert_int_equal(engine_open(&e, TINY, &o, NULL, &err), NIB_BAD_ARGUMENT);
        assert_non_null(strstr(err.text, "gpu_memory_utilization is "));
    }
}

/* ---- what comes of it ---- */

/* A scheduler with these pages takes a sequence of any length up to max_len, and no longer one. */
static void test_every_sequence_fits(void **state) {
    (void)state;
    static int32_t tokens[4096];
    static const size_t sizes[] = {1000, MIB, 64 * MIB};
    for (size_t i = 0; i < 3; i++) {
        sched *s;
        int id;
        nib_error err;
        sched_limits limits = {.n_groups = 1,
                               .groups = {{.kind = CACHE_FULL, .n_pages = pages(sizes[i], 4096, 16)}},
                               .max_seqs = 16,
                               .max_rows = 512,
                               .max_out = 16,
                               .max_len = 4096};
        sched_request r = {.tokens = tokens, .n_prompt = 4095, .limit = 4096};
        assert_int_equal(sched_open(&s, &limits, &err), NIB_OK);
        assert_int_equal(sched_add(s, &r, &id, &err), NIB_OK);
        r.n_prompt = 1;
        assert_int_equal(sched_add(s, &r, &id, &err), NIB_OK);
        r.limit = 4097;
        assert_int_equal(sched_add(s, &r, &id, &err), NIB_BAD_ARGUMENT);
        assert_non_null(strstr(err.text, "4096 in all at most"));
        sched_check(s);
        sched_close(s);
    }
}

static nib_event end_of(nib_engine *e, size_t n_prompt, int max_tokens, char *words) {
    static const int32_t prompt[300];
    nib_request *r;
    nib_event event = {.size = sizeof event};
    nib_request_options o = {.size = sizeof o,
                             .prompt = prompt,
                             .n_prompt = n_prompt,
                             .max_tokens = max_tokens,
                             .ignore_eos = true};
    assert_int_equal(nib_submit(e, &o, &r, NULL), NIB_OK);
    while (event.kind != NIB_EVENT_END)
        assert_int_equal(nib_next_event(r, &event, -1, NULL), NIB_OK);
    snprintf(words, sizeof((nib_error *)0)->text, "%s", event.error ? event.error : "");
    nib_release(r);
    return event;
}

/* Two pages, 128 positions: a client of its own kind may ask for fewer than max_model_len needs. */
static void test_never_fits(void **state) {
    (void)state;
    nib_engine *e;
    nib_error err;
    nib_options o = {.threads = 1, .max_model_len = 300, .max_num_seqs = 2};
    assert_int_equal(engine_open(&e, TINY, &o, &(loaded_needs){.n_kv_pages = 2}, &err), NIB_OK);
    for (int again = 0; again < 2; again++) {
        nib_event event = end_of(e, 100, 30, err.text);
        assert_int_equal(event.reason, NIB_END_FAILED);
        assert_int_equal(event.status, NIB_BAD_ARGUMENT);
        assert_string_equal(err.text,
                            "a sequence of 130 tokens needs 3 KV pages of 64 positions; there are 2");
        event = end_of(e, 100, 29, err.text); /* the last token needs no place */
        assert_int_equal(event.reason, NIB_END_LENGTH);
        assert_int_equal(event.n_generated, 29);
    }
    nib_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_windows),
        cmocka_unit_test(test_own_memory),
        cmocka_unit_test(test_open_on_own_memory),
        cmocka_unit_test(test_every_sequence_fits),
        cmocka_unit_test(test_never_fits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

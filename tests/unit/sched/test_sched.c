/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler, one thing at a time: who runs, on which pages, and what is refused. Everything at once is
 * test_sched_worlds.c's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "groups.h"

static int32_t buffers[16][1000];

static int add(sched *s, int buffer, int n_prompt, int max_tokens, int priority) {
    sched_request r = {.tokens = buffers[buffer],
                       .n_prompt = n_prompt,
                       .limit = n_prompt + max_tokens,
                       .priority = priority};
    int id;
    nib_error err = {""};
    if (sched_add(s, &r, &id, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return id;
}

static sched *open_full(int n_pages, int max_seqs, int max_rows, int max_len) {
    sched_limits l = {.n_groups = 1,
                      .groups = {FULL(n_pages)},
                      .max_seqs = max_seqs,
                      .max_rows = max_rows,
                      .max_out = max_rows,
                      .max_len = max_len};
    sched *s;
    assert_int_equal(sched_open(&s, &l, NULL), NIB_OK);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 1000; j++)
            buffers[i][j] = 1000 * i + j; /* no two alike */
    return s;
}

/* One token for every output; the sequences of ENDING (a bit per id) end. */
static void commit(sched *s, const sched_step *step, uint32_t ending) {
    int32_t tokens[64];
    int n_accepted[64];
    bool ended[64];
    for (int i = 0; i < 64; i++)
        tokens[i] = -7;
    for (int k = 0; k < step->n_outs; k++) {
        n_accepted[k] = 1;
        ended[k] = ending >> step->outs[k].id & 1;
    }
    sched_commit(s, tokens, n_accepted, ended);
    sched_check(s);
}

static void test_first_come_first_served(void **state) {
    (void)state;
    sched *s = open_full(4, 4, 100, 256);
    int big = add(s, 0, 100, 10, 0);   /* 2 pages */
    int later = add(s, 1, 190, 10, 0); /* 3 pages: must wait */
    int small = add(s, 2, 3, 10, 0);   /* 1 page, but nobody overtakes */
    const sched_step *step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 100);
    assert_int_equal(step->batch->n_seqs, 1);
    assert_int_equal(step->outs[0].id, big);
    commit(s, step, 0);
    step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 1);
    commit(s, step, 1u << big);
    step = sched_next(s); /* LATER starts; its 100 rows fill the step */
    assert_int_equal(step->batch->n_rows, 100);
    assert_int_equal(step->n_outs, 0);
    commit(s, step, 0);
    step = sched_next(s); /* its other 90, and SMALL's 3 */
    assert_int_equal(step->batch->n_rows, 93);
    assert_int_equal(step->n_outs, 2);
    assert_int_equal(step->outs[0].id, later);
    assert_int_equal(step->outs[1].id, small);
    sched_check(s);
    commit(s, step, 0);
    add(s, 3, 150, 10, 0);
    step = sched_next(s); /* decoders first, then what is left of the line */
    assert_int_equal(step->batch->n_rows, 2);
    commit(s, step, 1u << later);
    step = sched_next(s);
    assert_int_equal(step->batch->seqs[0].n_rows, 1);
    assert_int_equal(step->batch->seqs[1].n_rows, 99);
    assert_int_equal(step->n_decode_rows, 1);
    commit(s, step, 0);
    sched_close(s);
}

/* A prompt that fills steps leaves a quarter of each to those of its priority behind it. */
static void test_short_beside_long(void **state) {
    (void)state;
    sched *s = open_full(40, 6, 100, 900);
    int big = add(s, 0, 800, 10, 0);
    commit(s, sched_next(s), 0);
    int small = add(s, 1, 20, 10, 0), lower = add(s, 2, 20, 10, 1);
    const sched_step *step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 100);
    assert_int_equal(step->batch->n_seqs, 2);
    assert_int_equal(step->n_outs, 1);
    assert_int_equal(step->outs[0].id, small);
    commit(s, step, 1u << small);
    int half = add(s, 3, 60, 10, 0);
    for (int rows = 0; rows < 60; rows += 25) {
        step = sched_next(s);
        assert_int_equal(step->batch->n_rows, 100);
        assert_int_equal(step->n_outs, rows + 25 >= 60);
        commit(s, step, 1u << half);
    }
    assert_int_equal(sched_see(s, big).n_computed, 100 + 80 + 75 + 75 + 90);
    assert_int_equal(sched_see(s, lower).n_computed, 0);
    sched_close(s);
}

/* Beside a prompt of 4,000 tokens a short request has its first token within three steps, whether nobody
 * decodes or eight do and leave room for few rows of prefill: the longest of short ones that the room bears.
 */
static void test_first_token_beside_4000(void **state) {
    (void)state;
    static const struct {
        int n_decoders, budget, n_short;
    } cases[] = {{0, 0, 384}, {8, 512, 372}, {8, 64, 48}, {8, 24, 48}, {8, 16, 36}, {8, 8, 18}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        sched *s = open_full(200, 16, 512, 4200);
        static int32_t prompt[4000]; /* like no other */
        sched_request big = {.tokens = prompt, .n_prompt = 4000, .limit = 4010};
        int id;
        for (int d = 0; d < cases[i].n_decoders; d++)
            add(s, d, 10, 1000, 0);
        if (cases[i].n_decoders)
            commit(s, sched_next(s), 0);
        sched_set_budget(s, cases[i].budget);
        assert_int_equal(sched_add(s, &big, &id, NULL), NIB_OK);
        commit(s, sched_next(s), 0);
        int quick = add(s, 9, cases[i].n_short, 10, 0), steps = 0;
        for (bool has_token = false; !has_token; steps++) {
            int before = sched_see(s, id).n_computed;
            const sched_step *step = sched_next(s);
            for (int k = 0; k < step->n_outs; k++)
                has_token |= step->outs[k].id == quick;
            commit(s, step, 0);
            assert_true(sched_see(s, id).n_computed > before);
        }
        assert_in_range(steps, 1, 3);
        sched_close(s);
    }
}

static void test_budget(void **state) {
    (void)state;
    sched *s = open_full(20, 4, 100, 900);
    sched_set_budget(s, 13);
    int first = add(s, 0, 120, 10, 0);
    const sched_step *step = sched_next(s); /* nobody decodes: no budget */
    assert_int_equal(step->batch->n_rows, 100);
    commit(s, step, 0);
    step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 20);
    commit(s, step, 0);
    int second = add(s, 1, 30, 10, 0);
    add(s, 2, 8, 10, 0);
    for (int left = 38; left > 0; left -= 13) {
        step = sched_next(s);
        assert_int_equal(step->outs[0].id, first);
        int decoders = step->n_decode_rows;
        assert_int_equal(step->batch->n_rows - decoders, left < 13 ? left : 13);
        commit(s, step, 0);
    }
    step = sched_next(s);
    assert_int_equal(step->n_decode_rows, 3);
    assert_int_equal(step->outs[1].id, second);
    sched_close(s);
}

static void test_priority(void **state) {
    (void)state;
    sched *s = open_full(8, 2, 100, 256);
    int low = add(s, 0, 10, 50, 5), mid = add(s, 1, 10, 50, 1);
    const sched_step *step = sched_next(s);
    assert_int_equal(step->outs[0].id, mid); /* though it came later */
    assert_int_equal(step->outs[1].id, low);
    commit(s, step, 0);
    int high = add(s, 2, 10, 50, -3), equal = add(s, 3, 10, 50, 1);
    step = sched_next(s); /* LOW makes way for HIGH, nobody for EQUAL */
    assert_int_equal(step->n_outs, 2);
    assert_int_equal(step->outs[0].id, mid);
    assert_int_equal(step->outs[1].id, high);
    assert_false(sched_see(s, low).running);
    commit(s, step, 1u << high);
    step = sched_next(s);
    assert_int_equal(step->outs[1].id, equal);
    commit(s, step, 1u << mid | 1u << equal);
    step = sched_next(s); /* LOW goes on with what it had */
    assert_int_equal(step->outs[0].id, low);
    assert_int_equal(step->batch->n_rows, 11);
    sched_close(s);
}

static void test_prefix(void **state) {
    (void)state;
    sched *s = open_full(20, 4, 500, 500);
    int a = add(s, 0, 200, 10, 0);
    const sched_step *step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 200);
    commit(s, step, 1u << a);
    memcpy(buffers[1], buffers[0], 192 * sizeof(int32_t)); /* three pages alike, while A's are nobody's */
    int b = add(s, 1, 192, 10, 0);
    step = sched_next(s); /* the last token must be computed, and so its page */
    assert_int_equal(step->batch->n_rows, 64);
    assert_int_equal(sched_see(s, b).n_cached, 128);
    commit(s, step, 0);
    memcpy(buffers[2], buffers[1], 193 * sizeof(int32_t));
    int c = add(s, 2, 193, 10, 0);
    step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 2);
    assert_int_equal(sched_see(s, c).n_cached, 192);
    assert_int_equal(step->batch->seqs[0].pages[0][0], step->batch->seqs[1].pages[0][0]);
    commit(s, step, 1u << b | 1u << c);
    sched_request r = {.tokens = buffers[2], .n_prompt = 193, .limit = 200, .salt = 1};
    int d, e;
    assert_int_equal(sched_add(s, &r, &d, NULL), NIB_OK);
    r.salt = 0;
    r.no_prefix_cache = true;
    r.tokens = buffers[1];
    assert_int_equal(sched_add(s, &r, &e, NULL), NIB_OK);
    step = sched_next(s); /* another salt, and one that does not ask */
    assert_int_equal(step->batch->n_rows, 386);
    commit(s, step, 1u << d | 1u << e);
    sched_clear_prefix(s);
    sched_counts counts;
    sched_count(s, &counts);
    assert_int_equal(counts.remembered_pages[0], 0);
    assert_int_equal(counts.prefix_hits, 128 + 192);
    assert_int_equal(counts.prefix_queries, 200 + 192 + 193 + 193);
    c = add(s, 2, 193, 10, 0);
    step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 193);
    sched_close(s);
}

/* What is remembered goes when pages are needed: the one given back longest ago, and ends before beginnings.
 */
static void test_forgetting(void **state) {
    (void)state;
    sched *s = open_full(8, 4, 500, 500);
    for (int i = 0; i < 2; i++) { /* two of 3 whole pages; 2 pages stay free */
        int id = add(s, i, 193, 5, 0);
        commit(s, sched_next(s), 1u << id);
    }
    int other = add(s, 2, 200, 5, 0); /* 4 pages: the last two of the first text go */
    commit(s, sched_next(s), 1u << other);
    sched_counts c;
    sched_count(s, &c);
    assert_int_equal(c.remembered_pages[0], 1 + 3 + 3);
    int second = add(s, 1, 193, 5, 0), first = add(s, 0, 193, 5, 0);
    const sched_step *step = sched_next(s);
    assert_int_equal(sched_see(s, first).n_cached, 64);
    assert_int_equal(sched_see(s, second).n_cached, 192);
    commit(s, step, 1u << first | 1u << second);
    sched_close(s);
}

static void test_fork(void **state) {
    (void)state;
    sched *s = open_full(20, 4, 500, 500);
    int a = add(s, 0, 100, 50, 0);
    const sched_step *step = sched_next(s);
    commit(s, step, 0);
    memcpy(buffers[1], buffers[0], 100 * sizeof(int32_t));
    sched_request r = {.tokens = buffers[1], .n_prompt = 100, .limit = 150};
    int b;
    assert_int_equal(sched_fork(s, a, &r, &b, NULL), NIB_OK);
    sched_check(s);
    assert_int_equal(sched_see(s, b).n_computed, 99);
    step = sched_next(s); /* whoever writes first takes a copy of the shared page */
    assert_int_equal(step->batch->n_rows, 2);
    assert_int_equal(step->n_copies, 1);
    assert_int_equal(step->batch->seqs[0].pages[0][0], step->batch->seqs[1].pages[0][0]);
    assert_int_equal(step->copies[0].to, step->batch->seqs[0].pages[0][1]);
    assert_int_equal(step->copies[0].from, step->batch->seqs[1].pages[0][1]);
    commit(s, step, 1u << a);
    step = sched_next(s);
    assert_int_equal(step->n_copies, 0);
    assert_int_equal(step->outs[0].id, b);
    sched_close(s);
}

/* Who waits for pages is not overtaken by one that needs fewer because it shares them. */
static void test_fork_waits(void **state) {
    (void)state;
    sched *s = open_full(6, 4, 500, 384);
    int a = add(s, 0, 100, 50, 0);
    commit(s, sched_next(s), 0);
    int large = add(s, 2, 300, 20, 0), twin, urgent;
    memcpy(buffers[1], buffers[0], 100 * sizeof(int32_t));
    memcpy(buffers[3], buffers[0], 100 * sizeof(int32_t));
    sched_request r = {.tokens = buffers[1], .n_prompt = 100, .limit = 150};
    assert_int_equal(sched_fork(s, a, &r, &twin, NULL), NIB_OK);
    assert_false(sched_see(s, twin).running);
    r = (sched_request){.tokens = buffers[3], .n_prompt = 100, .limit = 150, .priority = -1};
    assert_int_equal(sched_fork(s, a, &r, &urgent, NULL), NIB_OK);
    assert_true(sched_see(s, urgent).running);
    sched_check(s);
    const sched_step *step = sched_next(s);
    assert_int_equal(step->batch->n_seqs, 2);
    commit(s, step, 1u << a | 1u << urgent);
    step = sched_next(s);
    assert_true(sched_see(s, large).running);
    assert_int_equal(step->ids[0], large);
    commit(s, step, 1u << large | 1u << twin);
    sched_close(s);
}

static void test_guesses(void **state) {
    (void)state;
    sched *s = open_full(4, 2, 8, 250);
    int a = add(s, 0, 6, 100, 0);
    assert_int_equal(sched_draft(s, a, (int32_t[]){1}, 1), 0); /* it does not decode yet */
    commit(s, sched_next(s), 0);
    assert_int_equal(sched_draft(s, a, (int32_t[]){11, 12, 13}, 3), 3);
    const sched_step *step = sched_next(s);
    assert_int_equal(step->batch->n_rows, 4);
    assert_int_equal(step->outs[0].n_out, 4);
    sched_check(s);
    sched_commit(s, (int32_t[]){11, 12, 99, 98}, (int[]){3}, (bool[]){false}); /* two were right */
    sched_view v = sched_see(s, a);
    assert_int_equal(v.n_tokens, 10);
    assert_int_equal(v.n_computed, 9);
    assert_int_equal(v.tokens[9], 99);
    add(s, 1, 7, 10, 0);
    assert_int_equal(sched_draft(s, a, (int32_t[10]){0}, 10), 10);
    step = sched_next(s); /* 8 rows in all, and prefill does not come before guesses */
    assert_int_equal(step->outs[0].n_out, 8);
    commit(s, step, 0);
    sched_close(s);
}

static void test_window_frees(void **state) {
    (void)state;
    sched_limits l = {.n_groups = 2,
                      .groups = {WINDOW(5, 70), FULL(16)},
                      .max_seqs = 1,
                      .max_rows = 128,
                      .max_out = 1,
                      .max_len = 1000};
    sched *s;
    assert_int_equal(sched_open(&s, &l, NULL), NIB_OK);
    add(s, 0, 800, 100, 0);
    for (int pos = 0; pos < 896; pos += 128) {
        const sched_step *step = sched_next(s);
        const batch_seq *r = &step->batch->seqs[0];
        assert_int_equal(r->pos, pos);
        for (int i = 0; i < r->n_pages; i++) { /* positions >= pos - 69 are seen */
            assert_int_equal(r->pages[0][i] >= 0, i >= (pos > 69 ? pos - 69 : 0) / KV_PAGE_TOKENS);
            assert_true(r->pages[1][i] >= 0);
        }
        commit(s, step, 0);
        sched_counts c;
        sched_count(s, &c);
        assert_true(c.free_pages[0] >= 3);
    }
    sched_close(s);
}

static void test_bad_arguments(void **state) {
    (void)state;
    sched *s;
    nib_error err;
    int id;
    static const sched_limits bad[] = {
        {.n_groups = 0, .max_seqs = 4, .max_rows = 4, .max_out = 4, .max_len = 256},
        {.n_groups = 5, .max_seqs = 4, .max_rows = 4, .max_out = 4, .max_len = 256},
        {.n_groups = 1, .groups = {FULL(4)}, .max_seqs = 4, .max_rows = 3, .max_out = 4, .max_len = 256},
        {.n_groups = 1, .groups = {FULL(4)}, .max_seqs = 4, .max_rows = 4, .max_out = 3, .max_len = 256},
        {.n_groups = 1, .groups = {FULL(0)}, .max_seqs = 4, .max_rows = 4, .max_out = 4, .max_len = 256},
        {.n_groups = 1, .groups = {WINDOW(4, 0)}, .max_seqs = 4, .max_rows = 4, .max_out = 4, .max_len = 256},
        {.n_groups = 1,
         .groups = {WINDOW(2, 90)},
         .max_seqs = 4,
         .max_rows = 4,
         .max_out = 4,
         .max_len = 256},
        {.n_groups = 1, .groups = {STATE(3)}, .max_seqs = 4, .max_rows = 4, .max_out = 4, .max_len = 256},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(sched_open(&s, &bad[i], &err), NIB_BAD_ARGUMENT);
    s = open_full(2, 4, 4, 256);
    static const sched_request requests[] = {
        {.n_prompt = 0, .limit = 5}, {.n_prompt = 5, .limit = 5}, {.n_prompt = 5, .limit = 257}};
    for (size_t i = 0; i < sizeof requests / sizeof *requests; i++)
        assert_int_equal(sched_add(s, &requests[i], &id, &err), NIB_BAD_ARGUMENT);
    sched_request r = {.tokens = buffers[0], .n_prompt = 100, .limit = 130};
    assert_int_equal(sched_add(s, &r, &id, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "3 KV pages"));
    r.limit = 129; /* the last token needs no place */
    assert_int_equal(sched_add(s, &r, &id, &err), NIB_OK);
    sched_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_come_first_served),
        cmocka_unit_test(test_short_beside_long),
        cmocka_unit_test(test_first_token_beside_4000),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_priority),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_forgetting),
        cmocka_unit_test(test_fork),
        cmocka_unit_test(test_fork_waits),
        cmocka_unit_test(test_guesses),
        cmocka_unit_test(test_window_frees),
        cmocka_unit_test(test_bad_arguments),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

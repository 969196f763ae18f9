/* SPDX-License-Identifier: Apache-2.0
 *
 * What requests share: beginnings of texts, a prompt, places in the line; and what engines do not.
 */
#include <pthread.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "one_engine.h"

static void make_prompt(int32_t *prompt, int n, int first) {
    for (int i = 0; i < n; i++)
        prompt[i] = (first + i * 7) % 270;
}

static void test_prefix_cache(void **state) {
    (void)state;
    int32_t prompt[300];
    make_prompt(prompt, 300, 11);
    nib_request_options o = {.prompt = prompt, .n_prompt = 200, .max_tokens = 10, .ignore_eos = true};
    nib_stats before = {.size = sizeof before}, after = before;
    assert_int_equal(nib_get_stats(e, &before, NULL), NIB_OK);
    answer a = ask(&o), b = ask(&o);
    assert_int_equal(a.end.n_cached, 0);
    assert_int_equal(b.end.n_cached, 192);
    assert_memory_equal(a.tokens, b.tokens, 10 * sizeof(int32_t));
    o.n_prompt = 300; /* longer, alike as far as before */
    assert_int_equal(ask(&o).end.n_cached, 192);
    o.no_prefix_cache = true;
    assert_int_equal(ask(&o).end.n_cached, 0);
    o.no_prefix_cache = false;
    o.cache_salt = 1;
    assert_int_equal(ask(&o).end.n_cached, 0);
    o.cache_salt = 0;
    assert_int_equal(ask(&o).end.n_cached, 256);
    assert_int_equal(nib_get_stats(e, &after, NULL), NIB_OK);
    assert_int_equal(after.cached_prompt_tokens - before.cached_prompt_tokens, 192 + 192 + 256);
    assert_int_equal(nib_reset_prefix_cache(e, NULL), NIB_OK);
    assert_int_equal(ask(&o).end.n_cached, 0);
}

/* The prompt is computed once; each answer is what its seed gives alone. */
static void test_same_prompt(void **state) {
    (void)state;
    enum { N = 5 };
    int32_t prompt[250];
    make_prompt(prompt, 250, 90);
    nib_sampling how = {.size = sizeof how, .temperature = 1};
    nib_request_options o = {.prompt = prompt,
                             .n_prompt = 250,
                             .max_tokens = 30,
                             .ignore_eos = true,
                             .sampling = &how,
                             .no_prefix_cache = true};
    answer alone[N];
    for (int i = 0; i < N; i++) {
        how.seed = (uint64_t)i;
        alone[i] = ask(&o);
    }
    int n_shared = 0;
    for (int round = 0; round < 3; round++) {
        nib_stats before = {.size = sizeof before}, after = before;
        nib_get_stats(e, &before, NULL);
        nib_request *r[N];
        for (int i = 0; i < N; i++) {
            how.seed = (uint64_t)i;
            o.same_prompt = i > 0 ? r[0] : NULL;
            r[i] = submit_options(e, &o);
        }
        if (round == 1) { /* the first may go: the others do without it */
            nib_release(r[0]);
            r[0] = NULL;
        }
        for (int i = 0; i < N; i++) {
            answer a;
            if (!r[i])
                continue;
            read_answer(r[i], &a);
            assert_int_equal(a.end.reason, NIB_END_LENGTH);
            assert_int_equal(a.n_tokens, 30);
            assert_memory_equal(a.tokens, alone[i].tokens, 30 * sizeof(int32_t));
        }
        nib_request *last = submit(e, 1); /* so that the step before has been counted */
        while (next(last, -1).kind != NIB_EVENT_END)
            ;
        nib_release(last);
        nib_get_stats(e, &after, NULL);
        /* the fifth waits for a place, and computes its prompt itself */
        n_shared += after.step_rows - before.step_rows < 3 * 250;
        o.same_prompt = NULL;
    }
    assert_true(n_shared > 0); /* on a busy machine the first may have ended before the others are there */
    nib_request *other = submit(e, 1);
    o.same_prompt = other;
    refusal(&o, "another prompt");
    nib_release(other);
}

/* A guide that holds the engine's thread as long as the test holds the lock: no answer ends meanwhile. */
typedef struct gate {
    pthread_mutex_t lock;
    sem_t reached;
} gate;

static nib_status wait_at_gate(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    gate *g = context;
    (void)err;
    sem_post(&g->reached);
    pthread_mutex_lock(&g->lock);
    pthread_mutex_unlock(&g->lock);
    memset(bits, 0xff, (n_words - 1) * sizeof *bits);
    return NIB_OK;
}

static nib_status accept_any(void *context, int32_t token, nib_error *err) {
    (void)context, (void)token, (void)err;
    return NIB_OK;
}

static nib_guide guide_at(gate *g) {
    pthread_mutex_init(&g->lock, NULL);
    sem_init(&g->reached, 0, 0);
    pthread_mutex_lock(&g->lock);
    return (nib_guide){.size = sizeof(nib_guide), .context = g, .mask = wait_at_gate, .accept = accept_any};
}

static void test_busy(void **state) {
    (void)state;
    gate held;
    const nib_guide guide = guide_at(&held);
    nib_engine *full =
        open_tiny(&(nib_options){.max_model_len = 400, .max_num_seqs = 1, .max_waiting = 3}, NULL);
    nib_request *r[8];
    nib_error err = {""};
    int n_taken = 0, n_busy = 0;
    nib_request_options o = {.size = sizeof o, PROMPT, .ignore_eos = true, .guide = &guide};
    for (int i = 0; i < 8; i++) {
        nib_status status = nib_submit(full, &o, &r[i], &err);
        assert_true(status == NIB_OK || (status == NIB_BUSY && !r[i]));
        n_taken += status == NIB_OK;
        n_busy += status == NIB_BUSY;
    }
    pthread_mutex_unlock(&held.lock);
    assert_int_equal(n_taken, 4); /* one runs, or will */
    assert_non_null(strstr(err.text, "3 requests wait already, as many as max_waiting lets"));
    for (int i = 0; i < 8; i++)
        nib_cancel(r[i]);
    for (int i = 0; i < 8; i++)
        if (r[i]) {
            while (next(r[i], -1).kind != NIB_EVENT_END)
                ;
            nib_release(r[i]);
        }
    nib_stats stats = {.size = sizeof stats};
    assert_int_equal(nib_get_stats(full, &stats, NULL), NIB_OK);
    assert_int_equal(stats.submitted, n_taken);
    assert_int_equal(stats.refused, n_busy);
    nib_close(full);
}

static void test_priority(void **state) {
    (void)state;
    nib_engine *one = open_tiny(&(nib_options){.max_model_len = 400, .max_num_seqs = 1}, NULL);
    nib_engine *shared = e;
    e = one;
    gate held;
    const nib_guide guide = guide_at(&held);
    nib_request *running =
        submit_options(e, &(nib_request_options){PROMPT, .ignore_eos = true, .guide = &guide});
    sem_wait(&held.reached); /* it runs */
    nib_request_options o = {PROMPT, .max_tokens = 5, .ignore_eos = true, .priority = 4};
    nib_request *low = submit_options(e, &o);
    o.priority = -1; /* makes way for itself */
    nib_request *high = submit_options(e, &o);
    pthread_mutex_unlock(&held.lock);
    answer a;
    read_answer(high, &a);
    assert_int_equal(a.n_tokens, 5);
    nib_event event = {.kind = NIB_EVENT_NONE};
    while ((event = next(running, -1)).kind == NIB_EVENT_TOKEN)
        ;
    assert_int_equal(event.n_generated, 397); /* it went on */
    while ((event = next(low, -1)).kind == NIB_EVENT_TOKEN)
        ;
    assert_int_equal(event.n_generated, 5);
    nib_stats stats = {.size = sizeof stats};
    nib_get_stats(e, &stats, NULL);
    assert_true(stats.preemptions > 0);
    nib_release(running);
    nib_release(low);
    e = shared;
    nib_close(one);
}

static void test_two_engines(void **state) {
    (void)state;
    nib_engine *second = open_tiny(&(nib_options){.threads = 2, .max_model_len = 300}, NULL);
    nib_request *a[4], *b[4];
    answer x, y;
    for (int i = 0; i < 4; i++) {
        a[i] = submit(e, 100);
        b[i] = submit(second, 100);
    }
    for (int i = 0; i < 4; i++) {
        read_answer(a[i], &x);
        read_answer(b[i], &y);
        assert_int_equal(x.n_tokens, 100);
        assert_memory_equal(x.tokens, y.tokens, sizeof(int32_t) * 100);
    }
    nib_close(second);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_cache), cmocka_unit_test(test_same_prompt), cmocka_unit_test(test_busy),
        cmocka_unit_test(test_priority),     cmocka_unit_test(test_two_engines),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}

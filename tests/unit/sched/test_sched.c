/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler against a simulated model: KV pages that hold (sequence's token) per position, and a next
 * token that is a hash of the whole sequence as read back through the pages. Whatever arrives, is cancelled
 * or preempted, each sequence must come out as it does alone; every invariant is checked at every step.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "sched/sched.h"

#define VOCAB   1000
#define END_ONE 23 /* a token divisible by it ends its sequence */

static uint64_t rng_state;

static uint32_t rng(uint32_t below) {
    rng_state += 0x9E3779B97F4A7C15u;
    uint64_t z = rng_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 33) % below;
}

static uint64_t hash_push(uint64_t h, int32_t token) {
    h ^= (uint64_t)token + 0x9E3779B97F4A7C15u + (h << 6) + (h >> 2);
    return h * 0xD6E8FEB86659FD93u;
}

/* What the sequence must look like, computed alone. */
static int run_alone(int32_t *tokens, int n_prompt, int limit) {
    uint64_t h = 0;
    for (int i = 0; i < n_prompt; i++)
        h = hash_push(h, tokens[i]);
    int n = n_prompt;
    while (n < limit) {
        int32_t token = (int32_t)(h % VOCAB);
        tokens[n++] = token;
        if (token % END_ONE == 0)
            break;
        h = hash_push(h, token);
    }
    return n;
}

typedef struct expected {
    int32_t *tokens; /* [n] the whole sequence; NULL: no such id */
    int n, limit;
} expected;

typedef struct world {
    sched *s;
    sched_limits limits;
    int32_t *kv; /* [n_pages * KV_PAGE_TOKENS] the token computed at that place */
    expected *live;
    int n_live_slots, n_live;
    long n_added, n_finished, n_cancelled, n_dropped, n_steps;
} world;

static void world_add(world *w) {
    int max_len = w->limits.max_len;
    int n_prompt = 1 + (int)rng(rng(4) ? 20 : (uint32_t)max_len - 1);
    if (n_prompt >= max_len)
        n_prompt = max_len - 1;
    int max_tokens = 1 + (int)rng(rng(4) ? 90 : 2 * (uint32_t)max_len);
    expected e = {.limit = n_prompt + max_tokens < max_len ? n_prompt + max_tokens : max_len};
    e.tokens = malloc((size_t)e.limit * sizeof *e.tokens);
    for (int i = 0; i < n_prompt; i++)
        e.tokens[i] = (int32_t)rng(VOCAB);
    e.n = run_alone(e.tokens, n_prompt, e.limit);
    int id = -1;
    nib_error err;
    nib_status status = sched_add(w->s, e.tokens, n_prompt, max_tokens, &id, &err);
    if ((e.limit - 1 + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS > w->limits.n_pages) {
        assert_int_equal(status, NIB_BAD_ARGUMENT);
        free(e.tokens);
        return;
    }
    assert_int_equal(status, NIB_OK);
    if (id >= w->n_live_slots) {
        int n = sched_id_bound(w->s);
        w->live = realloc(w->live, (size_t)n * sizeof *w->live);
        memset(w->live + w->n_live_slots, 0, (size_t)(n - w->n_live_slots) * sizeof *w->live);
        w->n_live_slots = n;
    }
    assert_null(w->live[id].tokens);
    w->live[id] = e;
    w->n_live++;
    w->n_added++;
}

static void world_forget(world *w, int id) {
    free(w->live[id].tokens);
    w->live[id].tokens = NULL;
    w->n_live--;
}

static void world_cancel_one(world *w) {
    if (w->n_live == 0)
        return;
    int id = (int)rng((uint32_t)w->n_live_slots);
    while (!w->live[id].tokens)
        id = (id + 1) % w->n_live_slots;
    sched_end(w->s, id);
    world_forget(w, id);
    w->n_cancelled++;
}

/* The simulated forward: writes the rows into the pages, reads whole sequences back through them. */
static void simulate(const world *w, const batch *b, int32_t *sampled) {
    int out = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const batch_seq *r = &b->seqs[i];
        for (int j = 0; j < r->n_rows; j++) {
            int p = r->pos + j;
            w->kv[r->pages[0][p / KV_PAGE_TOKENS] * KV_PAGE_TOKENS + p % KV_PAGE_TOKENS] =
                b->tokens[r->row + j];
        }
    }
    for (int i = 0; i < b->n_seqs; i++) {
        const batch_seq *r = &b->seqs[i];
        if (out == b->n_out || b->out_rows[out] != r->row + r->n_rows - 1)
            continue;
        uint64_t h = 0;
        for (int p = 0; p < r->pos + r->n_rows; p++)
            h = hash_push(h, w->kv[r->pages[0][p / KV_PAGE_TOKENS] * KV_PAGE_TOKENS + p % KV_PAGE_TOKENS]);
        sampled[out++] = (int32_t)(h % VOCAB);
    }
    assert_int_equal(out, b->n_out);
}

static bool world_step(world *w, bool may_fail) {
    const int *ids;
    const batch *b = sched_next(w->s, &ids);
    sched_check(w->s);
    if (!b) {
        assert_int_equal(w->n_live, 0);
        return false;
    }
    w->n_steps++;
    if (may_fail && rng(200) == 0) { /* the step failed: its own sequences end, the others go on */
        int n = sched_drop(w->s, &ids);
        for (int i = 0; i < n; i++)
            world_forget(w, ids[i]);
        w->n_dropped += n;
        sched_check(w->s);
        return true;
    }
    int32_t sampled[64];
    bool ended[64];
    int out_ids[64];
    int n_out = b->n_out;
    memcpy(out_ids, ids, (size_t)n_out * sizeof *ids);
    simulate(w, b, sampled);
    for (int i = 0; i < n_out; i++) {
        int n, limit;
        const int32_t *tokens = sched_tokens(w->s, ids[i], &n, &limit);
        const expected *e = &w->live[ids[i]];
        assert_int_equal(limit, e->limit);
        assert_true(n < e->n);
        assert_memory_equal(tokens, e->tokens, (size_t)n * sizeof *tokens);
        assert_int_equal(sampled[i], e->tokens[n]);
        ended[i] = sampled[i] % END_ONE == 0 || n + 1 == limit;
        assert_int_equal(ended[i], n + 1 == e->n);
    }
    sched_commit(w->s, sampled, ended);
    for (int i = 0; i < n_out; i++) {
        if (!ended[i])
            continue;
        world_forget(w, out_ids[i]);
        w->n_finished++;
    }
    sched_check(w->s);
    return true;
}

static uint64_t run_world(uint64_t seed, const sched_limits *limits, int n_steps, int arrivals,
                          bool cancels) {
    rng_state = seed;
    world w = {.limits = *limits};
    nib_error err;
    assert_int_equal(sched_open(&w.s, limits, &err), NIB_OK);
    w.kv = malloc((size_t)limits->n_pages * KV_PAGE_TOKENS * sizeof *w.kv);
    for (int i = 0; i < n_steps; i++) {
        if (rng(100) < (uint32_t)arrivals)
            world_add(&w);
        if (cancels && rng(40) == 0)
            world_cancel_one(&w);
        world_step(&w, cancels);
    }
    while (world_step(&w, false)) /* no sequence is left behind */
        ;
    sched_counts counts;
    sched_count(w.s, &counts);
    assert_int_equal(counts.waiting + counts.running, 0);
    assert_int_equal(counts.free_pages, limits->n_pages);
    assert_int_equal(w.n_added, w.n_finished + w.n_cancelled + w.n_dropped);
    assert_true(w.n_finished > 20);
    sched_close(w.s);
    free(w.kv);
    free(w.live);
    return counts.preemptions;
}

static void test_random_interleavings(void **state) {
    (void)state;
    static const sched_limits worlds[] = {
        {.n_pages = 4, .max_seqs = 3, .max_rows = 3, .max_len = 256},     /* one long one fills the pool */
        {.n_pages = 5, .max_seqs = 8, .max_rows = 16, .max_len = 300},    /* pages are short */
        {.n_pages = 3, .max_seqs = 16, .max_rows = 64, .max_len = 1000},  /* most do not fit at all */
        {.n_pages = 12, .max_seqs = 16, .max_rows = 33, .max_len = 400},  /* odd chunks */
        {.n_pages = 64, .max_seqs = 16, .max_rows = 512, .max_len = 200}, /* pages in plenty */
        {.n_pages = 40, .max_seqs = 1, .max_rows = 7, .max_len = 500},    /* one at a time */
    };
    uint64_t preemptions = 0;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
        for (uint64_t seed = 1; seed <= 3; seed++)
            preemptions += run_world(seed, &worlds[i], 4000, 15 + 10 * (int)seed, seed != 2);
    assert_true(preemptions > 100); /* else the pools were not tiny enough to test anything */
}

static void test_first_come_first_served(void **state) {
    (void)state;
    sched *s;
    nib_error err;
    int32_t prompt[200] = {0};
    const int *ids;
    int big, small, later;
    assert_int_equal(sched_open(&s, &(sched_limits){4, 4, 100, 256}, &err), NIB_OK);
    assert_int_equal(sched_add(s, prompt, 100, 10, &big, &err), NIB_OK);   /* 2 pages */
    assert_int_equal(sched_add(s, prompt, 190, 10, &later, &err), NIB_OK); /* 3 pages: must wait */
    assert_int_equal(sched_add(s, prompt, 3, 10, &small, &err), NIB_OK);   /* 1 page, but nobody overtakes */
    const batch *b = sched_next(s, &ids);
    assert_int_equal(b->n_rows, 100);
    assert_int_equal(b->n_seqs, 1);
    assert_int_equal(ids[0], big);
    sched_commit(s, &(int32_t){7}, &(bool){false});
    b = sched_next(s, &ids);
    assert_int_equal(b->n_rows, 1);
    sched_commit(s, &(int32_t){7}, &(bool){true});
    b = sched_next(s, &ids); /* LATER starts; its 100 rows fill the step */
    assert_int_equal(b->n_rows, 100);
    assert_int_equal(b->n_out, 0);
    sched_commit(s, NULL, NULL);
    b = sched_next(s, &ids); /* its other 90, and SMALL's 3 */
    assert_int_equal(b->n_rows, 93);
    assert_int_equal(b->n_out, 2);
    assert_int_equal(ids[0], later);
    assert_int_equal(ids[1], small);
    sched_check(s);
    sched_commit(s, (int32_t[]){1, 2}, (bool[]){false, false});
    assert_int_equal(sched_add(s, prompt, 150, 10, &big, &err), NIB_OK);
    b = sched_next(s, &ids); /* decoders first, then what is left of the line */
    assert_int_equal(b->n_rows, 2);
    sched_commit(s, (int32_t[]){1, 2}, (bool[]){true, false});
    b = sched_next(s, &ids);
    assert_int_equal(b->seqs[0].n_rows, 1);
    assert_int_equal(b->seqs[1].n_rows, 99);
    sched_commit(s, (int32_t[]){5}, (bool[]){false});
    sched_close(s);
}

static void test_bad_arguments(void **state) {
    (void)state;
    sched *s;
    nib_error err;
    int id;
    int32_t prompt[300] = {0};
    assert_int_equal(sched_open(&s, &(sched_limits){4, 4, 3, 256}, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(sched_open(&s, &(sched_limits){0, 4, 4, 256}, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(sched_open(&s, &(sched_limits){2, 4, 4, 256}, &err), NIB_OK);
    assert_int_equal(sched_add(s, prompt, 0, 5, &id, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(sched_add(s, prompt, 256, 5, &id, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(sched_add(s, prompt, 5, 0, &id, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(sched_add(s, prompt, 100, 30, &id, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "3 KV pages"));
    assert_int_equal(sched_add(s, prompt, 100, 29, &id, &err), NIB_OK); /* the last token needs no place */
    sched_close(s);
}

static void test_no_memory(void **state) {
    (void)state;
    nib_error err;
    for (long n = 0;; n++) {
        sched *s = NULL;
        int id = 0;
        int32_t prompt[4] = {1, 2, 3, 4};
        mem_fail_after(n);
        nib_status status = sched_open(&s, &(sched_limits){4, 4, 8, 256}, &err);
        if (status == NIB_OK)
            status = sched_add(s, prompt, 4, 4, &id, &err);
        mem_fail_after(-1);
        if (s)
            sched_check(s);
        sched_close(s);
        if (status == NIB_OK)
            break;
        assert_int_equal(status, NIB_NO_MEMORY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_interleavings),
        cmocka_unit_test(test_first_come_first_served),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

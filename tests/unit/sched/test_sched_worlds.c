/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler against a simulated model with a cache of every kind: pages that hold what was computed at
 * each place, a window of them, and a state per slot. The next token is a hash of all that is read back
 * through the pages, so whatever arrives, forks, guesses, is cancelled, preempted or found in the prefix
 * cache, each sequence must come out as it does alone; every invariant is checked at every step.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "groups.h"

enum {
    VOCAB = 1000,
    END_ONE = 23, /* a token divisible by it ends its sequence */
    N_TEXTS = 5,  /* that prompts begin with */
    MAX_LEN = 1000,
    MAX_OUT = 80
};

static uint64_t rng_state;

static uint32_t rng(uint32_t below) {
    rng_state += 0x9E3779B97F4A7C15u;
    uint64_t z = rng_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((z ^ (z >> 31)) >> 33) % below;
}

static uint64_t hash_push(uint64_t h, uint64_t value) {
    h ^= value + 0x9E3779B97F4A7C15u + (h << 6) + (h >> 2);
    return h * 0xD6E8FEB86659FD93u;
}

/* What is computed at a place: the token, and whose text it is. */
static uint64_t content(int32_t token, uint64_t salt) {
    return (uint64_t)token + salt * VOCAB;
}

/* The token behind the first N, from all of them, those of each window, and all of them once more. */
static int32_t next_token(const int32_t *tokens, int n, uint64_t salt, const sched_limits *l) {
    uint64_t all = 0;
    for (int g = 0; g < l->n_groups; g++) {
        int first =
            l->groups[g].kind == CACHE_WINDOW && n > l->groups[g].window ? n - l->groups[g].window : 0;
        uint64_t h = 0;
        for (int i = first; i < n; i++)
            h = hash_push(h, content(tokens[i], salt));
        all = hash_push(all, h);
    }
    return (int32_t)(all % VOCAB);
}

typedef struct expected {
    int32_t *tokens; /* [n] the whole sequence; NULL: no such id */
    int32_t *buffer; /* [limit] the scheduler's */
    int n, limit;
    uint64_t salt;
    bool remembers;
} expected;

typedef struct world {
    sched *s;
    sched_limits limits;
    uint64_t *kv[CACHE_MAX_GROUPS];       /* [n_pages * KV_PAGE_TOKENS]; of STATE [n_pages] */
    int32_t *state_pos[CACHE_MAX_GROUPS]; /* [n_pages] how many positions are in a state */
    int32_t texts[N_TEXTS][MAX_LEN];      /* prompts begin alike */
    expected *live;
    int n_live_slots, n_live;
    long n_added, n_forked, n_finished, n_cancelled, n_dropped, n_steps, n_guesses, n_right;
} world;

/* ---- what comes ---- */

static void expect(world *w, int id, const expected *e) {
    if (id >= w->n_live_slots) {
        int n = sched_id_bound(w->s);
        w->live = realloc(w->live, (size_t)n * sizeof *w->live);
        memset(w->live + w->n_live_slots, 0, (size_t)(n - w->n_live_slots) * sizeof *w->live);
        w->n_live_slots = n;
    }
    assert_null(w->live[id].tokens);
    w->live[id] = *e;
    w->n_live++;
    w->n_added++;
}

/* The sequence that begins with N_PROMPT tokens of PROMPT, computed alone. */
static expected alone(const world *w, const int32_t *prompt, int n_prompt, int limit, uint64_t salt) {
    expected e = {.limit = limit, .n = n_prompt, .salt = salt, .remembers = rng(6) > 0};
    e.tokens = malloc((size_t)limit * sizeof *e.tokens);
    e.buffer = malloc((size_t)limit * sizeof *e.buffer);
    memcpy(e.tokens, prompt, (size_t)n_prompt * sizeof *prompt);
    memcpy(e.buffer, prompt, (size_t)n_prompt * sizeof *prompt);
    while (e.n < limit) {
        e.tokens[e.n] = next_token(e.tokens, e.n, salt, &w->limits);
        if (e.tokens[e.n++] % END_ONE == 0)
            break;
    }
    return e;
}

static int some_limit(const world *w, int n_prompt) {
    int max_tokens = 1 + (int)rng(rng(4) ? 90 : 2 * (uint32_t)w->limits.max_len);
    return n_prompt + max_tokens < w->limits.max_len ? n_prompt + max_tokens : w->limits.max_len;
}

static void forget(expected *e) {
    free(e->tokens);
    free(e->buffer);
    e->tokens = NULL;
}

static void world_add(world *w) {
    int32_t prompt[MAX_LEN];
    int max_prompt = w->limits.max_len - 1;
    int n_prompt = 1 + (int)rng(rng(3) ? 150 : (uint32_t)max_prompt);
    n_prompt = n_prompt < max_prompt ? n_prompt : max_prompt;
    const int32_t *text = w->texts[rng(N_TEXTS)];
    int n_alike = rng(4) ? (int)rng((uint32_t)n_prompt + 1) : n_prompt;
    for (int i = 0; i < n_prompt; i++)
        prompt[i] = i < n_alike ? text[i] : (int32_t)rng(VOCAB);
    expected e = alone(w, prompt, n_prompt, some_limit(w, n_prompt), rng(3) ? 0 : 7);
    sched_request r = {.tokens = e.buffer,
                       .n_prompt = n_prompt,
                       .limit = e.limit,
                       .priority = rng(5) ? 0 : (int)rng(3) - 1,
                       .salt = e.salt,
                       .no_prefix_cache = !e.remembers};
    int id = -1;
    nib_error err;
    nib_status status = sched_add(w->s, &r, &id, &err);
    if (status == NIB_OK) {
        expect(w, id, &e);
        return;
    }
    assert_int_equal(status, NIB_BAD_ARGUMENT);
    assert_true((e.limit - 1 + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS > w->limits.groups[0].n_pages);
    forget(&e);
}

static int some_live(const world *w) {
    int id = (int)rng((uint32_t)w->n_live_slots);
    while (!w->live[id].tokens)
        id = (id + 1) % w->n_live_slots;
    return id;
}

static void world_fork(world *w) {
    int from = some_live(w), id = -1;
    sched_view v = sched_see(w->s, from);
    int n_prompt = rng(2) ? v.n_tokens : 1 + (int)rng((uint32_t)v.n_tokens);
    if (n_prompt >= w->limits.max_len - 1)
        return;
    expected e = alone(w, v.tokens, n_prompt, some_limit(w, n_prompt), w->live[from].salt);
    sched_request r = {.tokens = e.buffer,
                       .n_prompt = n_prompt,
                       .limit = e.limit,
                       .salt = e.salt,
                       .no_prefix_cache = !e.remembers};
    if (sched_fork(w->s, from, &r, &id, NULL) == NIB_OK) {
        expect(w, id, &e);
        w->n_forked++;
    } else {
        forget(&e);
    }
}

static void world_forget(world *w, int id) {
    forget(&w->live[id]);
    w->n_live--;
}

static void world_cancel_one(world *w) {
    int id = some_live(w);
    sched_end(w->s, id);
    world_forget(w, id);
    w->n_cancelled++;
}

/* Guesses that are mostly right for a while. */
static void world_guess(world *w) {
    int id = some_live(w), n = 1 + (int)rng(6);
    const expected *e = &w->live[id];
    sched_view v = sched_see(w->s, id);
    int32_t guesses[8];
    for (int i = 0; i < n; i++)
        guesses[i] = v.n_tokens + i < e->n && rng(5) ? e->tokens[v.n_tokens + i] : (int32_t)rng(VOCAB);
    w->n_guesses += sched_draft(w->s, id, guesses, n);
}

/* ---- the simulated forward ---- */

static void make_copies(world *w, const sched_step *step) {
    for (int i = 0; i < step->n_copies; i++) {
        const sched_copy *c = &step->copies[i];
        assert_int_not_equal(c->to, c->from);
        if (w->limits.groups[c->group].kind == CACHE_STATE) {
            w->kv[c->group][c->to] = w->kv[c->group][c->from];
            w->state_pos[c->group][c->to] = w->state_pos[c->group][c->from];
        } else {
            memcpy(w->kv[c->group] + (size_t)c->to * KV_PAGE_TOKENS,
                   w->kv[c->group] + (size_t)c->from * KV_PAGE_TOKENS, KV_PAGE_TOKENS * sizeof(uint64_t));
        }
    }
}

static void store(world *w, const batch *b, const batch_seq *r, uint64_t salt) {
    for (int g = 0; g < w->limits.n_groups; g++) {
        int32_t slot = r->pages[g][0];
        bool state = w->limits.groups[g].kind == CACHE_STATE;
        if (state && r->pos == 0) {
            w->kv[g][slot] = 0;
            w->state_pos[g][slot] = 0;
        }
        for (int p = r->pos; p < r->pos + r->n_rows; p++) {
            uint64_t value = content(b->tokens[r->row + p - r->pos], salt);
            if (state) {
                assert_int_equal(w->state_pos[g][slot], p);
                w->kv[g][slot] = hash_push(w->kv[g][slot], value);
                w->state_pos[g][slot]++;
            } else {
                w->kv[g][r->pages[g][p / KV_PAGE_TOKENS] * KV_PAGE_TOKENS + p % KV_PAGE_TOKENS] = value;
            }
        }
    }
}

/* The token behind position POS, as read back. */
static int32_t read_back(const world *w, const batch_seq *r, int pos) {
    uint64_t all = 0;
    for (int g = 0; g < w->limits.n_groups; g++) {
        const cache_group *group = &w->limits.groups[g];
        uint64_t h = 0;
        int p = group->kind == CACHE_WINDOW && pos + 1 > group->window ? pos + 1 - group->window : 0;
        for (; group->kind != CACHE_STATE && p <= pos; p++) {
            int32_t page = r->pages[g][p / KV_PAGE_TOKENS];
            assert_true(page >= 0);
            h = hash_push(h, w->kv[g][page * KV_PAGE_TOKENS + p % KV_PAGE_TOKENS]);
        }
        if (group->kind == CACHE_STATE) {
            assert_int_equal(w->state_pos[g][r->pages[g][0]], pos + 1);
            h = w->kv[g][r->pages[g][0]];
        }
        all = hash_push(all, h);
    }
    return (int32_t)(all % VOCAB);
}

/* Rows of all sequences are stored before any is read, as layers do. */
static void simulate(world *w, const sched_step *step, int32_t *sampled) {
    const batch *b = step->batch;
    make_copies(w, step);
    for (int i = 0; i < b->n_seqs; i++)
        store(w, b, &b->seqs[i], w->live[step->ids[i]].salt);
    for (int i = 0, k = 0; i < b->n_seqs && k < step->n_outs; i++) {
        const batch_seq *r = &b->seqs[i];
        const sched_out *o = &step->outs[k];
        if (b->out_rows[o->out] >= r->row + r->n_rows)
            continue;
        for (int j = 0; j < o->n_out; j++)
            sampled[o->out + j] = read_back(w, r, r->pos + b->out_rows[o->out + j] - r->row);
        k++;
    }
}

/* ---- a step ---- */

static void world_commit(world *w, const sched_step *step, const int32_t *sampled) {
    int n_accepted[MAX_OUT], ids[MAX_OUT];
    bool ended[MAX_OUT];
    int n_outs = step->n_outs;
    for (int k = 0; k < n_outs; k++) {
        const sched_out *o = &step->outs[k];
        sched_view v = sched_see(w->s, o->id);
        const expected *e = &w->live[o->id];
        ids[k] = o->id;
        assert_int_equal(v.limit, e->limit);
        assert_true(v.n_tokens < e->n);
        assert_memory_equal(v.tokens, e->tokens, (size_t)v.n_tokens * sizeof *v.tokens);
        assert_true(v.n_cached >= 0 && (e->remembers || v.n_cached == 0 || w->n_forked > 0));
        int n = 0;
        do { /* the first is right; one behind a guess where the guess was */
            assert_int_equal(sampled[o->out + n], e->tokens[v.n_tokens + n]);
            ended[k] = v.n_tokens + n + 1 == e->n;
            n++;
        } while (!ended[k] && n < o->n_out && v.tokens[v.n_tokens + n - 1] == sampled[o->out + n - 1]);
        w->n_right += n - 1;
        n_accepted[k] = n;
    }
    sched_commit(w->s, sampled, n_accepted, ended);
    for (int k = 0; k < n_outs; k++) {
        if (!ended[k])
            continue;
        world_forget(w, ids[k]);
        w->n_finished++;
    }
}

static bool world_step(world *w, bool may_fail) {
    const sched_step *step = sched_next(w->s);
    sched_check(w->s);
    if (!step) {
        assert_int_equal(w->n_live, 0);
        return false;
    }
    w->n_steps++;
    int32_t sampled[MAX_OUT];
    simulate(w, step, sampled);
    if (may_fail && rng(200) == 0) { /* the step failed: its own sequences end, the others go on */
        const int *ids;
        int n = sched_drop(w->s, &ids);
        for (int i = 0; i < n; i++)
            world_forget(w, ids[i]);
        w->n_dropped += n;
    } else {
        world_commit(w, step, sampled);
    }
    sched_check(w->s);
    return true;
}

/* *n_right: guesses that were. */
static sched_counts run_world(uint64_t seed, const sched_limits *limits, int n_steps, int arrivals,
                              bool trouble, uint64_t *n_right) {
    rng_state = seed;
    static world w;
    memset(&w, 0, sizeof w);
    w.limits = *limits;
    nib_error err = {""};
    if (sched_open(&w.s, limits, &err) != NIB_OK)
        fail_msg("%s", err.text);
    for (int i = 0; i < N_TEXTS; i++)
        for (int j = 0; j < MAX_LEN; j++)
            w.texts[i][j] = (int32_t)rng(VOCAB);
    for (int g = 0; g < limits->n_groups; g++) {
        w.kv[g] = calloc((size_t)limits->groups[g].n_pages * KV_PAGE_TOKENS, sizeof **w.kv);
        if (limits->groups[g].kind == CACHE_STATE)
            w.state_pos[g] = calloc((size_t)limits->groups[g].n_pages, sizeof **w.state_pos);
    }
    for (int i = 0; i < n_steps; i++) {
        if (rng(100) < (uint32_t)arrivals)
            world_add(&w);
        for (int k = 0; trouble && w.n_live > 0 && k < 3 && rng(15) == 0; k++)
            world_fork(&w);
        if (trouble && w.n_live > 0 && rng(30) == 0)
            world_cancel_one(&w);
        for (int k = (int)rng(4); w.n_live > 0 && k > 0; k--)
            world_guess(&w);
        if (trouble && rng(300) == 0)
            sched_clear_prefix(w.s);
        if (rng(50) == 0)
            sched_set_budget(w.s, (int)rng(20));
        world_step(&w, trouble);
    }
    while (world_step(&w, false)) /* no sequence is left behind */
        ;
    sched_counts counts;
    sched_count(w.s, &counts);
    assert_int_equal(counts.waiting + counts.running, 0);
    for (int g = 0; g < limits->n_groups; g++) {
        assert_int_equal(counts.free_pages[g], limits->groups[g].n_pages);
        assert_true(counts.remembered_pages[g] <= counts.free_pages[g]);
    }
    assert_int_equal(w.n_added, w.n_finished + w.n_cancelled + w.n_dropped);
    assert_true(w.n_finished > 20);
    sched_close(w.s);
    for (int g = 0; g < limits->n_groups; g++) {
        free(w.kv[g]);
        free(w.state_pos[g]);
    }
    free(w.live);
    *n_right += (uint64_t)w.n_right;
    return counts;
}

/* ---- worlds ---- */

static const sched_limits worlds[] = {
    /* one long one fills the pool */
    {.n_groups = 1, .groups = {FULL(4)}, .max_seqs = 3, .max_rows = 3, .max_out = 3, .max_len = 256},
    /* pages are short */
    {.n_groups = 1, .groups = {FULL(5)}, .max_seqs = 8, .max_rows = 16, .max_out = 12, .max_len = 300},
    /* most do not fit at all */
    {.n_groups = 1, .groups = {FULL(3)}, .max_seqs = 16, .max_rows = 64, .max_out = 64, .max_len = 1000},
    /* odd chunks, nothing remembered */
    {.n_groups = 1,
     .groups = {FULL(12)},
     .max_seqs = 16,
     .max_rows = 33,
     .max_out = 20,
     .max_len = 400,
     .no_prefix_cache = true},
    /* pages in plenty */
    {.n_groups = 1, .groups = {FULL(64)}, .max_seqs = 16, .max_rows = 512, .max_out = 64, .max_len = 200},
    /* one at a time */
    {.n_groups = 1, .groups = {FULL(40)}, .max_seqs = 1, .max_rows = 7, .max_out = 5, .max_len = 500},
    /* windows beside */
    {.n_groups = 2,
     .groups = {FULL(12), WINDOW(7, 100)},
     .max_seqs = 8,
     .max_rows = 70,
     .max_out = 30,
     .max_len = 600},
    {.n_groups = 3,
     .groups = {FULL(20), WINDOW(14, 256), WINDOW(9, 1)},
     .max_seqs = 6,
     .max_rows = 500,
     .max_out = 6,
     .max_len = 800},
    {.n_groups = 1, .groups = {WINDOW(8, 64)}, .max_seqs = 5, .max_rows = 40, .max_out = 40, .max_len = 900},
    /* states beside */
    {.n_groups = 2,
     .groups = {FULL(16), STATE(4)},
     .max_seqs = 4,
     .max_rows = 90,
     .max_out = 4,
     .max_len = 400},
    {.n_groups = 2,
     .groups = {STATE(30), FULL(30)},
     .max_seqs = 8,
     .max_rows = 200,
     .max_out = 30,
     .max_len = 500},
    {.n_groups = 1, .groups = {STATE(9)}, .max_seqs = 5, .max_rows = 64, .max_out = 5, .max_len = 300},
    {.n_groups = 4,
     .groups = {FULL(20), WINDOW(10, 130), STATE(12), STATE(7)},
     .max_seqs = 6,
     .max_rows = 130,
     .max_out = 9,
     .max_len = 400},
};

static void test_random_interleavings(void **state) {
    (void)state;
    uint64_t preemptions = 0, hits = 0, right = 0;
    for (size_t i = 0; i < sizeof worlds / sizeof *worlds; i++)
        for (uint64_t seed = 1; seed <= 3; seed++) {
            sched_counts c = run_world(seed, &worlds[i], 1500, 15 + 10 * (int)seed, seed != 2, &right);
            preemptions += c.preemptions;
            hits += c.prefix_hits;
            assert_true(c.prefix_hits == 0 || !worlds[i].no_prefix_cache);
        }
    assert_true(preemptions > 500); /* else the pools were not tiny enough to test anything */
    assert_true(hits > 10000);
    assert_true(right > 1000);
}

static void test_no_memory(void **state) {
    (void)state;
    nib_error err;
    for (long n = 0;; n++) {
        sched *s = NULL;
        int id = 0;
        sched_request r = {.tokens = (int32_t[8]){1, 2, 3, 4}, .n_prompt = 4, .limit = 8};
        mem_fail_after(n);
        nib_status status = sched_open(&s, &worlds[12], &err);
        for (int i = 0; status == NIB_OK && i < 40; i++)
            status = sched_add(s, &r, &id, &err);
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random_interleavings),
                                       cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}

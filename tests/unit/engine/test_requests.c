/* SPDX-License-Identifier: Apache-2.0
 *
 * What a request can ask for, over a tiny model: how its tokens are drawn and which may come, where it ends,
 * what is told and how, what is shared with others.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cpu/sample.h"
#include "tiny_engine.h"

static nib_engine *e;

static int open_engine(void **state) {
    (void)state;
    e = open_tiny(&(nib_options){.max_model_len = 400, .max_num_seqs = 4}, NULL);
    return 0;
}

static int close_engine(void **state) {
    (void)state;
    nib_close(e);
    return 0;
}

static answer ask(const nib_request_options *o) {
    static answer a;
    read_answer(submit_options(e, o), &a);
    return a;
}

static nib_status refusal(const nib_request_options *options, const char *words) {
    nib_request *r;
    nib_error err = {""};
    nib_request_options o = *options;
    o.size = sizeof o;
    nib_status status = nib_submit(e, &o, &r, &err);
    if (status == NIB_OK || !strstr(err.text, words))
        fail_msg("'%s' does not say '%s'", err.text, words);
    assert_null(r);
    return status;
}

#define PROMPT .prompt = tiny_prompt, .n_prompt = 3

/* ---- the draw ---- */

/* The answer as the model and the sampler give it, without an engine. */
static void compute_alone(const sample_row *settings, int n, int32_t *tokens, sampled *drawn) {
    loaded *l;
    nib_options o = {.threads = 1, .max_model_len = 400};
    assert_int_equal(loaded_open(&l, TINY, &o, NULL, NULL), NIB_OK);
    void *scratch = mem_aligned(sample_scratch_bytes(TINY_VOCAB));
    int32_t pages[8] = {0, 1, 2, 3, 4, 5, 6, 7}, sequence[400];
    memcpy(sequence, tiny_prompt, sizeof tiny_prompt);
    for (int i = 0; i < n; i++) {
        int n_rows = i == 0 ? 3 : 1, pos = i == 0 ? 0 : 2 + i;
        batch_seq seq = {.pages = CACHE_EVERY_GROUP(pages), .n_pages = 8, .n_rows = n_rows, .pos = pos};
        batch b = {.tokens = sequence + pos,
                   .n_rows = n_rows,
                   .seqs = &seq,
                   .n_seqs = 1,
                   .out_rows = &(int32_t){n_rows - 1},
                   .n_out = 1};
        const float *logits;
        assert_int_equal(model_forward(l->model, &b, &logits, NULL), NIB_OK);
        sample_row how = *settings;
        how.tokens = sequence;
        how.n_prompt = 3;
        how.n_tokens = 3 + i;
        how.position = (uint64_t)i;
        sample_pick(&drawn[i], logits, TINY_VOCAB, &how, scratch);
        tokens[i] = sequence[3 + i] = drawn[i].token;
    }
    mem_free(scratch);
    loaded_close(l);
}

/* A draw shifted by one, or a penalty window of 63, gives other tokens. */
static void test_draws(void **state) {
    (void)state;
    enum { N = 150 };
    static const sample_row settings[] = {
        {.temperature = 1, .seed = 5, .n_top = -1},
        {.temperature = 0.9f, .top_k = 30, .top_p = 0.9f, .min_p = 0.01f, .seed = 6, .n_top = -1},
        {.repeat_penalty = 3, .penalty_window = 64, .n_top = -1},
        {.temperature = 0.7f, .repeat_penalty = 1.5f, .penalty_window = 64, .seed = 7, .n_top = 3},
        {.temperature = 0.7f, .presence_penalty = 1, .frequency_penalty = 0.5f, .seed = 8, .n_top = 20},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const sample_row *s = &settings[i];
        int32_t tokens[N];
        static sampled drawn[N];
        compute_alone(s, N, tokens, drawn);
        nib_sampling how = {.size = sizeof how,
                            .temperature = s->temperature,
                            .top_k = s->top_k,
                            .top_p = s->top_p,
                            .min_p = s->min_p,
                            .repeat_penalty = s->repeat_penalty,
                            .presence_penalty = s->presence_penalty,
                            .frequency_penalty = s->frequency_penalty,
                            .seed = s->seed};
        nib_request *r =
            submit_options(e, &(nib_request_options){PROMPT, .max_tokens = N, .ignore_eos = true,
                                                     .sampling = &how, .logprobs = s->n_top >= 0,
                                                     .top_logprobs = s->n_top > 0 ? s->n_top : 0});
        for (int k = 0; k < N; k++) {
            nib_event event = next(r, -1);
            assert_int_equal(event.token, tokens[k]);
            assert_true(event.seed == s->seed);
            assert_int_equal(event.n_top, s->n_top > 0 ? s->n_top : 0);
            assert_true(s->n_top < 0 || event.logprob == drawn[k].logprob);
            for (int j = 0; j < event.n_top; j++) {
                assert_int_equal(event.top[j].token, drawn[k].top[j].token);
                assert_true(event.top[j].logprob == drawn[k].top[j].logprob);
            }
        }
        assert_int_equal(next(r, -1).kind, NIB_EVENT_END);
        nib_release(r);
    }
    refusal(&(nib_request_options){PROMPT, .logprobs = true, .top_logprobs = 21}, "top_logprobs is 21");
    refusal(&(nib_request_options){PROMPT, .top_logprobs = 1}, "needs logprobs");
}

static void test_random_seed(void **state) {
    (void)state;
    nib_sampling how = {.size = sizeof how, .temperature = 3, .random_seed = true};
    nib_request_options o = {PROMPT, .max_tokens = 30, .ignore_eos = true, .sampling = &how};
    answer a = ask(&o), b = ask(&o);
    assert_true(a.end.seed != b.end.seed);
    assert_memory_not_equal(a.tokens, b.tokens, 30 * sizeof(int32_t));
    how.random_seed = false; /* the one that was told gives the same again */
    how.seed = a.end.seed;
    b = ask(&o);
    assert_memory_equal(a.tokens, b.tokens, 30 * sizeof(int32_t));
}

/* ---- what may come, and where it ends ---- */

static void test_ends(void **state) {
    (void)state;
    nib_token_bias to_end = {2, 1000}; /* the model's end, wanted at once */
    nib_request_options o = {PROMPT, .max_tokens = 5, .bias = &to_end, .n_bias = 1};
    answer a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_STOP);
    assert_int_equal(a.end.end_token, 2);
    assert_int_equal(a.end.end_text, -1);
    assert_int_equal(a.n_tokens, 0);
    o.ignore_eos = true;
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_LENGTH);
    assert_int_equal(a.n_tokens, 5);
    assert_int_equal(a.tokens[4], 2);
    assert_string_equal(a.text, "");
    o.ignore_eos = false;
    o.min_tokens = 3; /* until then it cannot come, whatever the bias */
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_STOP);
    assert_int_equal(a.n_tokens, 3);
    for (int i = 0; i < 3; i++)
        assert_int_not_equal(a.tokens[i], 2);
    int32_t stop = 77;
    nib_token_bias two[] = {{77, 2000}, {2, 1000}};
    o = (nib_request_options){PROMPT,      .max_tokens = 9,   .ignore_eos = true, .bias = two,
                              .n_bias = 2, .stop_ids = &stop, .n_stop_ids = 1,    .min_tokens = 4};
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_STOP);
    assert_int_equal(a.end.end_token, 77);
    assert_int_equal(a.n_tokens, 4);
    assert_int_equal(a.tokens[3], 2);
    two[1].token = 77;
    refusal(&o, "token 77 has two biases");
    two[1] = (nib_token_bias){5, NAN};
    refusal(&o, "the bias of token 5 is nan");
    two[1].token = 280;
    refusal(&o, "token 0 of the bias is 280");
    o.n_bias = 0;
    stop = -1;
    refusal(&o, "token 0 of the stop_ids is -1");
    o.n_stop_ids = 0;
    o.min_tokens = 10;
    refusal(&o, "min_tokens is 10");
    o.min_tokens = -1;
    refusal(&o, "min_tokens is -1");
}

static void test_forbidden(void **state) {
    (void)state;
    nib_request_options plain = {PROMPT, .max_tokens = 20, .ignore_eos = true};
    answer a = ask(&plain);
    nib_token_bias never = {a.tokens[0], -INFINITY};
    nib_request_options o = {PROMPT, .max_tokens = 20, .ignore_eos = true, .bias = &never, .n_bias = 1};
    answer b = ask(&o);
    for (int i = 0; i < 20; i++)
        assert_int_not_equal(b.tokens[i], never.token);
    static nib_token_bias all[TINY_VOCAB];
    for (int i = 0; i < TINY_VOCAB; i++)
        all[i] = (nib_token_bias){i, -INFINITY};
    o.bias = all;
    o.n_bias = TINY_VOCAB;
    b = ask(&o);
    assert_int_equal(b.end.reason, NIB_END_FAILED);
    assert_non_null(strstr(b.error, "no token is left"));
}

/* The text is that before the stop text, however the tokens cut it, and nothing of it was ever told. */
static void test_stop_texts(void **state) {
    (void)state;
    nib_sampling how = {.size = sizeof how, .temperature = 1.5f, .seed = 3};
    nib_request_options o = {PROMPT, .max_tokens = 120, .ignore_eos = true, .sampling = &how};
    answer a = ask(&o);
    size_t length = strlen(a.text);
    assert_true(length > 60);
    for (size_t at = 0; at + 7 < length; at += 3)
        for (size_t n = 1; n <= 7; n += 3) {
            char stop[8] = {0};
            memcpy(stop, a.text + at, n);
            if (((unsigned char)stop[0] & 0xC0) == 0x80 || ((unsigned char)a.text[at + n] & 0xC0) == 0x80)
                continue; /* not a whole character */
            const char *const stops[] = {"\x7F never", stop, "nor this \x7F"};
            o.stop_texts = stops;
            o.n_stop_texts = 3;
            answer b = ask(&o);
            size_t first = (size_t)(strstr(a.text, stop) - a.text);
            assert_int_equal(b.end.reason, NIB_END_STOP);
            assert_int_equal(b.end.end_text, 1);
            assert_int_equal(b.end.end_token, -1);
            if (strlen(b.text) != first)
                fail_msg("stop [%s] in [%s]: [%s]", stop, a.text, b.text);
            assert_memory_equal(b.text, a.text, first);
            assert_memory_equal(b.tokens, a.tokens, (size_t)b.n_tokens * sizeof(int32_t));
        }
    char begun[8] = {0}; /* what only begins like a stop text is told in the end */
    size_t last = length - 1;
    while (((unsigned char)a.text[last] & 0xC0) == 0x80)
        last--;
    strcat(strcpy(begun, a.text + last), "\x7F");
    o.stop_texts = (const char *const[]){begun};
    o.n_stop_texts = 1;
    answer b = ask(&o);
    assert_int_equal(b.end.reason, NIB_END_LENGTH);
    assert_string_equal(b.text, a.text);
    static const char *const bad[] = {"", "\xFF", NULL};
    for (int i = 0; i < 3; i++) {
        o.stop_texts = &bad[i];
        refusal(&o, "stop text 0 is empty");
    }
    o.stop_texts = NULL;
    refusal(&o, "stop_texts is NULL");
}

/* ---- guides ---- */

typedef struct even_guide {
    int32_t accepted[200];
    int n_accepted, n_masks, fail_mask_at, fail_accept_at;
} even_guide;

/* Even tokens where the one before was not; from 70 on only. */
static nib_status even_mask(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    even_guide *g = context;
    assert_int_equal(n_words, (TINY_VOCAB + 31) / 32);
    if (++g->n_masks == g->fail_mask_at) {
        snprintf(err->text, sizeof err->text, "no mask today");
        return NIB_NO_MEMORY;
    }
    for (size_t t = 70; t < TINY_VOCAB; t++)
        if (t % 2 == (size_t)g->n_accepted % 2)
            bits[t / 32] |= 1u << t % 32;
    return NIB_OK;
}

static nib_status even_accept(void *context, int32_t token, nib_error *err) {
    even_guide *g = context;
    g->accepted[g->n_accepted++] = token;
    if (g->n_accepted == g->fail_accept_at) {
        snprintf(err->text, sizeof err->text, "not this one");
        return NIB_BAD_ARGUMENT;
    }
    return NIB_OK;
}

static void test_guides(void **state) {
    (void)state;
    even_guide g = {.n_accepted = 0};
    nib_guide guide = {.size = sizeof guide, .context = &g, .mask = even_mask, .accept = even_accept};
    nib_sampling how = {.size = sizeof how, .temperature = 2, .seed = 9};
    nib_request_options o = {PROMPT, .max_tokens = 100, .ignore_eos = true, .guide = &guide,
                             .sampling = &how};
    answer a = ask(&o);
    assert_int_equal(a.n_tokens, 100);
    assert_int_equal(g.n_accepted, 100);
    assert_memory_equal(a.tokens, g.accepted, 100 * sizeof(int32_t));
    for (int i = 0; i < 100; i++)
        assert_true(a.tokens[i] >= 70 && a.tokens[i] % 2 == i % 2);
    g = (even_guide){.fail_mask_at = 4};
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_FAILED);
    assert_int_equal(a.end.status, NIB_NO_MEMORY);
    assert_string_equal(a.error, "no mask today");
    assert_int_equal(a.n_tokens, 3);
    g = (even_guide){.fail_accept_at = 4};
    a = ask(&o);
    assert_int_equal(a.end.status, NIB_BAD_ARGUMENT);
    assert_string_equal(a.error, "not this one");
    guide.accept = NULL;
    refusal(&o, "mask or accept is NULL");
}

/* ---- what is told ---- */

static nib_status (*sound_step_wait)(backend *be, nib_error *err);

static nib_status slow_step(backend *be, nib_error *err) {
    usleep(20000);
    return sound_step_wait(be, err);
}

/* prompt_ms ends with the first token, generate_ms with the last. */
static void test_times(void **state) {
    (void)state;
    backend *be = e->l->be; /* the engine's thread is idle whenever this one changes BE */
    sound_step_wait = be->step_wait;
    be->step_wait = slow_step;
    nib_request *first = submit(e, 1), *r = submit(e, 6);
    double prompt_ms = 0;
    for (int i = 0; i < 7; i++) {
        nib_event event = next(r, -1);
        assert_int_equal(event.kind, i < 6 ? NIB_EVENT_TOKEN : NIB_EVENT_END);
        prompt_ms = i == 0 ? event.prompt_ms : prompt_ms;
        assert_true(event.prompt_ms == prompt_ms && prompt_ms >= 20);
        assert_true(event.queue_ms >= 0 && event.queue_ms <= prompt_ms - 20);
        assert_true(event.generate_ms >= 20 * (i < 6 ? i : 5));
        if (i == 6)
            assert_true(event.generate_ms > 95);
    }
    be->step_wait = sound_step_wait;
    nib_release(r);
    nib_release(first);
}

typedef struct heard {
    pthread_mutex_t lock;
    pthread_cond_t ended;
    int n_running, n_started, to_start;
    answer answers[64];
} heard;

static heard all;

typedef struct listener {
    int number;
    bool starts_another; /* from inside the callback, at its end */
} listener;

static listener listeners[64];

static void hear(void *context, nib_request *r, const nib_event *event) {
    listener *l = context;
    answer *a = &all.answers[l->number];
    strncat(a->text, event->text, sizeof a->text - strlen(a->text) - 1);
    if (event->kind == NIB_EVENT_TOKEN) {
        a->tokens[a->n_tokens++] = event->token;
        return;
    }
    a->end = *event;
    pthread_mutex_lock(&all.lock);
    int another = l->starts_another ? all.n_started++ : -1;
    pthread_mutex_unlock(&all.lock);
    if (another >= 0) {
        nib_request *next_one;
        listeners[another] = (listener){another, false};
        nib_request_options o = {.size = sizeof o,
                                 PROMPT,
                                 .max_tokens = 20,
                                 .ignore_eos = true,
                                 .on_event = hear,
                                 .event_context = &listeners[another]};
        assert_int_equal(nib_submit(e, &o, &next_one, NULL), NIB_OK);
    }
    nib_release(r);
    pthread_mutex_lock(&all.lock);
    all.n_running -= another < 0;
    pthread_cond_signal(&all.ended);
    pthread_mutex_unlock(&all.lock);
}

/* 40 answers, and 20 more that begin when one of them ends, and no thread for any. */
static void test_callbacks(void **state) {
    (void)state;
    nib_request_options o = {PROMPT, .max_tokens = 20, .ignore_eos = true};
    answer want = ask(&o);
    memset(&all, 0, sizeof all);
    pthread_mutex_init(&all.lock, NULL);
    pthread_cond_init(&all.ended, NULL);
    all.n_started = all.n_running = 40;
    for (int i = 0; i < 40; i++) {
        listeners[i] = (listener){i, i % 2};
        o.on_event = hear;
        o.event_context = &listeners[i];
        nib_request *r = submit_options(e, &o);
        if (i == 0) {
            nib_event event = {.size = sizeof event};
            (void)r; /* may be gone already */
            assert_int_equal(nib_next_event(NULL, &event, 0, NULL), NIB_BAD_ARGUMENT);
        }
    }
    pthread_mutex_lock(&all.lock);
    while (all.n_running > 0)
        pthread_cond_wait(&all.ended, &all.lock);
    pthread_mutex_unlock(&all.lock);
    assert_int_equal(all.n_started, 60);
    for (int i = 0; i < 60; i++) {
        assert_int_equal(all.answers[i].n_tokens, 20);
        assert_memory_equal(all.answers[i].tokens, want.tokens, 20 * sizeof(int32_t));
        assert_string_equal(all.answers[i].text, want.text);
        assert_int_equal(all.answers[i].end.reason, NIB_END_LENGTH);
    }
}

/* ---- sharing ---- */

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
        if (round != 1) /* the fifth waits for a place, and computes its prompt itself */
            assert_true(after.step_rows - before.step_rows < 3 * 250);
        o.same_prompt = NULL;
    }
    nib_request *other = submit(e, 1);
    o.same_prompt = other;
    refusal(&o, "another prompt");
    nib_release(other);
}

static void test_busy(void **state) {
    (void)state;
    nib_engine *full =
        open_tiny(&(nib_options){.max_model_len = 400, .max_num_seqs = 1, .max_waiting = 3}, NULL);
    nib_request *r[8];
    nib_error err = {""};
    int n_taken = 0, n_busy = 0;
    nib_request_options o = {.size = sizeof o, PROMPT, .ignore_eos = true};
    for (int i = 0; i < 8; i++) {
        nib_status status = nib_submit(full, &o, &r[i], &err);
        assert_true(status == NIB_OK || (status == NIB_BUSY && !r[i]));
        n_taken += status == NIB_OK;
        n_busy += status == NIB_BUSY;
    }
    assert_true(n_taken >= 3 && n_taken <= 5); /* one runs, or two have */
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
    nib_request *running = submit(e, 0);
    while (next(running, -1).kind != NIB_EVENT_TOKEN)
        ;
    nib_request_options o = {PROMPT, .max_tokens = 5, .ignore_eos = true, .priority = 4};
    nib_request *low = submit_options(e, &o);
    o.priority = -1; /* makes way for itself */
    answer a = ask(&o);
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
    nib_engine *second = open_tiny(&(nib_options){.max_model_len = 300}, NULL);
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

/* ---- the API itself ---- */

typedef struct watched {
    int n, stop_at;
    uint64_t last, total;
} watched;

static bool watch(void *context, const char *what, uint64_t done, uint64_t total) {
    watched *w = context;
    assert_true(what[0] && done >= w->last && done <= total);
    w->last = done;
    w->total = total;
    return ++w->n != w->stop_at;
}

static void test_progress(void **state) {
    (void)state;
    watched w = {.n = 0};
    nib_engine *other;
    nib_error err = {""};
    nib_options o = {.size = sizeof o, .threads = 1, .progress = watch, .progress_context = &w};
    assert_int_equal(nib_open(&other, TINY, &o, &err), NIB_OK);
    nib_close(other);
    int n = w.n;
    assert_true(n > 2 && w.last == w.total);
    for (int stop_at = 1; stop_at < n; stop_at++) {
        w = (watched){.stop_at = stop_at};
        assert_int_equal(nib_open(&other, TINY, &o, &err), NIB_CANCELLED);
        assert_null(other);
        assert_int_equal(w.n, stop_at);
    }
}

/* Structs of programs that are older or newer than the library. */
static void test_sizes(void **state) {
    (void)state;
    nib_engine *other;
    nib_error err = {""};
    struct {
        nib_options known;
        char unknown[16];
    } newer = {.known = {.size = sizeof newer, .threads = 1}};
    assert_int_equal(nib_open(&other, TINY, &newer.known, &err), NIB_OK);
    nib_close(other);
    newer.unknown[7] = 1;
    assert_int_equal(nib_open(&other, TINY, &newer.known, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "nib_options: byte"));
    newer.known.size = 0;
    assert_int_equal(nib_open(&other, TINY, &newer.known, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "set it to sizeof(nib_options)"));
    nib_options old = {.size = offsetof(nib_options, max_waiting), .threads = 1, .max_waiting = -5};
    assert_int_equal(nib_open(&other, TINY, &old, &err), NIB_OK); /* what lies behind is not read */
    nib_close(other);
    nib_info info;
    memset(&info, 0x5A, sizeof info);
    info.size = offsetof(nib_info, compute_mode);
    assert_int_equal(nib_get_info(e, &info, NULL), NIB_OK);
    assert_int_equal(info.size, offsetof(nib_info, compute_mode));
    assert_string_equal(info.family, "llama");
    assert_int_equal(*(unsigned char *)&info.compute_mode, 0x5A); /* not written */
    nib_request *r = submit(e, 1);
    nib_event event = {.size = 0};
    assert_int_equal(nib_next_event(r, &event, -1, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(next(r, -1).kind, NIB_EVENT_TOKEN); /* none was lost */
    nib_release(r);
}

static void test_null_arguments(void **state) {
    (void)state;
    nib_engine *other;
    nib_request *r;
    int32_t *ids;
    size_t n;
    char *text;
    nib_error err;
    nib_request_options o = {.size = sizeof o, PROMPT};
    nib_message message = {"user", NULL};
    assert_int_equal(nib_open(NULL, TINY, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_open(&other, NULL, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_submit(NULL, &o, &r, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_submit(e, NULL, &r, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_submit(e, &o, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_next_event(NULL, &(nib_event){.size = sizeof(nib_event)}, 0, &err),
                     NIB_BAD_ARGUMENT);
    r = submit(e, 1);
    assert_int_equal(nib_next_event(r, NULL, 0, &err), NIB_BAD_ARGUMENT);
    nib_release(r);
    assert_int_equal(nib_get_info(NULL, &(nib_info){.size = sizeof(nib_info)}, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_get_info(e, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_get_stats(NULL, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_get_stats(e, NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_reset_prefix_cache(NULL, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_tokenize(NULL, "a", 1, 0, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_tokenize(e, NULL, 1, 0, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_tokenize(e, "a", 1, 0, NULL, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_detokenize(NULL, tiny_prompt, 3, &text, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_detokenize(e, NULL, 3, &text, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_detokenize(e, tiny_prompt, 3, NULL, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_chat_tokens(NULL, &message, 1, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_chat_tokens(e, NULL, 1, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_int_equal(nib_chat_tokens(e, &message, 1, &ids, &n, &err), NIB_BAD_ARGUMENT);
    nib_free(NULL);
    nib_cancel(NULL);
    nib_release(NULL);
    nib_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws),        cmocka_unit_test(test_random_seed),
        cmocka_unit_test(test_ends),         cmocka_unit_test(test_forbidden),
        cmocka_unit_test(test_stop_texts),   cmocka_unit_test(test_guides),
        cmocka_unit_test(test_times),        cmocka_unit_test(test_callbacks),
        cmocka_unit_test(test_prefix_cache), cmocka_unit_test(test_same_prompt),
        cmocka_unit_test(test_busy),         cmocka_unit_test(test_priority),
        cmocka_unit_test(test_two_engines),  cmocka_unit_test(test_progress),
        cmocka_unit_test(test_sizes),        cmocka_unit_test(test_null_arguments),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}

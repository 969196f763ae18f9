/* SPDX-License-Identifier: Apache-2.0
 *
 * Callbacks note when tokens come; the main thread moves from phase to phase. See load.h.
 */
#include "cli/load.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "cli/cli.h"

enum {
    STREAM_PROMPT = 16,
    WARM_TOKENS = 8,  /* of each answer, not measured */
    ALONE_TOKENS = 32 /* of each answer, measured without the prompt */
};

typedef enum load_phase { PHASE_WARM, PHASE_ALONE, PHASE_BESIDE, N_PHASES } load_phase;

typedef struct load_session load_session;

typedef struct load_stream {
    load_session *session;
    nib_request *request;
    int n_tokens;
    double last; /* seconds */
    bool ended;
} load_stream;

struct load_session {
    nib_engine *engine;
    int n_streams, max_len;
    load_stream streams[LOAD_MAX_STREAMS + 1]; /* the last is the long prompt's */
    pthread_mutex_t lock;                      /* guards everything here */
    pthread_cond_t changed;
    load_phase phase;
    double *gaps[N_PHASES]; /* [n_gaps] milliseconds, room for all tokens of all streams */
    int n_gaps[N_PHASES];
    double first_token_ms;
    nib_error failure;
    nib_status status;
};

/* On the engine's thread. */
static void hear(void *context, nib_request *request, const nib_event *event) {
    load_stream *stream = context;
    load_session *s = stream->session;
    double now = clock_seconds();
    bool is_prompt = stream == &s->streams[s->n_streams];
    (void)request;
    pthread_mutex_lock(&s->lock);
    if (event->kind == NIB_EVENT_END) {
        stream->ended = true;
        if (event->reason == NIB_END_FAILED && s->status == NIB_OK)
            s->status = nib_fail(&s->failure, event->status, "%s", event->error);
    } else if (is_prompt) {
        s->first_token_ms = event->prompt_ms;
    } else {
        if (stream->n_tokens++ > 0)
            s->gaps[s->phase][s->n_gaps[s->phase]++] = 1e3 * (now - stream->last);
        stream->last = now;
    }
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static nib_status submit(load_session *s, int i, int n_prompt, int max_tokens, nib_error *err) {
    load_stream *stream = &s->streams[i];
    int32_t *prompt = mem_array((size_t)n_prompt, sizeof *prompt);
    nib_info info = {.size = sizeof info};
    if (!prompt)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for a prompt of %d tokens", n_prompt);
    nib_status status = nib_get_info(s->engine, &info, err);
    uint32_t random = 12345u + (uint32_t)i;
    for (int k = 0; status == NIB_OK && k < n_prompt; k++) {
        random = random * 1664525u + 1013904223u;
        prompt[k] = (int32_t)((random >> 8) % (uint32_t)info.vocab_size);
    }
    stream->session = s;
    nib_request_options o = {.size = sizeof o,
                             .prompt = prompt,
                             .n_prompt = (size_t)n_prompt,
                             .max_tokens = max_tokens,
                             .ignore_eos = true,
                             .on_event = hear,
                             .event_context = stream};
    if (status == NIB_OK)
        status = nib_submit(s->engine, &o, &stream->request, err);
    mem_free(prompt);
    return status;
}

/* With the lock held: whether everyone whom the phase waits for has come so far. */
static bool is_over(const load_session *s, int n_tokens, bool prompt) {
    if (prompt)
        return s->streams[s->n_streams].ended;
    for (int i = 0; i < s->n_streams; i++)
        if (s->streams[i].n_tokens < n_tokens && !s->streams[i].ended)
            return false;
    return true;
}

/* Until every stream has N_TOKENS, or the prompt its answer; then comes phase NEXT. */
static nib_status wait_for(load_session *s, int n_tokens, bool prompt, load_phase next, nib_error *err) {
    pthread_mutex_lock(&s->lock);
    while (s->status == NIB_OK && !cli_interrupted && !is_over(s, n_tokens, prompt)) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
    }
    nib_status status = s->status;
    if (status != NIB_OK)
        nib_fail(err, status, "%s", s->failure.text);
    else if (cli_interrupted)
        status = nib_fail(err, NIB_CANCELLED, "interrupted");
    s->phase = next;
    pthread_mutex_unlock(&s->lock);
    return status;
}

static nib_status run_phases(load_session *s, const load_test *test, load_result *out, nib_error *err) {
    int most = s->max_len - 2;
    out->n_prompt = test->n_prompt ? test->n_prompt : most < LOAD_PROMPT ? most : LOAD_PROMPT;
    for (int i = 0; i < s->n_streams; i++)
        NIB_TRY(submit(s, i, STREAM_PROMPT, 0, err));
    NIB_TRY(wait_for(s, WARM_TOKENS, false, PHASE_ALONE, err));
    NIB_TRY(wait_for(s, WARM_TOKENS + ALONE_TOKENS, false, PHASE_BESIDE, err));
    NIB_TRY(submit(s, s->n_streams, out->n_prompt, 1, err));
    return wait_for(s, 0, true, PHASE_WARM, err);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static load_gaps summarize(double *gaps, int n) {
    if (n == 0)
        return (load_gaps){0};
    qsort(gaps, (size_t)n, sizeof *gaps, ascending);
    return (load_gaps){gaps[n / 2], gaps[(int)(0.99 * (n - 1))], gaps[n - 1], n};
}

static nib_status open_session(load_session *s, const char *model, const nib_options *compute,
                               const load_test *test, nib_error *err) {
    nib_options o = *compute;
    nib_info info = {.size = sizeof info};
    s->n_streams = test->n_streams;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    o.size = sizeof o;
    o.max_num_seqs = test->n_streams + 1;
    o.prefill_beside = test->prefill_beside;
    NIB_TRY(nib_open(&s->engine, model, &o, err));
    NIB_TRY(nib_get_info(s->engine, &info, err));
    s->max_len = info.max_model_len;
    if (s->max_len < 2 * (WARM_TOKENS + ALONE_TOKENS + STREAM_PROMPT) || test->n_prompt > s->max_len - 2)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: sequences of %d tokens are too short for this test",
                        model, s->max_len);
    for (int i = 0; i < N_PHASES; i++) {
        s->gaps[i] = mem_array((size_t)s->n_streams * (size_t)s->max_len, sizeof *s->gaps[i]);
        if (!s->gaps[i])
            return nib_fail(err, NIB_NO_MEMORY, "out of memory for the times of tokens");
    }
    return NIB_OK;
}

nib_status load_run(const char *model, const nib_options *compute, const load_test *test, load_result *out,
                    nib_error *err) {
    *out = (load_result){0};
    load_session *s = mem_array(1, sizeof *s);
    if (!s)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    nib_status status = open_session(s, model, compute, test, err);
    if (status == NIB_OK)
        status = run_phases(s, test, out, err);
    for (int i = 0; i <= s->n_streams; i++)
        nib_release(s->streams[i].request);
    nib_close(s->engine); /* every END is heard before it returns */
    out->alone = summarize(s->gaps[PHASE_ALONE], s->n_gaps[PHASE_ALONE]);
    out->beside = summarize(s->gaps[PHASE_BESIDE], s->n_gaps[PHASE_BESIDE]);
    out->first_token_ms = s->first_token_ms;
    for (int i = 0; i < N_PHASES; i++)
        mem_free(s->gaps[i]);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->changed);
    mem_free(s);
    return status;
}

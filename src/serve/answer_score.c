/* SPDX-License-Identifier: Apache-2.0
 *
 * A prompt is generated from its first token on by a guide that lets its next token come and no other: what
 * the network gave each is its log-probability. Exact, at the speed of decoding.
 */
#include "serve/answer_score.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "serve/answer_take.h"

enum {
    LOOK_MS = 100,     /* how often the clock is looked at */
    MOST_TOLD = 250000 /* of prompt_logprobs */
};

static nib_status force_next(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    const answer_prompt *p = context;
    const int32_t token = p->ids[p->n_forced + 1];
    if ((size_t)token / 32 >= n_words)
        return nib_fail(err, NIB_BAD_ARGUMENT, "token %d is not in the vocabulary", token);
    bits[token / 32] |= 1u << (token % 32);
    return NIB_OK;
}

static nib_status forced(void *context, int32_t token, nib_error *err) {
    answer_prompt *p = context;
    (void)token, (void)err;
    p->n_forced++;
    return NIB_OK;
}

/* p->guide.context is P: the list of prompts no longer moves. */
static nib_status submit(answer *r, answer_prompt *p, nib_error *err) {
    p->tokens = mem_array(p->n, sizeof *p->tokens);
    if (!p->tokens)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for log-probabilities");
    p->tokens[0] = (answer_token){.token = p->ids[0], .logprob = NAN}; /* nothing was before it */
    if (p->n == 1)
        return NIB_OK;
    p->guide = (nib_guide){.size = sizeof p->guide, .context = p, .mask = force_next, .accept = forced};
    const nib_request_options o = {.size = sizeof o,
                                   .prompt = p->ids,
                                   .n_prompt = 1,
                                   .max_tokens = (int)p->n - 1,
                                   .ignore_eos = true,
                                   .logprobs = true,
                                   .top_logprobs = r->ask.prompt_logprobs >= 0 ? r->ask.prompt_logprobs
                                                                               : r->ask.top_logprobs,
                                   .guide = &p->guide,
                                   .priority = r->ask.priority,
                                   .cache_salt = r->salt};
    nib_status status = NIB_OK;
    pthread_mutex_lock(&r->lock);
    if (r->cancelled)
        status = nib_fail(err, NIB_CANCELLED, "the request was cancelled");
    else
        status = nib_submit(r->server->engine, &o, &p->scoring, err);
    pthread_mutex_unlock(&r->lock);
    return status;
}

static bool collect(const answer *r, answer_prompt *p, api_error *e) {
    nib_event event = {.size = sizeof event};
    size_t n = 1;
    while (event.kind != NIB_EVENT_END) {
        nib_error words = {""};
        const nib_status status = nib_next_event(p->scoring, &event, LOOK_MS, &words);
        if (status != NIB_OK)
            return api_error_from(e, status, &words);
        if (answer_is_late(r, e))
            return false;
        if (event.kind != NIB_EVENT_TOKEN || n >= p->n)
            continue;
        answer_token *t = &p->tokens[n++];
        *t = (answer_token){.token = event.token, .logprob = event.logprob, .n_top = event.n_top};
        for (int i = 0; i < event.n_top && i < NIB_MAX_LOGPROBS; i++)
            t->top[i] = event.top[i];
    }
    return n == p->n ||
           api_error_set(e, API_FAILED, NULL, "the prompt's log-probabilities could not be computed%s%s",
                         event.error[0] ? ": " : "", event.error);
}

/* Each is told in some hundred bytes, which are in memory at once. */
static bool are_too_many(const answer *r, api_error *e) {
    size_t n = 0;
    for (size_t i = 0; i < r->n_prompts; i++)
        n += r->prompts[i].n * (size_t)(r->ask.prompt_logprobs + 1);
    return n > MOST_TOLD &&
           !api_error_set(e, API_INVALID, "prompt_logprobs",
                          "'prompt_logprobs' asks for %zu log-probabilities; at most %d are told at once", n,
                          MOST_TOLD);
}

bool answer_score(answer *r, api_error *e) {
    if (are_too_many(r, e))
        return false;
    for (size_t i = 0; i < r->n_prompts; i++) {
        nib_error words = {""};
        const nib_status status = submit(r, &r->prompts[i], &words);
        if (status != NIB_OK)
            return api_error_from(e, status, &words);
    }
    for (size_t i = 0; i < r->n_prompts; i++)
        if (r->prompts[i].scoring && !collect(r, &r->prompts[i], e))
            return false;
    return true;
}

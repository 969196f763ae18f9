/* SPDX-License-Identifier: Apache-2.0
 *
 * Tokens to text, reasoning and calls; the end to a reason.
 */
#include "serve/answer_take.h"

#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "serve/meters.h"

static void no_memory(answer *r) {
    api_error_set(&r->error, API_FAILED, NULL, "out of memory for the answer");
}

/* Room for one more of SIZE bytes; NULL: no memory. */
static void *grow(void *list, size_t n, size_t *capacity, size_t size) {
    if (n < *capacity)
        return list;
    void *grown = mem_resize(list, n * 2 + 16, size);
    if (grown)
        *capacity = n * 2 + 16;
    return grown;
}

/* ---- pieces ---- */

static bool add_piece(choice *c, nib_piece_kind kind, int call, const char *text, size_t n) {
    answer_piece *last = c->n_pieces ? &c->pieces[c->n_pieces - 1] : NULL;
    buf_add(&c->fresh, text, n);
    if (last && last->kind == kind && last->call == call && kind != NIB_PIECE_CALL) {
        last->n += n;
        return !c->fresh.failed;
    }
    answer_piece *grown = grow(c->pieces, c->n_pieces, &c->pieces_capacity, sizeof *grown);
    if (!grown)
        return false;
    c->pieces = grown;
    c->pieces[c->n_pieces++] = (answer_piece){kind, call, n};
    return !c->fresh.failed;
}

static bool add_call(const answer *r, choice *c, const nib_piece *piece) {
    const char *format = r->server->chat_info.call_format;
    answer_call *grown = mem_resize(c->calls, c->n_calls + 1, sizeof *grown);
    if (!grown)
        return false;
    c->calls = grown;
    answer_call *call = &c->calls[c->n_calls++];
    *call = (answer_call){.id = ""};
    if (piece->id_bytes > 0 && piece->id_bytes < sizeof call->id)
        memcpy(call->id, piece->id, piece->id_bytes);
    else if (format && strcmp(format, "mistral") == 0)
        http_new_id(call->id, 10, ""); /* its template wants nine letters */
    else
        http_new_id(call->id, sizeof call->id, "call_");
    buf_add(&call->name, piece->text, piece->text_bytes);
    return !call->name.failed;
}

typedef struct taker {
    answer *r;
    choice *c;
    bool failed;
} taker;

static bool wants_call(const answer *r) {
    return r->ask.tool_choice >= ASK_TOOLS_REQUIRED;
}

bool answer_call_is_whole(const answer_call *call) {
    const buf *arguments = &call->arguments;
    json_t *json = NULL;
    const bool whole = json_read_written(&json, arguments->n ? arguments->bytes : "", arguments->n, "a call",
                                         NULL) == NIB_OK;
    json_decref(json);
    return whole;
}

static bool has_whole_call(const choice *c) {
    for (size_t i = 0; i < c->n_calls; i++)
        if (answer_call_is_whole(&c->calls[i]))
            return true;
    return false;
}

static void take_piece(void *context, const nib_piece *piece) {
    taker *t = context;
    choice *c = t->c;
    bool fits = true;
    if (t->r->ask.single_call && piece->kind == NIB_PIECE_CALL && has_whole_call(c) && !c->enough) {
        c->enough = true;
        nib_cancel(c->request);
    }
    if (c->enough) /* what follows the one call is not told */
        return;
    switch (piece->kind) {
    case NIB_PIECE_TEXT:
        buf_add(&c->text, piece->text, piece->text_bytes);
        fits = !c->text.failed;
        if (wants_call(t->r)) { /* it may turn out to be one */
            t->failed |= !fits;
            return;
        }
        break;
    case NIB_PIECE_REASONING:
        buf_add(&c->reasoning, piece->text, piece->text_bytes);
        fits = !c->reasoning.failed;
        break;
    case NIB_PIECE_CALL:
        fits = add_call(t->r, c, piece);
        break;
    case NIB_PIECE_ARGUMENTS:
        buf_add(&c->calls[piece->call].arguments, piece->text, piece->text_bytes);
        fits = !c->calls[piece->call].arguments.failed;
        break;
    }
    if (!fits || !add_piece(c, piece->kind, piece->call, piece->text, piece->text_bytes))
        t->failed = true;
}

/* TEXT of the model, read as a conversation's answer where it is one. */
static void take_text(answer *r, choice *c, const char *text, size_t n) {
    taker t = {.r = r, .c = c};
    nib_error words = {""};
    if (n == 0)
        return;
    if (c->reader) {
        const nib_status status = nib_reader_push(c->reader, text, n, take_piece, &t, &words);
        if (status != NIB_OK)
            api_error_from(&r->error, status, &words);
    } else {
        const nib_piece piece = {.size = sizeof piece, .kind = NIB_PIECE_TEXT, .text = text, .text_bytes = n};
        take_piece(&t, &piece);
    }
    if (t.failed)
        no_memory(r);
}

/* Where a call was asked for and the model's format cannot be held to, the answer is {"name", "arguments"}.
 */
static void take_bare_call(answer *r, choice *c) {
    taker t = {.r = r, .c = c};
    json_t *json = NULL;
    if (c->text.n > 0 && json_read_written(&json, c->text.bytes, c->text.n, "the call", NULL) != NIB_OK)
        json = NULL; /* cut off by the limit: it stays a text */
    const char *name = json_string_value(json_object_get(json, "name"));
    char *arguments = json_dumps(json_object_get(json, "arguments"), JSON_COMPACT);
    if (name && arguments) {
        buf_clear(&c->text);
        take_piece(&t, &(nib_piece){.kind = NIB_PIECE_CALL, .text = name, .text_bytes = strlen(name)});
        take_piece(&t, &(nib_piece){
                           .kind = NIB_PIECE_ARGUMENTS, .text = arguments, .text_bytes = strlen(arguments)});
    } else if (c->text.n > 0 && !add_piece(c, NIB_PIECE_TEXT, 0, c->text.bytes, c->text.n)) {
        t.failed = true;
    }
    json_text_free(arguments);
    json_decref(json);
    if (t.failed)
        no_memory(r);
}

/* ---- meters ---- */

static void observe_token(answer *r, choice *c) {
    const double now = clock_seconds();
    if (c->last_token > 0)
        meters_observe(r->server->meters, METER_ITL, now - c->last_token);
    c->last_token = now;
}

static void observe_end(const answer *r, const choice *c) {
    meters *m = r->server->meters;
    const double n = (double)c->n_ids, decode = c->generate_ms / 1e3;
    meters_count_end(m, r->error.kind                      ? METER_ERROR
                        : strcmp(c->finish, "length") == 0 ? METER_LENGTH
                        : strcmp(c->finish, "abort") == 0  ? METER_ABORT
                                                           : METER_STOP);
    if (c->n_ids == 0)
        return;
    meters_observe(m, METER_TTFT, c->prompt_ms / 1e3);
    meters_observe(m, METER_QUEUE, c->queue_ms / 1e3);
    meters_observe(m, METER_PREFILL, (c->prompt_ms - c->queue_ms) / 1e3);
    meters_observe(m, METER_DECODE, decode);
    meters_observe(m, METER_INFERENCE, (c->prompt_ms - c->queue_ms) / 1e3 + decode);
    meters_observe(m, METER_E2E, c->prompt_ms / 1e3 + decode);
    if (n > 1)
        meters_observe(m, METER_TPOT, decode / (n - 1));
    meters_observe(m, METER_PROMPT_TOKENS, (double)r->prompts[c->prompt].n);
    meters_observe(m, METER_COMPUTED_TOKENS, (double)r->prompts[c->prompt].n - c->n_cached);
    meters_observe(m, METER_GENERATION_TOKENS, n);
    meters_observe(m, METER_N, r->ask.n);
    if (r->ask.max_tokens > 0)
        meters_observe(m, METER_MAX_TOKENS, r->ask.max_tokens);
}

static void observe_longest(const answer *r) {
    size_t longest = 0;
    for (size_t i = 0; i < r->n_choices; i++)
        longest = r->choices[i].n_ids > longest ? r->choices[i].n_ids : longest;
    if (longest > 0)
        meters_observe(r->server->meters, METER_LONGEST, (double)longest);
}

/* ---- tokens ---- */

static bool keep_logprob(choice *c, const nib_event *event) {
    answer_token *grown = grow(c->tokens, c->n_tokens, &c->tokens_capacity, sizeof *grown);
    if (!grown)
        return false;
    c->tokens = grown;
    answer_token *t = &c->tokens[c->n_tokens++];
    *t = (answer_token){.token = event->token, .logprob = event->logprob, .n_top = event->n_top};
    for (int i = 0; i < event->n_top && i < NIB_MAX_LOGPROBS; i++)
        t->top[i] = event->top[i];
    c->sum_logprob += (double)event->logprob;
    return true;
}

static void take_token(answer *r, choice *c, const nib_event *event) {
    int32_t *grown = grow(c->ids, c->n_ids, &c->ids_capacity, sizeof *grown);
    if (!grown) {
        no_memory(r);
        return;
    }
    c->ids = grown;
    c->ids[c->n_ids++] = event->token;
    observe_token(r, c);
    if ((r->ask.logprobs || r->ask.best_of > r->ask.n) && !keep_logprob(c, event))
        no_memory(r);
    if (r->ask.reasoning_budget < 0 || c->n_reasoning < r->ask.reasoning_budget) /* what closes it is none */
        c->n_reasoning += nib_reader_in_reasoning(c->reader);
    take_text(r, c, event->text, event->text_bytes);
}

/* ---- the end ---- */

static void take_reason(answer *r, choice *c, const nib_event *event) {
    switch (event->reason) {
    case NIB_END_STOP:
        c->finish = c->n_calls > 0 ? "tool_calls" : "stop";
        for (size_t i = 0; i < c->n_calls; i++)
            if (!answer_call_is_whole(&c->calls[i])) /* whoever acts on calls must not act on these */
                c->finish = "stop";
        c->stop_text = event->end_text;
        c->stop_token = event->end_token;
        break;
    case NIB_END_LENGTH:
        c->finish = "length";
        break;
    case NIB_END_CANCELLED:
        c->finish = c->enough ? "tool_calls" : "abort";
        if (!c->enough && atomic_load(&r->server->state) == SERVER_DRAINING)
            api_error_set(&r->error, API_UNAVAILABLE, NULL,
                          "the answer is cut off: the server is going down");
        break;
    case NIB_END_FAILED:
        c->finish = "error";
        api_error_set(&r->error, event->status == NIB_BAD_ARGUMENT ? API_INVALID : API_FAILED, NULL,
                      "the answer failed: %s", event->error);
        break;
    }
}

/* The numbers that are wanted; what the request holds is given back at once. */
static void take_vector(answer *r, choice *c, const nib_event *event) {
    c->vector = mem_array(r->n_numbers, sizeof *c->vector);
    if (c->vector)
        memcpy(c->vector, event->embedding, r->n_numbers * sizeof *c->vector);
    else
        no_memory(r);
    pthread_mutex_lock(&r->lock);
    nib_request *done = c->request;
    c->request = NULL;
    pthread_mutex_unlock(&r->lock);
    nib_release(done);
}

static void take_end(answer *r, choice *c, const nib_event *event) {
    take_text(r, c, event->text, event->text_bytes);
    if (r->ask.include_stop && event->reason == NIB_END_STOP && event->end_text >= 0)
        take_text(r, c, r->ask.stops[event->end_text], strlen(r->ask.stops[event->end_text]));
    if (c->reader) {
        taker t = {.r = r, .c = c};
        nib_error words = {""};
        const nib_status status = nib_reader_end(c->reader, take_piece, &t, &words);
        if (status != NIB_OK)
            api_error_from(&r->error, status, &words);
        if (t.failed)
            no_memory(r);
    }
    if (wants_call(r) && c->n_calls == 0)
        take_bare_call(r, c);
    else if (wants_call(r))
        buf_clear(&c->text);  /* white space about the calls */
    take_reason(r, c, event); /* after the last call was read */
    c->n_guessed = event->n_guessed;
    c->n_right_guesses = event->n_right_guesses;
    c->queue_ms = event->queue_ms;
    c->prompt_ms = event->prompt_ms;
    c->generate_ms = event->generate_ms;
    if (event->embedding)
        take_vector(r, c, event);
    observe_end(r, c);
    c->over = true;
    if (--r->n_running == 0 && r->n_started == r->n_choices)
        observe_longest(r);
    if (!r->error.kind)
        answer_start_more(r, &r->error);
}

bool answer_take(answer *r, choice *c, int timeout_ms) {
    nib_event event = {.size = sizeof event};
    nib_error words = {""};
    const nib_status status = nib_next_event(c->request, &event, timeout_ms, &words);
    if (status != NIB_OK) {
        api_error_from(&r->error, status, &words);
        c->over = true;
        return true;
    }
    if (event.kind == NIB_EVENT_NONE)
        return false;
    c->n_cached = event.n_cached;
    if (event.kind == NIB_EVENT_TOKEN)
        take_token(r, c, &event);
    else
        take_end(r, c, &event);
    return true;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * See reply.h.
 */
#include "cli/reply.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/status.h"
#include "cli/cli.h"
#include "cli/ui.h"

/* ---- what is said about an answer, on standard error ---- */

static void print_rates(const nib_event *e) {
    struct rusage usage;
    char peak[32];
    getrusage(RUSAGE_SELF, &usage);
    const int n_computed = e->n_prompt - e->n_cached;
    const double prompt_rate = e->prompt_ms > 0 ? 1e3 * n_computed / e->prompt_ms : 0;
    fprintf(stderr, "%sprompt   %d tokens", ui_color(stderr, UI_DIM), e->n_prompt);
    if (e->n_cached)
        fprintf(stderr, ", %d of them known from before", e->n_cached);
    fprintf(stderr, ", %.1f tokens/s\n", prompt_rate);
    if (e->n_generated > 1 && e->generate_ms > 0)
        fprintf(stderr, "answer   %d tokens, %.1f tokens/s\n", e->n_generated,
                1e3 * (e->n_generated - 1) / e->generate_ms); /* the first came with the prompt */
    else
        fprintf(stderr, "answer   %d token%s\n", e->n_generated, e->n_generated == 1 ? "" : "s");
    fprintf(stderr, "memory   %s at most%s\n",
            ui_bytes(peak, sizeof peak, (unsigned long long)usage.ru_maxrss * 1024),
            ui_color(stderr, UI_RESET));
}

static int bound_of(const reply *a) {
    if (a->options->max_tokens)
        return a->options->max_tokens;
    return a->chat && a->talk.info.reasoning ? REPLY_TOKENS_REASONING : REPLY_TOKENS;
}

/* Why it ended, where neither the model nor a flag ended it. */
static void explain_end(const reply *a) {
    const char *dim = ui_color(stderr, UI_DIM), *reset = ui_color(stderr, UI_RESET);
    if (a->circle)
        fprintf(stderr,
                "%s(stopped: the answer repeats the same %d token%s again and again; --allow-repeats lets it "
                "go on)%s\n",
                dim, a->circle, a->circle == 1 ? "" : "s", reset);
    else if (a->event.reason == NIB_END_LENGTH && a->n_generated < bound_of(a))
        fprintf(stderr, "%s(the answer ends here: %d tokens are all that fit; see --max-model-len)%s\n", dim,
                a->info.max_model_len, reset);
    else if (a->event.reason == NIB_END_LENGTH && !a->options->max_tokens)
        fprintf(stderr, "%s(the answer ends here, after %d tokens; --max-tokens allows more)%s\n", dim,
                a->n_generated, reset);
}

/* ---- one request ---- */

static nib_status keep_ids(reply *a, const int32_t *ids, size_t n, nib_error *err) {
    if (a->n_ids + n > a->ids_capacity) {
        const size_t capacity = 2 * (a->n_ids + n);
        int32_t *grown = mem_resize(a->ids, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "out of memory for the answer");
        a->ids = grown;
        a->ids_capacity = capacity;
    }
    if (n)
        memcpy(a->ids + a->n_ids, ids, n * sizeof *ids);
    a->n_ids += n;
    return NIB_OK;
}

static nib_status keep_text(reply *a, const char *text, size_t n, nib_error *err) {
    if (a->bytes + n > a->text_capacity) {
        const size_t capacity = 2 * (a->bytes + n);
        char *grown = mem_resize(a->text, capacity, 1);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "out of memory for the answer");
        a->text = grown;
        a->text_capacity = capacity;
    }
    memcpy(a->text + a->bytes, text, n);
    return NIB_OK;
}

static nib_status take_token(reply *a, nib_request *request, int32_t token, nib_error *err) {
    const reply_options *o = a->options;
    a->n_generated++;
    const int circle = repeats_push(&a->repeats, token);
    if (circle && !a->circle && !o->circles && !o->ignore_eos) {
        a->circle = circle;
        nib_cancel(request);
    }
    if (!a->chat)
        return NIB_OK;
    a->n_reasoned += nib_reader_in_reasoning(a->talk.reader);
    if (o->reasoning_budget && a->n_reasoned >= o->reasoning_budget && !a->over_budget) {
        a->over_budget = true;
        nib_cancel(request);
    }
    return keep_ids(a, &token, 1, err);
}

/* One event of an answer: shown or kept, and in a chat understood. */
static nib_status take_event(reply *a, nib_request *request, const nib_event *e, nib_error *err) {
    if (e->kind == NIB_EVENT_TOKEN)
        NIB_TRY(take_token(a, request, e->token, err));
    if (e->text_bytes == 0)
        return NIB_OK;
    if (a->options->json && !a->chat)
        NIB_TRY(keep_text(a, e->text, e->text_bytes, err));
    a->bytes += e->text_bytes;
    a->last = e->text[e->text_bytes - 1];
    if (a->chat)
        return talk_push(&a->talk, e->text, e->text_bytes, err);
    if (a->options->json)
        return NIB_OK;
    ui_put_text(stdout, ui_is_terminal(stdout), e->text, e->text_bytes);
    fflush(stdout);
    return NIB_OK;
}

static nib_status end_text(reply *a, nib_error *err) {
    if (a->chat)
        return talk_end(&a->talk, err);
    if (!a->options->json && (a->bytes == 0 || a->last != '\n'))
        putchar('\n');
    return NIB_OK;
}

/* Streams the answer of REQUEST. Ctrl-C cancels it: NIB_CANCELLED. */
static nib_status stream(reply *a, nib_request *request, nib_error *err) {
    bool interrupted = false;
    nib_event e = {.size = sizeof e};
    while (e.kind != NIB_EVENT_END) {
        if (cli_interrupted && !interrupted) {
            nib_cancel(request);
            interrupted = true;
        }
        NIB_TRY(nib_next_event(request, &e, 100, err));
        a->ended = e.kind == NIB_EVENT_END;
        if (e.kind != NIB_EVENT_NONE && !a->over_budget && !a->circle)
            NIB_TRY(take_event(a, request, &e, err));
    }
    a->event = e;
    if (e.reason == NIB_END_FAILED)
        return nib_fail(err, e.status, "the answer failed: %s", e.error);
    if (a->over_budget && !interrupted) /* it goes on behind its reasoning */
        return NIB_OK;
    NIB_TRY(end_text(a, err));
    fflush(stdout);
    if (a->options->verbose)
        print_rates(&e);
    if (interrupted && e.reason == NIB_END_CANCELLED)
        return nib_fail(err, NIB_CANCELLED, "interrupted");
    explain_end(a);
    if (a->shapes.text && !a->options->json && (a->circle || e.reason == NIB_END_LENGTH))
        return nib_fail(err, NIB_UNSUPPORTED,
                        "the answer was cut off after %d tokens, before its shape was complete",
                        a->n_generated);
    return NIB_OK;
}

/* The engine asks a guide until the END. */
static void wait_for_end(reply *a, nib_request *request) {
    nib_event e = {.size = sizeof e};
    nib_cancel(request);
    while (!a->ended && nib_next_event(request, &e, -1, NULL) == NIB_OK)
        a->ended = e.kind == NIB_EVENT_END;
}

static nib_status request(reply *a, const int32_t *ids, size_t n_ids, nib_error *err) {
    nib_sampling sampling = a->options->sampling;
    sampling.seed = a->seed;
    nib_request_options o = {.size = sizeof o,
                             .prompt = ids,
                             .n_prompt = n_ids,
                             .max_tokens = bound_of(a) - a->n_generated,
                             .ignore_eos = a->options->ignore_eos,
                             .sampling = &sampling,
                             .stop_texts = a->options->stops,
                             .n_stop_texts = a->options->n_stops,
                             .control_text = a->chat && (a->talk.tools || a->talk.info.reasoning)};
    nib_request *r = NULL;
    nib_guide guide = {.size = sizeof guide};
    if (a->shapes.text) {
        const bool begun = a->chat && nib_reader_in_reasoning(a->talk.reader);
        NIB_TRY(shapes_guide(&a->shapes, a->engine, a->chat ? &a->talk.info : NULL, begun, &guide, err));
        o.guide = &guide;
    }
    a->ended = false;
    nib_status status = nib_submit(a->engine, &o, &r, err);
    if (status == NIB_OK)
        status = stream(a, r, err);
    if (r && !a->ended)
        wait_for_end(a, r);
    nib_release(r);
    nib_shape_free_guide(&guide);
    return status;
}

static void begin(reply *a) {
    a->bytes = 0;
    a->n_reasoned = a->n_generated = a->circle = 0;
    a->over_budget = false;
    a->repeats = (repeats){.n = 0};
}

nib_status reply_plain(reply *a, const char *text, nib_error *err) {
    int32_t *ids = NULL;
    size_t n_ids = 0;
    begin(a);
    NIB_TRY(nib_tokenize(a->engine, text, strlen(text), 0, &ids, &n_ids, err));
    nib_status status = n_ids > 0
                            ? request(a, ids, n_ids, err)
                            : nib_fail(err, NIB_BAD_ARGUMENT, "the prompt is empty; expected some text");
    nib_free(ids);
    return status;
}

/* ---- a turn of a conversation ---- */

/* The conversation's ids, its oldest turns left out where they no longer fit with room for an answer. */
static nib_status conversation(reply *a, nib_error *err) {
    size_t room = (size_t)a->info.max_model_len / 4, dropped = 0, n;
    int32_t *ids;
    if (room > 256)
        room = 256;
    for (;;) {
        NIB_TRY(talk_ids(&a->talk, &ids, &n, err));
        if (n + room <= (size_t)a->info.max_model_len || !talk_drop_oldest(&a->talk))
            break;
        nib_free(ids);
        dropped++;
    }
    if (dropped)
        fprintf(stderr, "%s(%zu old turn%s left out: %d tokens are all that fit)%s\n",
                ui_color(stderr, UI_DIM), dropped, dropped == 1 ? "" : "s", a->info.max_model_len,
                ui_color(stderr, UI_RESET));
    a->n_ids = 0;
    const nib_status status = keep_ids(a, ids, n, err);
    nib_free(ids);
    return status;
}

/* The reasoning has used up its budget: it is closed for the model, which goes on from there. */
static nib_status close_reasoning(reply *a, nib_error *err) {
    char text[128];
    const int n = snprintf(text, sizeof text, "\n%s\n\n", a->talk.info.reasoning_end);
    int32_t *ids;
    size_t n_ids;
    NIB_TRY(talk_push(&a->talk, text, (size_t)n, err));
    NIB_TRY(nib_tokenize(a->engine, text, (size_t)n, NIB_TOKENIZE_NO_BOS, &ids, &n_ids, err));
    const nib_status status = keep_ids(a, ids, n_ids, err);
    nib_free(ids);
    return status;
}

/* The answer to the conversation so far, kept unless nothing came. */
static nib_status reply_talk(reply *a, nib_error *err) {
    begin(a);
    NIB_TRY(conversation(a, err));
    nib_status status = request(a, a->ids, a->n_ids, err);
    if (status == NIB_OK && a->over_budget) {
        a->over_budget = false;
        a->n_reasoned = INT32_MIN; /* once is enough */
        status = close_reasoning(a, err);
        if (status == NIB_OK)
            status = a->n_generated >= bound_of(a) ? end_text(a, err) : request(a, a->ids, a->n_ids, err);
    }
    if (status == NIB_OK || (status == NIB_CANCELLED && a->bytes > 0)) {
        const nib_status kept = talk_keep_answer(&a->talk, err);
        return kept != NIB_OK ? kept : status;
    }
    return status;
}

/* Reads what the calls of the last answer gave, a line each; *all: none is missing. */
static nib_status read_results(reply *a, bool *all, nib_error *err) {
    const size_t n = talk_n_calls(&a->talk);
    char **texts = mem_array(n, sizeof *texts);
    *all = texts != NULL;
    for (size_t i = 0; i < n && *all; i++) {
        const char *text;
        if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
            printf("%s%s gives:%s\n", ui_color(stdout, UI_DIM), talk_call(&a->talk, i),
                   ui_color(stdout, UI_RESET));
        *all = lines_read(a->lines, &text) == LINES_TEXT;
        texts[i] = *all ? mem_copy_text(text, strlen(text)) : NULL;
        *all = texts[i] != NULL;
    }
    nib_status status = *all ? talk_add_results(&a->talk, (const char *const *)texts, n, err) : NIB_OK;
    for (size_t i = 0; texts && i < n; i++)
        mem_free(texts[i]);
    mem_free(texts);
    return status;
}

nib_status reply_turn(reply *a, const char *text, nib_error *err) {
    if (text)
        NIB_TRY(talk_add(&a->talk, "user", text, err));
    for (bool go_on = true; go_on;) {
        const nib_status status = reply_talk(a, err);
        if (status != NIB_OK) {
            if (a->bytes == 0)
                talk_take_back_question(&a->talk);
            return status;
        }
        go_on = a->lines && talk_n_calls(&a->talk) > 0;
        if (go_on)
            NIB_TRY(read_results(a, &go_on, err));
    }
    return NIB_OK;
}

/* ---- JSON ---- */

static const char *finish_reason(const reply *a) {
    if (a->circle)
        return "repetition";
    if (a->chat && talk_n_calls(&a->talk) > 0)
        return "tool_calls";
    return a->event.reason == NIB_END_LENGTH ? "length" : "stop";
}

nib_status reply_print_json(const reply *a, nib_error *err) {
    const nib_event *e = &a->event;
    json_t *message = a->chat ? json_copy((json_t *)talk_last(&a->talk))
                              : json_pack("{s:s, s:s%}", "role", "assistant", "content",
                                          a->text ? a->text : "", a->text ? a->bytes : (size_t)0);
    json_t *all = message
                      ? json_pack("{s:s, s:o, s:s, s:I, s:{s:i, s:i, s:i}, s:{s:f, s:f, s:f}}", "model",
                                  a->options->model, "message", message, "finish_reason", finish_reason(a),
                                  "seed", (json_int_t)a->seed, "tokens", "prompt", e->n_prompt, "cached",
                                  e->n_cached, "generated", a->n_generated, "milliseconds", "queue",
                                  e->queue_ms, "prompt", e->prompt_ms, "generate", e->generate_ms)
                      : NULL;
    char *text = all ? json_dumps(all, JSON_INDENT(1) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(all);
    if (!text)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the answer as JSON");
    puts(text);
    free(text);
    return NIB_OK;
}

void reply_close(reply *a) {
    if (a->lines)
        lines_close(a->lines);
    talk_close(&a->talk);
    mem_free(a->ids);
    mem_free(a->text);
    shapes_close(&a->shapes);
    if (a->engine)
        nib_close(a->engine);
}

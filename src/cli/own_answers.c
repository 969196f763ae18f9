/* SPDX-License-Identifier: Apache-2.0
 *
 * See own_answers.h.
 */
#include "cli/own_answers.h"

#include <string.h>

#include "base/clock.h"
#include "base/json.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "cli/cli.h"
#include "cli/tuned.h"
#include "eval/calibrate.h"

enum { AT_ONCE = 16, LOOK_MS = 200 };

typedef struct talked {
    json_t *whole, *messages; /* messages: of whole, borrowed */
    size_t line;
    bool asks, ended;
    nib_request *request;
    char *answer;
    size_t n_answer;
} talked;

typedef struct answers {
    const own_asked *asked;
    const char *name; /* in sentences */
    talked *talks;    /* [n] */
    size_t n, n_asks, n_asked, n_ended;
    size_t n_tokens; /* of what is answered */
    nib_engine *engine;
    nib_chat *chat;
} answers;

/* ---- the file ---- */

static bool ends_with_user(const json_t *messages) {
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    return role && strcmp(role, "user") == 0;
}

/* A blank line counts. JSON that is no conversation is told by who calibrates with it. */
static nib_status read_line(answers *a, size_t number, const char *line, size_t n, nib_error *err) {
    talked *t = &a->talks[a->n];
    nib_error problem = {{0}};
    t->line = number;
    a->n++;
    while (n > 0 && (*line == ' ' || *line == '\t' || *line == '\r'))
        line++, n--;
    if (n == 0)
        return NIB_OK;
    NIB_TRY(json_read_line(&t->whole, line, n, a->name, number, err));
    t->messages = json_is_object(t->whole) ? json_object_get(t->whole, "messages") : t->whole;
    const nib_status status = chat_check_roles(t->messages, &problem);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s: line %zu: %s", a->name, number, problem.text);
    t->asks = ends_with_user(t->messages);
    a->n_asks += t->asks;
    return NIB_OK;
}

static nib_status read_lines(answers *a, const char *text, size_t bytes, nib_error *err) {
    const char *end = text + bytes;
    size_t n = 1;
    for (const char *p = text; p < end; p++)
        n += *p == '\n';
    a->talks = mem_array(n, sizeof *a->talks);
    if (!a->talks)
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", a->name);
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const size_t length = (size_t)((stop ? stop : end) - text);
        NIB_TRY(read_line(a, line, text, length, err));
        text += length + 1;
    }
    return NIB_OK;
}

static nib_status read_own(answers *a, nib_error *err) {
    a->talks = mem_array(n_calibration_questions, sizeof *a->talks);
    bool whole = a->talks != NULL;
    for (; whole && a->n < n_calibration_questions; a->n++) {
        talked *t = &a->talks[a->n];
        t->whole =
            json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", calibration_questions[a->n]);
        t->messages = json_object_get(t->whole, "messages");
        t->line = a->n + 1;
        t->asks = true;
        whole = t->whole != NULL;
    }
    a->n_asks = a->n;
    return whole ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", a->name);
}

static nib_status read_asked(answers *a, nib_error *err) {
    mapfile map = {0};
    if (!a->asked->path)
        return read_own(a, err);
    NIB_TRY(tuned_open_text(&map, a->asked->path, err));
    const nib_status status = read_lines(a, (const char *)map.bytes, map.size, err);
    mapfile_close(&map);
    return status;
}

static nib_status write_lines(const answers *a, const char *out, nib_error *err) {
    outfile *f;
    NIB_TRY(outfile_open(&f, out, err));
    nib_status status = NIB_OK;
    for (size_t i = 0; i < a->n && status == NIB_OK; i++) {
        const talked *t = &a->talks[i];
        const bool blank = !t->whole || (t->asks && !t->ended); /* and lines keep their numbers */
        char *line = blank ? NULL : json_dumps(t->whole, JSON_COMPACT);
        if (!blank)
            status = line ? outfile_write(f, line, strlen(line), err)
                          : nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", out);
        if (status == NIB_OK)
            status = outfile_write(f, "\n", 1, err);
        json_text_free(line);
    }
    if (status == NIB_OK)
        return outfile_commit(f, err);
    outfile_abandon(f);
    return status;
}

/* ---- the answers ---- */

static nib_status submit(answers *a, talked *t, uint64_t seed, nib_error *err) {
    char *messages = json_dumps(t->messages, JSON_COMPACT);
    int32_t *ids = NULL;
    size_t n = 0;
    if (!messages)
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", a->name);
    const nib_conversation c = {.size = sizeof c, .messages = messages};
    nib_status status = nib_chat_render(a->chat, &c, &ids, &n, NULL, err);
    const nib_sampling sampling = {.size = sizeof sampling,
                                   .temperature = 0.8f,
                                   .top_k = 40,
                                   .top_p = 0.95f,
                                   .min_p = 0.05f,
                                   .seed = seed};
    const nib_request_options o = {.size = sizeof o,
                                   .prompt = ids,
                                   .n_prompt = n,
                                   .max_tokens = OWN_ANSWER_TOKENS,
                                   .sampling = &sampling};
    if (status == NIB_OK) {
        status = nib_submit(a->engine, &o, &t->request, err);
        if (status == NIB_BAD_ARGUMENT) /* longer than an engine reads by default: it has no answer */
            status = NIB_OK;
    }
    nib_free(ids);
    json_text_free(messages);
    return status;
}

static nib_status add_text(talked *t, const char *text, size_t n, nib_error *err) {
    if (n == 0 && t->answer)
        return NIB_OK;
    char *more = mem_resize(t->answer, t->n_answer + n + 1, 1);
    if (!more)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for an answer");
    t->answer = more;
    if (n)
        memcpy(more + t->n_answer, text, n);
    t->n_answer += n;
    more[t->n_answer] = '\0';
    return NIB_OK;
}

/* Until it ends. */
static nib_status follow(answers *a, talked *t, nib_error *err) {
    for (;;) {
        nib_event e = {.size = sizeof e};
        if (cli_interrupted)
            return nib_fail(err, NIB_CANCELLED, "interrupted");
        NIB_TRY(nib_next_event(t->request, &e, LOOK_MS, err));
        if (e.kind == NIB_EVENT_NONE)
            continue;
        NIB_TRY(add_text(t, e.text, e.text_bytes, err));
        if (e.kind == NIB_EVENT_TOKEN)
            continue;
        if (e.reason == NIB_END_FAILED)
            return nib_fail(err, e.status, "%s", e.error);
        t->ended = e.reason == NIB_END_STOP;
        a->n_tokens += t->ended ? (size_t)e.n_prompt + (size_t)e.n_generated : 0;
        break;
    }
    json_t *answer = json_pack("{s:s, s:s}", "role", "assistant", "content", t->answer);
    if (t->ended && (!answer || json_array_append(t->messages, answer) != 0)) {
        json_decref(answer);
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for an answer");
    }
    json_decref(answer);
    return NIB_OK;
}

/* The unanswered ones of talks [FIRST, END). */
static nib_status answer_some(answers *a, size_t first, size_t end, nib_error *err) {
    nib_error problem = {{0}};
    nib_status status = NIB_OK;
    for (size_t i = first; i < end && status == NIB_OK; i++) {
        status = a->talks[i].asks ? submit(a, &a->talks[i], i + 1, &problem) : NIB_OK;
        if (status != NIB_OK)
            nib_fail(err, status, "%s: line %zu: %s", a->name, a->talks[i].line, problem.text);
    }
    for (size_t i = first; i < end; i++) {
        talked *t = &a->talks[i];
        a->n_asked += t->asks;
        if (status == NIB_OK && t->request) {
            status = follow(a, t, err);
            a->n_ended += t->ended;
            const progress p = ui_bar_progress(a->asked->bar);
            progress_report(&p, "answering", a->n_asked, a->n_asks);
        }
        nib_release(t->request);
        t->request = NULL;
    }
    return status;
}

static nib_status answer_all(answers *a, nib_error *err) {
    const nib_options o = {
        .size = sizeof o, .device = "cpu", .threads = a->asked->threads, .max_num_seqs = AT_ONCE};
    NIB_TRY(nib_open(&a->engine, a->asked->in, &o, err));
    nib_error problem = {{0}};
    const nib_status status = nib_chat_open(&a->chat, a->engine, NULL, &problem);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s: conversations need a chat template: %s", a->name, problem.text);
    size_t i = 0;
    for (; i < a->n && a->n_tokens < a->asked->max_tokens; i += AT_ONCE)
        NIB_TRY(answer_some(a, i, i + AT_ONCE < a->n ? i + AT_ONCE : a->n, err));
    a->n = i < a->n ? i : a->n;
    return a->n_ended || !a->asked->path
               ? NIB_OK
               : nib_fail(err, NIB_BAD_ARGUMENT,
                          "%s: none of its questions is answered by %s: each is longer than it reads by "
                          "default, or its answer has no end within %d tokens; expected some",
                          a->name, a->asked->in, OWN_ANSWER_TOKENS);
}

/* ---- what is left out ---- */

/* Who was answered at all fits. */
static bool is_left_out(const talked *t, bool fits) {
    return t->asks && !t->ended && (t->answer != NULL) == fits;
}

/* By their lines: "FILE: left out, WHY: lines 3, 7-9". */
static void tell_left_out(const answers *a, bool fits) {
    size_t n = 0;
    for (size_t i = 0, last; i < a->n; i = last + 1) {
        last = i;
        if (!is_left_out(&a->talks[i], fits))
            continue;
        while (last + 1 < a->n && is_left_out(&a->talks[last + 1], fits))
            last++;
        if (n++)
            fputs(", ", stderr);
        else if (fits)
            fprintf(stderr, "%s: left out, as their answers have no end within %d tokens: lines ", a->name,
                    OWN_ANSWER_TOKENS);
        else
            fprintf(stderr, "%s: left out, as the model reads no more by default: lines ", a->name);
        fprintf(stderr, "%zu", a->talks[i].line);
        if (last > i)
            fprintf(stderr, "-%zu", a->talks[last].line);
    }
    if (n)
        fputc('\n', stderr);
}

nib_status own_answers(const own_asked *asked, own_answered *out, nib_error *err) {
    const double from = clock_seconds();
    answers a = {.asked = asked, .name = asked->path ? asked->path : OWN_QUESTIONS};
    nib_status status = read_asked(&a, err);
    const size_t n_read = a.n;
    if (status == NIB_OK && a.n_asks)
        status = answer_all(&a, err);
    ui_bar_clear(asked->bar);
    for (int fits = 0; status == NIB_OK && asked->path && fits < 2; fits++)
        tell_left_out(&a, fits);
    if (status == NIB_OK && a.n_asked)
        status = write_lines(&a, asked->out, err);
    *out = (own_answered){a.n_asked, a.n_ended, clock_seconds() - from};
    nib_chat_close(a.chat);
    nib_close(a.engine);
    for (size_t i = 0; i < n_read; i++) {
        json_decref(a.talks[i].whole);
        mem_free(a.talks[i].answer);
    }
    mem_free(a.talks);
    return status;
}

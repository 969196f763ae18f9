/* SPDX-License-Identifier: Apache-2.0
 *
 * See own_answers.h.
 */
#include "cli/own_answers.h"

#include <string.h>

#include "base/json.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "cli/cli.h"
#include "cli/tuned.h"

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
    const char *path;
    talked *talks; /* [n] */
    size_t n, n_asked, n_done, n_ended;
    nib_engine *engine;
    nib_chat *chat;
    ui_bar *bar;
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
    nib_status status = json_read(&t->whole, line, n, "this conversation", &problem);
    t->messages = json_is_object(t->whole) ? json_object_get(t->whole, "messages") : t->whole;
    if (status == NIB_OK)
        status = chat_check_roles(t->messages, &problem);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s: line %zu: %s", a->path, number, problem.text);
    t->asks = ends_with_user(t->messages);
    a->n_asked += t->asks;
    return NIB_OK;
}

static nib_status read_lines(answers *a, const char *text, size_t bytes, nib_error *err) {
    const char *end = text + bytes;
    size_t n = 1;
    for (const char *p = text; p < end; p++)
        n += *p == '\n';
    a->talks = mem_array(n, sizeof *a->talks);
    if (!a->talks)
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", a->path);
    for (size_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        const size_t length = (size_t)((stop ? stop : end) - text);
        NIB_TRY(read_line(a, line, text, length, err));
        text += length + 1;
    }
    return NIB_OK;
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
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", a->path);
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
static nib_status follow(talked *t, nib_error *err) {
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
            nib_fail(err, status, "%s: line %zu: %s", a->path, a->talks[i].line, problem.text);
    }
    for (size_t i = first; i < end; i++) {
        talked *t = &a->talks[i];
        if (status == NIB_OK && t->request) {
            status = follow(t, err);
            a->n_ended += t->ended;
            const progress p = ui_bar_progress(a->bar);
            progress_report(&p, "answering", ++a->n_done, a->n_asked);
        }
        nib_release(t->request);
        t->request = NULL;
    }
    return status;
}

static nib_status answer_all(answers *a, const char *in, int threads, nib_error *err) {
    const nib_options o = {.size = sizeof o, .device = "cpu", .threads = threads, .max_num_seqs = AT_ONCE};
    NIB_TRY(nib_open(&a->engine, in, &o, err));
    nib_error problem = {{0}};
    const nib_status status = nib_chat_open(&a->chat, a->engine, NULL, &problem);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s: conversations need a chat template: %s", a->path, problem.text);
    for (size_t i = 0; i < a->n; i += AT_ONCE)
        NIB_TRY(answer_some(a, i, i + AT_ONCE < a->n ? i + AT_ONCE : a->n, err));
    return a->n_ended
               ? NIB_OK
               : nib_fail(err, NIB_BAD_ARGUMENT,
                          "%s: none of its questions is answered by %s: each is longer than it reads by "
                          "default, or its answer has no end within %d tokens; expected some",
                          a->path, in, OWN_ANSWER_TOKENS);
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
            fprintf(stderr, "%s: left out, as their answers have no end within %d tokens: lines ", a->path,
                    OWN_ANSWER_TOKENS);
        else
            fprintf(stderr, "%s: left out, as the model reads no more by default: lines ", a->path);
        fprintf(stderr, "%zu", a->talks[i].line);
        if (last > i)
            fprintf(stderr, "-%zu", a->talks[last].line);
    }
    if (n)
        fputc('\n', stderr);
}

nib_status own_answers(const char *path, const char *in, int threads, const char *out, ui_bar *bar, size_t *n,
                       size_t *n_ended, nib_error *err) {
    answers a = {.path = path, .bar = bar};
    mapfile map = {0};
    NIB_TRY(tuned_open_text(&map, path, err));
    nib_status status = read_lines(&a, (const char *)map.bytes, map.size, err);
    if (status == NIB_OK && a.n_asked)
        status = answer_all(&a, in, threads, err);
    ui_bar_clear(bar);
    for (int fits = 0; status == NIB_OK && fits < 2; fits++)
        tell_left_out(&a, fits);
    if (status == NIB_OK && a.n_asked)
        status = write_lines(&a, out, err);
    *n = a.n_asked;
    *n_ended = a.n_ended;
    nib_chat_close(a.chat);
    nib_close(a.engine);
    for (size_t i = 0; i < a.n; i++) {
        json_decref(a.talks[i].whole);
        mem_free(a.talks[i].answer);
    }
    mem_free(a.talks);
    mapfile_close(&map);
    return status;
}

/* SPDX-License-Identifier: Apache-2.0
 *
 * See tell.h.
 */
#include "serve/tell.h"

#include "base/clock.h"
#include "base/mem.h"

/* What has come becomes part of the answer, and is told where T is a stream. */
static void take_news(teller *t) {
    answer *r = t->answer;
    if (!t->words->news) {
        blocks_take(&t->blocks, &r->choices[0]);
        return;
    }
    for (size_t i = 0; i < r->n_choices; i++)
        if (t->out)
            t->words->news(t, &r->choices[i]);
        else
            answer_told_pieces(&r->choices[i]);
}

/* ---- streams ---- */

/* Whether nothing was said for the interval: time for a sign of life, so that nobody on the way gives up. */
static bool ping_is_due(answer *r, const buf *out) {
    const double now = clock_seconds();
    const bool due = out->n == 0 && now - r->told_at >= r->server->options.ping_seconds;
    if (due || out->n > 0)
        r->told_at = now;
    return due;
}

static void ping(teller *t) {
    if (t->words->ping)
        t->words->ping(t);
    else
        buf_text(t->out, ":\n\n");
}

static bool next_piece(stream *base, buf *out) {
    teller *t = (teller *)base;
    t->out = out;
    if (t->over)
        return false;
    if (t->words->begin && !t->begun) {
        t->words->begin(t);
        t->begun = true;
        return true;
    }
    t->over = !answer_wait(t->answer, 1000 * t->answer->server->options.ping_seconds);
    if (t->answer->error.kind == API_NO_ERROR)
        take_news(t);
    if (t->over)
        t->words->end(t);
    else if (ping_is_due(t->answer, out))
        ping(t);
    out->failed |= t->blocks.failed;
    return true;
}

static void close_teller(stream *base) {
    teller *t = (teller *)base;
    answer_close(t->answer);
    blocks_free(&t->blocks);
    mem_free(t);
}

/* ---- the route ---- */

static bool start(exchange *x, teller *t, api_error *e) {
    const tell_words *w = t->words;
    return answer_read(&t->answer, x, w->read, w->id_prefix, e) && w->add(t->answer, e) &&
           answer_start(t->answer, e);
}

static void reply_whole(exchange *x, teller *t) {
    answer *r = t->answer;
    while (answer_wait(r, 1000))
        take_news(t);
    if (r->error.kind == API_NO_ERROR)
        take_news(t);
    if (t->blocks.failed)
        ask_no_memory(&r->error);
    answer_choose(r);
    if (r->error.kind == API_NO_ERROR)
        http_reply_json(x, 200, t->words->whole(t));
    else
        http_reply_error(x, &r->error);
}

void tell(exchange *x, const tell_words *words) {
    teller *t = mem_array(1, sizeof *t);
    if (!t) {
        ask_no_memory(&x->error);
        http_reply_error(x, &x->error);
        return;
    }
    *t = (teller){.base = {next_piece, close_teller}, .words = words};
    if (!start(x, t, &x->error)) {
        http_reply_error(x, &x->error);
    } else if (t->answer->ask.stream) {
        t->blocks = (blocks){
            .begin = words->begin_block, .more = words->more_of_block, .end = words->end_block, .context = t};
        http_reply_stream(x, "text/event-stream", &t->base);
        return;
    } else {
        reply_whole(x, t);
    }
    close_teller(&t->base);
}
